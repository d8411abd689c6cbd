"""What a step costs, counted without computing it: operations, memory, sizes.

The engine's own step runs on tensors of the meta device, which have shapes but no values, and every
operation is counted as it passes: what it multiplies, what it allocates, and when that is freed. So
whatever a recipe makes the step do (reference, decoupled backward, checkpointing) is in the count.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map
from torch.utils.flop_counter import flop_registry

from vipo_cli.media import Framing, Size
from vipo_cli.models.family import Condition, Family
from vipo_cli.models.lora_files import Lora
from vipo_cli.models.parts import encoder_parts, put_part
from vipo_cli.recipe import Recipe
from vipo_cli.training.arrays import RaggedArray
from vipo_cli.training.batches import training_batch
from vipo_cli.training.cache import EncodedData
from vipo_cli.training.loop import accumulate
from vipo_cli.training.reference import trainable
from vipo_cli.training.setup import Setup, assemble, frozen_type

META = torch.device("meta")


@dataclass(frozen=True, slots=True)
class Encodings:
    """What encoding one picture or clip and one prompt gives and takes.

    Attributes:
        size: of the picture or clip.
        latents: shape of what becomes of it.
        condition: of one prompt, of the right shapes; the values mean nothing.
        media_condition: of one picture.
        media_flops: floating-point operations to encode the picture.
        prompt_flops: and to encode the prompt.
        media_peak: bytes at the highest while the picture is encoded, weights not counted.
        encoder_weights: numbers in the weights of all encoders.
        decoder_weights: in those of the autoencoder alone.
    """

    size: Size
    latents: tuple[int, ...]
    condition: Condition
    media_condition: Condition
    media_flops: int
    prompt_flops: int
    media_peak: int
    encoder_weights: int
    decoder_weights: int

    @property
    def bytes_a_picture(self) -> int:
        """Bytes that the cache keeps of one picture: mean and standard deviation, float32."""
        return 8 * int(np.prod(self.latents))

    @property
    def bytes_a_prompt(self) -> int:
        """Bytes that the cache keeps of one prompt."""
        return sum(value.nbytes for value in self.condition.values())


@dataclass(frozen=True, slots=True)
class Cost:
    """What an update costs on one device.

    Attributes:
        parameters: numbers in the denoiser's own weights.
        trained: numbers that are trained.
        forward_flops: to predict one item.
        record_flops: of one record's share of an update: policy, reference and backward.
        weights: bytes of the denoiser's weights, and of the adapters'.
        reference: bytes of weights that are kept beside them: frozen copies and averages.
        fixed: bytes that an update needs beside all weights, gradients and the optimizer's state,
            whatever the number of records that go through the model at once.
        each: and for each of these records.
        forward_each: the same for each record of a forward pass without a backward one.
    """

    parameters: int
    trained: int
    forward_flops: int
    record_flops: int
    weights: int
    reference: int
    fixed: int
    each: int
    forward_each: int


class Ledger(TorchDispatchMode):
    """Counts operations, and the bytes of tensors on the meta device while they are alive.

    Attributes:
        flops: floating-point operations of matrix products, convolutions and attention.
        live: bytes of tensors that were made since and are still needed.
        peak: the most that `live` has been.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        """Start with tensors that are not to be counted."""
        super().__init__()
        self.flops = self.live = self.peak = 0
        self._known = {value.untyped_storage()._cdata: 0 for value in known}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and count it."""
        found = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.flops += count(*args, **(kwargs or {}), out_val=found)
        for value in tree_iter(found):
            if isinstance(value, Tensor) and value.device == META:
                self._add(value.untyped_storage())
        return found

    def _add(self, storage: Any) -> None:
        if storage._cdata in self._known:
            return
        self._known[storage._cdata] = size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._remove, storage._cdata).atexit = False

    def _remove(self, key: int) -> None:
        self.live -= self._known.pop(key)


LOWERED = frozenset(
    ("linear", "matmul", "__matmul__", "mm", "bmm", "addmm", "baddbmm", "einsum", "conv1d",
     "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
     "scaled_dot_product_attention")
)  # fmt: skip
"""What autocast computes in half precision."""
RAISED = frozenset(
    ("layer_norm", "group_norm", "softmax", "log_softmax", "pow", "__pow__", "rsqrt", "exp", "sum",
     "norm", "cumsum", "prod", "reciprocal", "softplus")
)  # fmt: skip
"""What autocast computes in float32 on a GPU; on a CPU it leaves these as they are."""


class Imitated(TorchFunctionMode):
    """Does on the meta device what the real one does: fused attention, and autocast.

    Args:
        ledger: counts what fused attention computes.
        dtype: of autocast, or None without.
        raises: whether autocast raises what is in RAISED to float32.
    """

    def __init__(self, ledger: Ledger, dtype: torch.dtype | None = None, raises: bool = True):
        super().__init__()
        self._ledger, self._dtype, self._raises = ledger, dtype, raises
        self._cast: dict[int, Tensor] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Call a function as autocast would."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if self._dtype is not None and name in LOWERED:
            args, kwargs = self._to(self._dtype, (args, kwargs))
        elif self._dtype is not None and self._raises and name in RAISED:
            args, kwargs = self._to(torch.float32, (args, kwargs))
        if func is functional.scaled_dot_product_attention and args[0].device == META:
            return FusedAttention.apply(self._ledger, *args[:3])
        return func(*args, **kwargs)

    def _to(self, dtype: torch.dtype, given: Any) -> Any:
        return tree_map(lambda value: self._as(dtype, value), given)

    def _as(self, dtype: torch.dtype, value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.dtype == dtype:
            return value
        if not (value.is_leaf and value.requires_grad):
            return value.to(dtype)
        if id(value) not in self._cast:  # as autocast does, weights are cast once a pass
            self._cast[id(value)] = value.to(dtype)
        return self._cast[id(value)]


class FusedAttention(torch.autograd.Function):
    """Attention that never holds the matrix of scores: q, k, v and what comes out are all it keeps.

    Forward are two matrix products, backward four; that the scores are computed once more there is
    not counted, as it is no part of the model.
    """

    @staticmethod
    def forward(ctx: Any, ledger: Ledger, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Count and allocate, (b, heads, n, d)."""
        out = q.new_empty((*q.shape[:-1], v.shape[-1]))
        ctx.ledger = ledger
        ctx.products = q.shape[:-1].numel() * k.shape[-2] * (q.shape[-1] + v.shape[-1])
        ctx.save_for_backward(q, k, v, out, q.new_empty(q.shape[:-1], dtype=torch.float32))
        ledger.flops += 2 * ctx.products
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, Tensor, Tensor]:
        """Count and allocate."""
        q, k, v, *_ = ctx.saved_tensors
        ctx.ledger.flops += 4 * ctx.products
        return None, torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


class OnPaper:
    """Stands in for accelerate's Accelerator where nothing is computed: one process, no device."""

    device = META
    num_processes = 1
    process_index = 0

    def prepare(self, *parts: Any) -> tuple[Any, ...]:
        """Return all as it is."""
        return parts

    def autocast(self) -> Any:
        """Do nothing: `Imitated` casts."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Go backward."""
        loss.backward()

    def reduce(self, values: Tensor, *_: Any, **__: Any) -> Tensor:
        """Return one process's values."""
        return values

    def no_sync(self, _: nn.Module) -> Any:
        """Do nothing."""
        return nullcontext()

    def clip_grad_norm_(self, weights: Iterable[Tensor], limit: float) -> Tensor:
        """Clip the gradient."""
        return nn.utils.clip_grad_norm_(weights, limit)
