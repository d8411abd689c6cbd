"""From a recipe and its data to a run that is ready for its first step."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from vipo_cli.data.lazy import data_fingerprint
from vipo_cli.data.record import Record
from vipo_cli.models import Family, open_family
from vipo_cli.recipe import Recipe
from vipo_cli.run import Progress, Work
from vipo_cli.training.adapters import check_adapters
from vipo_cli.training.buckets import buckets_of
from vipo_cli.training.cache import EncodedData, encode
from vipo_cli.training.cached import measure_references
from vipo_cli.training.devices import after_main, from_main, main_first, start_accelerator
from vipo_cli.training.memory import fit, foresee
from vipo_cli.training.out_of_memory import go_way
from vipo_cli.training.precision import set_up
from vipo_cli.training.prompts import choose_prompts, encode_own
from vipo_cli.training.rounds import prepare_loop
from vipo_cli.training.setup import Setup, assemble, frozen_type, load_denoiser, networks, split


def prepare(recipe: Recipe, records: Sequence[Record], run: Path) -> Work[Setup]:
    """Load the model, encode the records, and measure what never changes.

    Args:
        recipe: what is asked for.
        records: the data.
        run: the run's directory, where a loop keeps what it samples.

    Raises:
        DataError: records that the objective cannot use, or too few of them.
    """
    accelerator = start_accelerator(recipe)
    family = after_main(partial(open_family, recipe.model.name))
    family.guidance = recipe.model.guidance
    start = after_main(partial(check_adapters, recipe, family, run))
    foreseen = from_main(partial(foresee, recipe, family, accelerator, start))
    own = yield from encode_own(
        recipe, family, dtype=frozen_type(recipe), device=accelerator.device
    )
    encoded = yield from encode_records(recipe, family, records, accelerator.device)
    kept_back = split(encoded.prompt, recipe.data.held_out)[1]
    if len(kept_back) < recipe.data.held_out:
        yield _few(len(encoded), len(kept_back), recipe.data.held_out)
    chosen = from_main(partial(fit, recipe, family, encoded, accelerator, start, foreseen))
    yield Progress("loading the model", 0, 1)
    load_denoiser(recipe, family, accelerator)
    setup = assemble(recipe, family, encoded, accelerator, start)
    go_way(setup, (chosen.micro_batch, chosen.checkpointing))
    setup.room = chosen.room
    for network in networks(setup):
        set_up(recipe, network, accelerator.device)
    setup.prompts = choose_prompts(recipe, encoded, kept_back, own)
    if recipe.loop.kind == "offline":
        yield from measure_references(setup)
    else:
        yield from prepare_loop(setup, run)
    return setup


def encode_records(
    recipe: Recipe, family: Family, records: Sequence[Record], device: torch.device
) -> Work[EncodedData]:
    """Return records as a recipe's model sees them, from the cache or put there now.

    Raises:
        DataError: too many broken records, none that is whole, or records of several kinds.
    """
    return main_first(
        partial(
            encode,
            family,
            records,
            data_fingerprint(records),
            recipe.data.broken_limit,
            buckets_of(family, recipe.data),
            dtype=frozen_type(recipe),
            device=device,
        )
    )


def _few(records: int, kept_back: int, wanted: int) -> Progress:
    """Say that there are too few records to keep back as many as the recipe says."""
    return Progress(
        "loading the model",
        0,
        1,
        warning=f"of {records:,} records {kept_back:,} kept back to be measured, not "
        f"{wanted:,} (data.held_out)",
    )
