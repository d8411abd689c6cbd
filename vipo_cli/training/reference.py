"""What the policy is compared with: the model before training, or weights that follow it."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy, deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from vipo_cli.models.family import Family
from vipo_cli.training.step import Reference


def bare(network: nn.Module) -> nn.Module:
    """Return a network without what was wrapped around it for several processes."""
    inner = getattr(network, "module", network)  # of DDP and DeepSpeed
    return inner if isinstance(inner, nn.Module) else network


def trainable(family: Family) -> dict[str, Tensor]:
    """Return the weights that are trained, by name."""
    weights = bare(family.denoiser).named_parameters()
    return {name: value for name, value in weights if value.requires_grad}


def adapter_off(family: Family, adapted: nn.Module) -> Reference:
    """Return the base of a LoRA run: the same weights with the adapters switched off."""

    @contextmanager
    def reference() -> Iterator[Family]:
        adapted.disable_adapters()  # type: ignore[operator]
        try:
            yield family
        finally:
            adapted.enable_adapters()  # type: ignore[operator]

    return reference


def other_adapter(family: Family, name: str, usual: str) -> Reference:
    """Return the model with another of its adapters on than the usual one."""
    denoiser: Any = family.denoiser

    @contextmanager
    def reference() -> Iterator[Family]:
        denoiser.set_adapters(name)
        try:
            yield family
        finally:
            denoiser.set_adapters(usual)

    return reference


def frozen_copy(family: Family) -> Reference:
    """Return the base of a full fine-tuning run: a copy that never changes."""
    frozen = copy(family)
    frozen.denoiser = deepcopy(family.denoiser).requires_grad_(False).eval()

    @contextmanager
    def reference() -> Iterator[Family]:
        yield frozen

    return reference


class Snapshot:
    """The trained weights as they were, or their moving average; they can stand in for the policy.

    It costs the memory of the trained weights alone, which for LoRA is next to nothing.
    """

    def __init__(self, family: Family) -> None:
        self._family = family
        self.weights = {name: value.detach().clone() for name, value in trainable(family).items()}

    @torch.no_grad()
    def follow(self, decay: float) -> None:
        """Move towards the policy; decay 0 copies it."""
        for name, value in trainable(self._family).items():
            self.weights[name].lerp_(value.detach(), 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[Family]:
        """Give the model with these weights, then put the policy's back.

        Nothing is copied, unless weights are sliced: then the slices lie in storage of FSDP's own.
        """
        policy = trainable(self._family)
        self._exchange(policy)
        try:
            yield self._family
        finally:
            self._exchange(policy)

    def _exchange(self, policy: dict[str, Tensor]) -> None:
        for name, value in policy.items():
            kept = self.weights[name] = slice_like(value, self.weights[name])
            if is_sliced(value):
                before = value.detach().clone()
                value.detach().copy_(kept)
                kept.copy_(before)
            else:
                value.data, self.weights[name] = kept, value.data


def is_sliced(value: Tensor) -> bool:
    """Return whether a process holds but a slice of a tensor."""
    return hasattr(value, "full_tensor")


def slice_like(value: Tensor, whole: Tensor) -> Tensor:
    """Return this process's slice of a whole tensor, cut as another is; whole where that is."""
    if not is_sliced(value) or is_sliced(whole):
        return whole
    from torch.distributed.tensor import distribute_tensor

    placed: Any = value
    return distribute_tensor(
        whole.to(value.device), placed.device_mesh, placed.placements, src_data_rank=None
    )
