"""From a recipe to all that a step needs: model, adapters, reference, pairs, optimizer."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, get_type_hints

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vipo_cli.data.lazy import data_fingerprint
from vipo_cli.data.pair import PreferencePair
from vipo_cli.errors import DataError, VipoError
from vipo_cli.models import Family, load_family
from vipo_cli.objectives import PairErrors, objectives
from vipo_cli.recipe import Recipe
from vipo_cli.run import Work
from vipo_cli.training.cache import EncodedPairs, encode_pairs
from vipo_cli.training.checkpoint import trainable
from vipo_cli.training.reference import Reference, adapter_off, frozen_copy


@dataclass
class Setup:
    """All that a run works with.

    Attributes:
        recipe: what was asked for.
        family: the model; its denoiser is the policy.
        reference: gives the model as it was before training; None for objectives without one.
        objective: the loss, its parameters filled in.
        on_pairs: whether the objective compares winner and loser, or sees winners alone.
        pairs: the encoded data.
        train, held_out: numbers of the pairs that are learnt from and that are kept back.
        optimizer: over the trainable weights.
        average: moving average of the trainable weights, or None.
        accelerator: devices, precision, processes.
    """

    recipe: Recipe
    family: Family
    reference: Reference | None
    objective: Callable[..., Tensor]
    on_pairs: bool
    pairs: EncodedPairs
    train: NDArray[np.int64]
    held_out: NDArray[np.int64]
    optimizer: torch.optim.Optimizer
    average: dict[str, Tensor] | None
    accelerator: Any


def takes_pairs(method: str) -> bool:
    """Tell whether an objective compares winner and loser: its first argument says so."""
    return next(iter(get_type_hints(objectives[method]).values())) is PairErrors


def prepare(recipe: Recipe, pairs: Sequence[PreferencePair]) -> Work[Setup]:
    """Load the model, encode the pairs, and set up what is trained.

    Raises:
        DataError: pairs that the objective cannot use, or too few of them.
    """
    accelerator = start_accelerator(recipe)
    family = load_frozen(recipe, accelerator)
    encoded = yield from encode_pairs(
        family, pairs, data_fingerprint(pairs), recipe.data.broken_limit
    )
    return assemble(recipe, family, encoded, accelerator)


def start_accelerator(recipe: Recipe) -> Any:
    """Return accelerate's view of devices, processes and precision.

    Raises:
        VipoError: started on several processes, which nothing here has been tested on.
    """
    from accelerate import Accelerator

    accelerator = Accelerator(mixed_precision="bf16" if recipe.model.precision == "bf16" else "no")
    if accelerator.num_processes > 1:
        raise VipoError(
            f"training on {accelerator.num_processes} processes is not supported yet",
            hint="start vipo train by itself, without a launcher",
        )
    return accelerator


def load_frozen(recipe: Recipe, accelerator: Any) -> Family:
    """Load the model on the device, nothing of it trainable yet."""
    family = load_family(recipe.model.name)
    for module in family.pipeline.components.values():
        if isinstance(module, torch.nn.Module):
            module.requires_grad_(False).eval().to(accelerator.device)
    return family


def assemble(recipe: Recipe, family: Family, encoded: EncodedPairs, accelerator: Any) -> Setup:
    """Set up what is trained, on pairs that are encoded already.

    Raises:
        DataError: pairs that the objective cannot use, or too few of them.
    """
    on_pairs = takes_pairs(recipe.objective.method)
    if on_pairs and (encoded.loser < 0).any():
        raise DataError(
            f"`{recipe.data.name}` holds pictures without losers, and method "
            f"`{recipe.objective.method}` compares pairs",
            hint="use --method sft, or data with losers",
        )
    train, held_out = split(encoded.prompt, recipe.data.held_out)
    reference = _make_trainable(family, recipe, on_pairs)
    optimizer = torch.optim.AdamW(
        trainable(family).values(),
        lr=recipe.optimizer.learning_rate,
        weight_decay=recipe.optimizer.weight_decay,
    )
    average = None
    if recipe.model.ema:
        average = {name: value.detach().clone() for name, value in trainable(family).items()}
    family.denoiser, optimizer = accelerator.prepare(family.denoiser, optimizer)
    return Setup(
        recipe=recipe,
        family=family,
        reference=reference,
        objective=partial(objectives[recipe.objective.method], **recipe.objective.parameters),
        on_pairs=on_pairs,
        pairs=encoded,
        train=train,
        held_out=held_out,
        optimizer=optimizer,
        average=average,
        accelerator=accelerator,
    )


def _make_trainable(family: Family, recipe: Recipe, referenced: bool) -> Reference | None:
    """Choose the weights that are trained, and give the reference that belongs to them."""
    if recipe.model.train == "full":
        reference = frozen_copy(family) if referenced else None
        family.denoiser.requires_grad_(True)
        return reference
    from peft import LoraConfig

    with torch.random.fork_rng():  # peft draws LoRA's start from the global generator
        torch.manual_seed(recipe.run.seed)
        config = LoraConfig(
            r=recipe.model.rank,
            lora_alpha=recipe.model.rank,
            target_modules=list(family.lora_targets),
        )
        family.denoiser.add_adapter(config)  # type: ignore[operator]
    return adapter_off(family, family.denoiser) if referenced else None


def split(prompts: NDArray[np.int64], held_out: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divide pairs into those learnt from and those kept back, never sharing a prompt.

    Whole prompts are kept back, in an order that no run's seed changes, until `held_out` pairs are
    reached.

    Raises:
        DataError: nothing would be left to learn from.
    """
    order = np.random.default_rng(0).permutation(int(prompts.max()) + 1)
    rank = np.argsort(order)[prompts]
    counts = np.cumsum(np.bincount(rank))
    chosen = int(np.searchsorted(counts, held_out)) + 1 if held_out else 0
    kept_back = rank < chosen
    if kept_back.all():
        raise DataError(
            f"{len(prompts):,} pairs over {len(counts):,} prompts are too few to keep "
            f"{held_out:,} pairs back",
            hint="--set data.held_out=0 trains on all of them",
        )
    return np.flatnonzero(~kept_back), np.flatnonzero(kept_back)


def learning_rate(recipe: Recipe, step: int) -> float:
    """Return the learning rate of an update, counted from 0."""
    optimizer = recipe.optimizer
    if step < optimizer.warmup_steps:
        return optimizer.learning_rate * (step + 1) / optimizer.warmup_steps
    if optimizer.decay == "constant":
        return optimizer.learning_rate
    rest = max(1, recipe.run.steps - optimizer.warmup_steps)
    return (
        optimizer.learning_rate
        * 0.5
        * (1 + math.cos(math.pi * (step - optimizer.warmup_steps) / rest))
    )
