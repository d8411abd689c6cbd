"""What happens when a device has no more memory."""

import torch

from vipo_cli.errors import VipoError
from vipo_cli.recipe import Recipe
from vipo_cli.training.precision import keep_less
from vipo_cli.training.setup import Setup

Way = tuple[int, bool]
"""How updates are made to fit: records that go through the model at once, and whether activations
are computed again."""


def way_of(setup: Setup) -> Way:
    """Return how updates are made now."""
    return setup.micro_batch, setup.checkpointing


def go_way(setup: Setup, way: Way) -> None:
    """Let updates need no more memory from here on than they did when they were made in some way.

    What is learnt rounds the same in the same way: a resumed run takes that of its checkpoint, even
    if there is more memory now.
    """
    micro_batch, checkpointing = way
    setup.micro_batch = min(setup.micro_batch, micro_batch)
    if checkpointing and not setup.checkpointing:
        setup.checkpointing, setup.room = True, setup.micro_batch
        keep_less(getattr(setup.family.pipeline, setup.family.denoiser_name))


def need_less(setup: Setup) -> bool:
    """Let updates need less memory from here on; return whether there was still a way.

    Half as many records go through the model at once; where that is one already and the recipe
    leaves it open, activations are computed again.
    """
    before = way_of(setup)
    micro_batch, checkpointing = before
    if micro_batch > 1:
        go_way(setup, (micro_batch // 2, checkpointing))
    elif setup.recipe.model.checkpointing == "auto":
        go_way(setup, (1, True))
    return way_of(setup) != before


def too_much(recipe: Recipe, micro_batch: int) -> VipoError:
    """Return the error for an update that the device has no memory for."""
    records, fewer = "one record", ""
    if micro_batch > 1:
        records = f"{micro_batch} records at once"
        fewer = f"--set optimizer.micro_batch={micro_batch // 2}; or "
    return VipoError(
        f"the device has not enough memory for {records} of an update of `{recipe.model.name}`",
        hint=fewer + ways_to_need_less(recipe),
    )


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error says that a device has no more memory."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def ways_to_need_less(recipe: Recipe) -> str:
    """Return settings that need less memory, those that change least first."""
    model, optimizer = recipe.model, recipe.optimizer
    ways = {
        "model.precision=bf16": model.precision == "fp32",
        "model.checkpointing=on": model.checkpointing == "off",
        "optimizer.micro_batch=1": (optimizer.micro_batch or 1) > 1,
        "optimizer.backward=decoupled": optimizer.backward == "joint",
        "model.train=lora": model.train == "full",
        "optimizer.name=adafactor": model.train == "full" and optimizer.name == "adamw",
        "data.size=[512,512]": True,
    }
    return "less does with: " + ", ".join(f"--set {way}" for way, helps in ways.items() if helps)
