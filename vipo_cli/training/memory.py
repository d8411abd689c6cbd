"""What fits into memory: records that go through the model at once, and whether activations stay.

What an update needs is counted on paper (`cost`) before any weight is read. A model small enough
never to be short of memory is not counted.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vipo_cli.errors import VipoError
from vipo_cli.models.family import Family
from vipo_cli.models.lora_files import Lora
from vipo_cli.models.sample import size_of
from vipo_cli.recipe import Recipe
from vipo_cli.training.cache import EncodedData
from vipo_cli.training.cost import Cost, Encodings, measure_cost
from vipo_cli.training.optimizers import STATE
from vipo_cli.training.out_of_memory import ways_to_need_less

SMALL = 10**8
"""Weights of a denoiser that is not worth counting."""
MARGIN = 1.15
"""What is needed is at least this many times what was counted: allocators leave gaps."""


@dataclass(frozen=True, slots=True)
class Fit:
    """How an update is made to fit.

    Attributes:
        micro_batch: records that go through the model at once.
        checkpointing: whether activations are computed again instead of being kept.
        needed: bytes of an update, as counted; None where nothing was counted.
        available: bytes that are free for it.
        cost: what was counted.
    """

    micro_batch: int
    checkpointing: bool
    needed: int | None = None
    available: int | None = None
    cost: Cost | None = None


def fit(
    recipe: Recipe,
    family: Family,
    encoded: EncodedData,
    accelerator: Any,
    start: Lora | None = None,
) -> Fit:
    """Choose what the recipe leaves open, for the largest of the encoded pictures or clips.

    Args:
        recipe: what is asked for.
        family: opened, its denoiser without weights.
        encoded: the data.
        accelerator: on whose device it has to fit.
        start: the LoRA that training goes on from.

    Raises:
        VipoError: not even one record fits.
    """
    chosen, model = recipe.optimizer, recipe.model
    told = chosen.micro_batch is not None and model.checkpointing != "auto"
    if told or is_small(family):
        return Fit(_asked(recipe, accelerator), model.checkpointing == "on")
    items = max(2, encoded.items.shape[1])
    return choose(recipe, family, _largest(family, encoded), items, accelerator, start)


def is_small(family: Family) -> bool:
    """Return whether a model is too small to be short of memory."""
    return sum(weight.numel() for weight in family.denoiser.parameters()) < SMALL


def _asked(recipe: Recipe, accelerator: Any) -> int:
    share: int = recipe.optimizer.batch_size // accelerator.num_processes
    return min(recipe.optimizer.micro_batch or share, share)


def choose(
    recipe: Recipe,
    family: Family,
    looks: Encodings,
    items: int,
    accelerator: Any,
    start: Lora | None = None,
) -> Fit:
    """Choose as many records at once as fit, their activations kept where that leaves room for one.

    Args:
        recipe: what is asked for.
        family: opened, its denoiser without weights.
        looks: what the records look like.
        items: how many items a record has.
        accelerator: on whose device it has to fit.
        start: the LoRA that training goes on from.

    Raises:
        VipoError: not even one record fits.
    """
    chosen, model = recipe.optimizer, recipe.model
    asked, processes = _asked(recipe, accelerator), accelerator.num_processes
    available = free_memory(accelerator.device)
    if accelerator.device.type == "cpu":
        available //= processes
    settings = {"on": (True,), "off": (False,), "auto": (False, True)}[model.checkpointing]
    least = 0
    for checkpointing in settings:
        cost = measure_cost(
            recipe,
            family,
            looks,
            items=items,
            checkpointing=checkpointing,
            start=start,
            device=accelerator.device.type,
        )
        fixed = sum(standing(recipe, cost, processes).values())
        records = int((available / MARGIN - fixed) // max(1, cost.each))
        records = min(records, asked)
        least = int(MARGIN * (fixed + cost.each * (chosen.micro_batch or 1)))
        if records >= (asked if chosen.micro_batch else 1):
            needed = int(MARGIN * (fixed + cost.each * records))
            return Fit(records, checkpointing, needed, available, cost)
    raise VipoError(
        f"an update of `{model.name}` needs about {least / 1e9:.1f} GB, "
        f"and {available / 1e9:.1f} GB are free",
        hint=ways_to_need_less(recipe) or "a device with more memory",
    )


def _largest(family: Family, encoded: EncodedData) -> Encodings:
    """Return what the largest of the encoded pictures or clips looks like."""
    row = int(np.prod(encoded.mean.shapes, axis=1).argmax())
    one = np.array([row])
    return Encodings(
        size=size_of(family, encoded.mean.shape(row)),
        latents=encoded.mean.shape(row),
        condition=encoded.condition(np.array([-1])),
        media_condition=encoded.media_condition(one),
        media_flops=0,
        prompt_flops=0,
        media_peak=0,
        encoder_weights=0,
        decoder_weights=0,
    )


SHARED_OUT = {
    "none": (),
    "fsdp": ("weights", "gradients", "optimizer", "reference"),
    "zero2": ("gradients", "optimizer"),
    "zero3": ("weights", "gradients", "optimizer"),
}
"""What each process holds but its share of."""


def standing(recipe: Recipe, cost: Cost, processes: int) -> dict[str, int]:
    """Return the bytes that an update needs whatever the number of records, by part.

    Where weights are shared out, all of one block lie together for a while: the margin is for that.
    """
    parts = {
        "weights": cost.weights,
        "gradients": 4 * cost.trained,
        "optimizer": int(STATE[recipe.optimizer.name] * cost.trained),
        "reference": cost.reference,
        "activations": cost.fixed,
    }
    return {
        name: size // (processes if name in SHARED_OUT[recipe.run.sharding] else 1)
        for name, size in parts.items()
    }


def free_memory(device: torch.device) -> int:
    """Return the bytes that are free on a device; on a CPU, what the system or a container has."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min(_free_in_system(), _free_in_container())


def _free_in_system() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # not a Linux
        return 2**62
    found = dict(line.split(":") for line in lines)
    return int(found["MemAvailable"].split()[0]) * 1024


def _free_in_container() -> int:
    place = Path("/sys/fs/cgroup")
    try:
        limit, used = (
            (place / f"memory.{what}").read_text().strip() for what in ("max", "current")
        )
    except OSError:
        return 2**62
    return 2**62 if limit == "max" else int(limit) - int(used)
