"""What fits into memory: records that go through the model at once, and whether activations stay.

What an update needs is counted on paper (`cost`): once before anything is encoded, so that a device
that is too small is told at once, and again for the largest of what was encoded where that differs.
A model small enough never to be short of memory is not counted.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vipo_cli.errors import VipoError
from vipo_cli.models.family import Family
from vipo_cli.models.lora_files import Lora
from vipo_cli.models.sample import size_of
from vipo_cli.recipe import Recipe
from vipo_cli.training.buckets import buckets_of
from vipo_cli.training.cache import EncodedData
from vipo_cli.training.cost import Cost, Encodings, encodings, measure_cost
from vipo_cli.training.out_of_memory import ways_to_need_less
from vipo_cli.training.setup import frozen_type

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
        room: records that would fit at once if a batch had as many; None where nobody has to ask.
        needed: bytes of an update, as counted; None where nothing was counted.
        available: bytes that are free for it.
        cost: what was counted.
        counted_for: latents and number of a record's pictures or clips that were counted.
    """

    micro_batch: int
    checkpointing: bool
    room: int | None = None
    needed: int | None = None
    available: int | None = None
    cost: Cost | None = None
    counted_for: tuple[tuple[int, ...], int] | None = None


def foresee(
    recipe: Recipe, family: Family, accelerator: Any, start: Lora | None = None
) -> Fit | None:
    """Choose before anything is encoded: for pairs of pictures, or of the shortest clips.

    Args:
        recipe: what is asked for.
        family: opened, its networks without weights.
        accelerator: on whose device it has to fit.
        start: the LoRA that training goes on from.

    Returns:
        None where nothing is counted.

    Raises:
        VipoError: not even one record fits.
    """
    if _is_told(recipe) or is_small(family):
        return None
    size = buckets_of(family, recipe.data).sizes[0]
    if family.frame_stride:
        size = replace(size, frames=1 + family.frame_stride)
    try:
        looks = encodings(family, size, frozen_type(recipe))
        return choose(recipe, family, looks, 2, accelerator, start)
    except RuntimeError:  # it looks at values, which paper has none of
        return None


def fit(
    recipe: Recipe,
    family: Family,
    encoded: EncodedData,
    accelerator: Any,
    start: Lora | None = None,
    foreseen: Fit | None = None,
) -> Fit:
    """Choose what the recipe leaves open, for the largest of the encoded pictures or clips.

    Args:
        recipe: what is asked for.
        family: opened, its denoiser without weights.
        encoded: the data.
        accelerator: on whose device it has to fit.
        start: the LoRA that training goes on from.
        foreseen: what was chosen before the data were known.

    Raises:
        VipoError: not even one record fits.
    """
    asked, checkpointing = _asked(recipe, accelerator), recipe.model.checkpointing == "on"
    if is_small(family):
        return Fit(asked, checkpointing)
    looks, items = _largest(family, encoded), max(2, encoded.items.shape[1])
    if foreseen is not None and foreseen.counted_for == (looks.latents, items):
        return foreseen
    uncounted = Fit(asked, checkpointing, room=0)
    if _is_told(recipe):
        return uncounted
    try:
        return choose(recipe, family, looks, items, accelerator, start)
    except RuntimeError:  # as above; the first updates show what fits
        return uncounted


def _is_told(recipe: Recipe) -> bool:
    """Return whether a recipe leaves nothing open."""
    return recipe.optimizer.micro_batch is not None and recipe.model.checkpointing != "auto"


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
        room = int((available / MARGIN - fixed) // max(1, cost.each))
        records = min(room, asked)
        least = int(MARGIN * (fixed + cost.each * (chosen.micro_batch or 1)))
        if records >= (asked if chosen.micro_batch else 1):
            needed = int(MARGIN * (fixed + cost.each * records))
            counted = looks.latents, items
            return Fit(records, checkpointing, room, needed, available, cost, counted)
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
        "optimizer": cost.optimizer,
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


def _free_in_container(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Return what the container's limit leaves, in the second or the first version of cgroups.

    What it holds of files alone it gives back whenever it must, so that is free too.
    """
    names = {
        root: ("memory.max", "memory.current", "inactive_file"),
        root / "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    }
    free = 2**62
    for place, (limit, used, files) in names.items():
        try:
            told, taken = ((place / name).read_text().strip() for name in (limit, used))
            counts = dict(line.split() for line in (place / "memory.stat").read_text().splitlines())
        except OSError:
            continue
        if told != "max":
            free = min(free, int(told) - int(taken) + int(counts.get(files, 0)))
    return free
