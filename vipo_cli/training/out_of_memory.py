"""What happens when a device has no more memory."""

import torch

from vipo_cli.errors import VipoError
from vipo_cli.recipe import Recipe


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
