"""Which prompts validation samples are drawn for, and how many a run can afford."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vipo_cli.errors import RecipeError
from vipo_cli.models import Family, find_model
from vipo_cli.models.parts import encoder_parts, fingerprint_parts, load_parts, release_parts
from vipo_cli.recipe import Recipe
from vipo_cli.run import Progress, Work, cache_home, fingerprint, write_json, writing
from vipo_cli.training.arrays import ArrayStore, RaggedArray, open_arrays
from vipo_cli.training.cache import EncodedData, named
from vipo_cli.training.devices import main_first
from vipo_cli.training.encoding import PROMPTS

Rows = NDArray[np.int64]

SAMPLES = 8
"""Prompts that samples are drawn for unless the recipe says how many."""
AFFORDED = 0.05
"""Share of a run's forward passes that samples may take unless the recipe asks for more."""
PASSES = 8
"""Forward passes that a pair costs: winner and loser, by policy and reference, and backward."""


@dataclass(frozen=True)
class Prompts:
    """Prompts that samples are drawn for.

    Attributes:
        texts: the prompts.
        conditions: arrays that hold their embeddings, by name.
        rows: which rows of these are theirs, (n,).
        shapes: of the latents that are drawn for each.
    """

    texts: tuple[str, ...]
    conditions: dict[str, RaggedArray]
    rows: Rows
    shapes: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True, slots=True)
class Sampler:
    """How samples are drawn: denoising steps and guidance scale."""

    steps: int
    guidance: float

    @property
    def passes(self) -> int:
        """Forward passes for one sample."""
        return self.steps * (2 if self.guidance > 1 else 1)


def sampler_of(recipe: Recipe) -> Sampler:
    """Return how a recipe samples: as its loop says, else as the model wants."""
    spec, loop = find_model(recipe.model.name), recipe.loop
    guidance = spec.guidance if loop.guidance is None else loop.guidance
    return Sampler(loop.sampling_steps or spec.sampling_steps, guidance)


def sample_count(recipe: Recipe) -> int:
    """Return how many prompts samples are drawn for.

    Where the recipe does not say, there are eight, or as many as a twentieth of the run's work
    pays for; of prompts that it gives, all.
    """
    if recipe.run.samples is not None:
        return recipe.run.samples
    own = own_prompts(recipe)
    if own is not None:
        return len(own)
    run = recipe.run
    times = 1 + -(-run.steps // run.held_out_every)
    work = PASSES * recipe.optimizer.batch_size * run.steps
    return min(SAMPLES, int(AFFORDED * work / (times * sampler_of(recipe).passes)))


def own_prompts(recipe: Recipe) -> tuple[str, ...] | None:
    """Return the prompts that a recipe gives itself, or None.

    Raises:
        RecipeError: a file that cannot be read, or no prompt in it.
    """
    given = recipe.run.sample_prompts
    if given is None:
        return None
    if isinstance(given, str):
        try:
            given = tuple(Path(given).read_text(encoding="utf-8").splitlines())
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(
                f"run.sample_prompts: cannot read `{recipe.run.sample_prompts}`",
                hint="a text file with one prompt a line, or a list of prompts",
            ) from error
    prompts = tuple(dict.fromkeys(text.strip() for text in given if text.strip()))
    if not prompts:
        raise RecipeError("run.sample_prompts: holds no prompt", hint="leave it out")
    return prompts[: recipe.run.samples]


def encode_own(
    recipe: Recipe, family: Family, *, dtype: torch.dtype, device: torch.device
) -> Work[dict[str, RaggedArray] | None]:
    """Return the embeddings of a recipe's own prompts, or None where it has none.

    They are kept, so that the encoders are loaded for them once.
    """
    texts = own_prompts(recipe)
    if texts is None or not sample_count(recipe):
        return None
    return (yield from main_first(partial(_encode, family, texts, dtype=dtype, device=device)))


def _encode(
    family: Family, texts: Sequence[str], *, dtype: torch.dtype, device: torch.device
) -> Work[dict[str, RaggedArray]]:
    encoders = [part for part in encoder_parts(family) if part != "vae"]
    key = {
        "texts": texts,
        "encoders": fingerprint_parts(family, encoders),
        "type": str(dtype),
    }
    folder = cache_home() / "prompts" / fingerprint(key)
    if not (folder / "index.json").is_file():
        yield Progress("loading the encoders", 0, 1)
        load_parts(family, encoders, dtype=dtype, device=device)
        with writing(folder) as temporary:
            temporary.mkdir(parents=True)
            store = ArrayStore(temporary)
            for first in range(0, len(texts), PROMPTS):
                with torch.no_grad():
                    condition = family.encode_prompts(list(texts[first : first + PROMPTS]))
                for name, values in condition.items():
                    store.append(f"condition.{name}", values)
            store.complete()
            write_json(temporary / "index.json", {"texts": texts})
    release_parts(family, encoders)
    return named(open_arrays(folder), "condition.")


def choose_prompts(
    recipe: Recipe, encoded: EncodedData, held_out: Rows, own: dict[str, RaggedArray] | None
) -> Prompts | None:
    """Return what samples are drawn for: the recipe's own prompts, or some of those kept back.

    Of these every so many-th is taken, so that they are spread over the data; where nothing is kept
    back, of all. Samples for own prompts are of the commonest size.

    Args:
        recipe: says how many.
        encoded: the data.
        held_out: the records that are kept back.
        own: embeddings of the recipe's own prompts.
    """
    count = sample_count(recipe)
    if not count:
        return None
    texts = own_prompts(recipe)
    if texts is not None:
        assert own is not None
        usual = int(np.argmax(encoded.bucket == np.bincount(encoded.bucket).argmax()))
        rows = np.arange(len(texts))
        return Prompts(texts, own, rows, (encoded.shape(usual),) * len(texts))
    records = np.sort(held_out) if len(held_out) else np.arange(len(encoded))
    _, first = np.unique(encoded.prompt[records], return_index=True)
    distinct = records[first]
    count = min(count, len(distinct))
    chosen = distinct[np.arange(count) * len(distinct) // count]
    rows = encoded.prompt[chosen]
    return Prompts(
        tuple(encoded.texts[row] for row in rows),
        encoded.conditions,
        rows,
        tuple(encoded.shape(int(record)) for record in chosen),
    )
