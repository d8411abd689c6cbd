"""The reference: the model as it was before training."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import copy, deepcopy

from torch import nn

from vipo_cli.models.family import Family

Reference = Callable[[], AbstractContextManager[Family]]


def adapter_off(family: Family, adapted: nn.Module) -> Reference:
    """Return the reference of a LoRA run: the same weights with the adapters switched off."""

    @contextmanager
    def reference() -> Iterator[Family]:
        adapted.disable_adapters()  # type: ignore[operator]
        try:
            yield family
        finally:
            adapted.enable_adapters()  # type: ignore[operator]

    return reference


def frozen_copy(family: Family) -> Reference:
    """Return the reference of a full fine-tuning run: a copy that never changes."""
    frozen = copy(family)
    frozen.denoiser = deepcopy(family.denoiser).requires_grad_(False).eval()

    @contextmanager
    def reference() -> Iterator[Family]:
        yield frozen

    return reference
