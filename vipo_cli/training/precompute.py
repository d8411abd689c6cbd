"""Fill the cache of latents and prompt embeddings before training, just as training would."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vipo_cli.data.record import Record
from vipo_cli.data.sources import open_pairs
from vipo_cli.models import Family, open_family
from vipo_cli.recipe import Recipe
from vipo_cli.run import Work, cache_home
from vipo_cli.training.buckets import buckets_of
from vipo_cli.training.cost import encodings
from vipo_cli.training.devices import start_accelerator
from vipo_cli.training.prepare import encode_records
from vipo_cli.training.setup import frozen_type


@dataclass(frozen=True, slots=True)
class Filling:
    """What is to be encoded.

    Attributes:
        recipe: says for which model, in which sizes and types.
        family: that model; its weights are not read yet.
        records: the data.
        most_bytes: that the cache can take; media that stand in several records are kept once.
    """

    recipe: Recipe
    family: Family
    records: Sequence[Record]
    most_bytes: int


@dataclass(frozen=True, slots=True)
class Filled:
    """A cache that training can start from.

    Attributes:
        folder: where it lies.
        records: that can be trained on.
        broken: records that cannot.
        media, prompts: distinct ones.
        bytes: on disk.
        seconds: that encoding took; 0 where everything was there already.
    """

    folder: Path
    records: int
    broken: int
    media: int
    prompts: int
    bytes: int
    seconds: float


def open_filling(recipe: Recipe) -> Filling:
    """Open the data and the model of a recipe, and count what their cache will take at most.

    Raises:
        VipoError: data or a model that cannot be used.
    """
    records = open_pairs(recipe.data.name, recipe.data.parameters)
    family = open_family(recipe.model.name)
    size = buckets_of(family, recipe.data).sizes[0]
    looks = encodings(family, size, frozen_type(recipe))
    each = len(records[0].media) * looks.bytes_a_picture + looks.bytes_a_prompt
    return Filling(recipe, family, records, len(records) * each)


def fill(filling: Filling) -> Work[Filled]:
    """Encode what is not in the cache yet.

    Raises:
        DataError: too many broken records, none that is whole, or records of several kinds.
    """
    recipe, started = filling.recipe, time.time()
    device = start_accelerator(recipe).device
    encoded = yield from encode_records(recipe, filling.family, filling.records, device)
    folder = cache_home() / "pairs" / encoded.fingerprint
    fresh = (folder / "index.json").stat().st_mtime >= started
    return Filled(
        folder=folder,
        records=len(encoded),
        broken=len(encoded.broken),
        media=len(encoded.mean),
        prompts=len(encoded.texts) - 1,
        bytes=sum(file.stat().st_size for file in folder.iterdir()),
        seconds=time.time() - started if fresh else 0.0,
    )
