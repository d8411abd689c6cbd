"""What a step costs, counted without computing it: operations, memory, sizes.

The engine's own step runs on tensors of the meta device, which have shapes but no values, and every
operation is counted as it passes: what it multiplies, what it allocates, and when that is freed. So
whatever a recipe makes the step do (reference, decoupled backward, checkpointing) is in the count.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from torch.utils.checkpoint import checkpoint
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
from vipo_cli.training.optimizers import state_bytes
from vipo_cli.training.reference import trainable
from vipo_cli.training.setup import assemble, frozen_type

T = TypeVar("T")

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
        optimizer: bytes that the optimizer keeps.
        reference: bytes of weights that are kept beside them: frozen copies and averages.
        fixed: bytes that an update needs beside all weights, gradients and the optimizer's state,
            whatever the number of records that go through the model at once.
        each: and for each of these records.
    """

    parameters: int
    trained: int
    forward_flops: int
    record_flops: int
    weights: int
    optimizer: int
    reference: int
    fixed: int
    each: int


class Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations, and the bytes of tensors on the meta device while they are alive.

    Storage that an operation returns is new unless it took it; it is gone when autograd and Python
    have let go of it, as on a device.

    What operations return is remembered by what they take: models consist of equal blocks, and the
    meta device is slow to find out.

    Attributes:
        flops: floating-point operations of matrix products, convolutions and attention.
        live: bytes of tensors that were made since and are still needed.
        peak: the most that `live` has been.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = self.live = self.peak = 0
        self._known: dict[Any, Outcome] = {}
        self._storages: dict[int, tuple[int, weakref.ref[Any]]] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Any = (),
        kwargs: Any = None,
    ) -> Any:
        """Run an operation and count it."""
        kwargs = kwargs or {}
        taken = list(_tensors((*args, *kwargs.values())))
        for value in taken:  # what was there before is not counted
            self._add(value, counted=False)
        if func in IN_PLACE and args[0].device == META:
            return args[0]  # nothing to compute
        if taken and _is_plain(func) and all(value.device == META for value in taken):
            key = (func, _key(args), _key(tuple(kwargs.items())))
            if key not in self._known:
                self._known[key] = _outcome(func, args, kwargs)
            flops, looks = self._known[key]
            self.flops += flops
            found = _made(looks)
        else:
            found = func(*args, **kwargs)
        for value in _tensors((found,)):
            self._add(value)
        return found

    def _add(self, value: Tensor, counted: bool = True) -> None:
        if value.device != META:
            return
        storage = value.untyped_storage()
        key = storage._cdata
        if key in self._storages:
            return
        size = storage.nbytes() if counted else 0
        self._storages[key] = size, weakref.ref(storage, lambda _: self._remove(key))
        self.live += size
        self.peak = max(self.peak, self.live)

    def _remove(self, key: int) -> None:
        self.live -= self._storages.pop(key)[0]


aten = torch.ops.aten
IN_PLACE = frozenset(
    (aten.add_.Tensor, aten.add_.Scalar, aten.sub_.Tensor, aten.mul_.Tensor, aten.mul_.Scalar,
     aten.div_.Tensor, aten.div_.Scalar, aten.copy_.default, aten.zero_.default,
     aten.fill_.Scalar)
)  # fmt: skip
"""Operations that change values alone, which the meta device has none of."""


@dataclass(frozen=True, slots=True)
class Look:
    """All that there is to know of a tensor on the meta device."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


Outcome = tuple[int, Any]
"""Operations counted, and looks of what was returned."""


@cache
def _is_plain(func: Any) -> bool:
    """Return whether an operation makes new tensors and leaves those that it takes alone."""
    schema = func._schema
    return not schema.is_mutable and all(value.alias_info is None for value in schema.returns)


def _outcome(func: Any, args: Any, kwargs: Any) -> Outcome:
    found = func(*args, **kwargs)
    count = flop_registry.get(func._overloadpacket)
    return count(*args, **kwargs, out_val=found) if count else 0, _looks(found)


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def _key(values: Iterable[Any]) -> tuple[Any, ...]:
    """Return what an operation's outcome depends on."""
    return tuple(
        (value.shape, value.stride(), value.dtype)
        if isinstance(value, Tensor)
        else _key(value)
        if isinstance(value, (list, tuple))
        else (type(value), value)
        for value in values
    )


def _looks(value: Any) -> Any:
    if isinstance(value, Tensor):
        return Look(tuple(value.shape), value.stride(), value.dtype)
    return tuple(map(_looks, value)) if isinstance(value, (list, tuple)) else value


def _made(looks: Any) -> Any:
    """Return new tensors of some looks."""
    if isinstance(looks, Look):
        return torch.empty_strided(looks.shape, looks.stride, dtype=looks.dtype, device=META)
    return tuple(map(_made, looks)) if isinstance(looks, tuple) else looks


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

    def __init__(self, ledger: Ledger, dtype: torch.dtype | None, *, raises: bool) -> None:
        super().__init__()
        self._ledger, self._dtype, self._raises = ledger, dtype, raises
        self._cast: dict[int, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function as autocast would."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if self._dtype is not None and name in LOWERED:
            args, kwargs = self._to(self._dtype, (args, kwargs))
        elif self._dtype is not None and self._raises and name in RAISED:
            args, kwargs = self._to(torch.float32, (args, kwargs))
        if func is functional.scaled_dot_product_attention:
            return self._attend(*args, **kwargs)
        return func(*args, **kwargs)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Any:
        fused: Any = FusedAttention  # of which not every version of torch states the types
        return fused.apply(self._ledger, query, key, value)

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
    def backward(ctx: Any, _: Tensor) -> tuple[None, Tensor, Tensor, Tensor]:
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
        loss.backward()  # type: ignore[no-untyped-call]

    def reduce(self, values: Tensor, *_: Any, **__: Any) -> Tensor:
        """Return one process's values."""
        return values

    def no_sync(self, _: nn.Module) -> Any:
        """Do nothing."""
        return nullcontext()

    def clip_grad_norm_(self, weights: Iterable[Tensor], limit: float) -> Tensor:
        """Clip the gradient."""
        return nn.utils.clip_grad_norm_(weights, limit)


def encodings(family: Family, size: Size, dtype: torch.dtype = torch.float32) -> Encodings:
    """Return what encoding a picture or clip and a prompt gives and takes, without doing it.

    Args:
        family: opened, its networks without weights.
        size: that pictures or clips are brought to.
        dtype: of the encoders' weights.
    """
    parts = encoder_parts(family)
    count = {
        part: sum(v.numel() for v in getattr(family.pipeline, part).parameters()) for part in parts
    }
    media, prompts = Ledger(), Ledger()
    vae = deepcopy(family.pipeline.vae).to(META, dtype)
    with _in_place(family, "vae", vae), torch.no_grad(), media, Imitated(media, None, raises=False):
        mean, _ = family.encode_media(torch.empty((1, 3, *size.shape), device=META))
        latents = tuple(mean.shape[1:])
        del mean
    with ExitStack() as stack:
        for part in parts:
            if part != "vae":
                network = deepcopy(getattr(family.pipeline, part)).to(META, dtype)
                stack.enter_context(_in_place(family, part, ShapesAlone(network, prompts)))
        with torch.no_grad():
            condition = family.encode_prompts([""])
    framing = Framing((size.width, size.height), (0, 0), size)
    return Encodings(
        size=size,
        latents=latents,
        condition=condition,
        media_condition=family.media_condition([framing]),
        media_flops=media.flops,
        prompt_flops=prompts.flops,
        media_peak=media.peak,
        encoder_weights=sum(count.values()),
        decoder_weights=count["vae"],
    )


class ShapesAlone(nn.Module):
    """A network without weights that answers on the CPU, with random numbers of the right shapes.

    Pipelines look into masks and tokens while they encode prompts, which the meta device refuses.
    """

    def __init__(self, network: nn.Module, ledger: Ledger) -> None:
        super().__init__()
        self._unregistered = [network]
        self._ledger = ledger
        self.place = nn.Parameter(torch.empty(0))

    def __getattr__(self, name: str) -> Any:
        """Answer as the network does."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_unregistered"][0], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the network on the meta device, and fill in what it returns.

        Which tokens count is not told: no shape depends on it, and networks look into masks too.
        """
        tokens = args[0] if args else kwargs["input_ids"]
        others = {k: v for k, v in kwargs.items() if k not in ("input_ids", "attention_mask")}
        with self._ledger, Imitated(self._ledger, None, raises=False):
            found = self._unregistered[0](tokens.to(META), **others)
        return tree_map(_filled, found)


def _filled(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    generator = torch.Generator().manual_seed(0)
    return torch.randn(value.shape, generator=generator).to(value.dtype)


@contextmanager
def _in_place(family: Family, part: str, network: nn.Module) -> Iterator[None]:
    """Put a network in the place of a part for a while."""
    own = getattr(family.pipeline, part)
    put_part(family, part, network)
    try:
        yield
    finally:
        put_part(family, part, own)


def measure_cost(
    recipe: Recipe,
    family: Family,
    encoded: Encodings,
    *,
    items: int = 2,
    checkpointing: bool = False,
    start: Lora | None = None,
    device: str = "cuda",
) -> Cost:
    """Count what an update costs.

    Args:
        recipe: what is asked for.
        family: opened; its denoiser without weights.
        encoded: what its records look like.
        items: how many items a record has.
        checkpointing: whether activations are computed again.
        start: the LoRA that training goes on from.
        device: type of the device that the update is meant for.
    """
    full = recipe.model.train == "full"
    network: Any = deepcopy(family.denoiser)
    network.to(META, torch.float32 if full else frozen_type(recipe))
    # a family may move tables of its own to where it is asked to work, so it is copied too
    shared = {id(family.pipeline): family.pipeline, id(family.denoiser): network}
    count = Count(recipe, device)
    if checkpointing:
        network.enable_gradient_checkpointing(count.checkpoint)
    parameters, weights, unpacked = _kept(network, recipe.model.quantize)
    setup = assemble(
        trial(recipe), deepcopy(family, shared), stand_in(encoded, 1, items), OnPaper(), start
    )
    trained, trained_bytes = _size(trainable(setup.family).values())
    copies = [setup.average, setup.moving, setup.old, None if full else start]
    reference = trained_bytes * sum(copy is not None for copy in copies)
    if full and setup.base is not None:
        with setup.base() as base:
            reference += _size(base.denoiser.parameters())[1]
    if recipe.reference.kind == "cached":
        setup.cached = np.zeros((1, recipe.noise.draws or 1, items), np.float32)
    for value in trainable(setup.family).values():
        value.grad = torch.zeros_like(value)
    batch = Count(recipe, device).of(lambda: training_batch(setup, [0]))
    network.register_forward_hook(count.note_forward)
    count.of(lambda: accumulate(setup, batch, 1.0, last=True))
    # autocast keeps a copy of the weights that are trained for as long as a forward pass lasts
    cast = trained_bytes // 2 if recipe.model.precision == "bf16" else 0
    return Cost(
        parameters=parameters,
        trained=trained,
        forward_flops=count.forward_flops // count.rows,
        record_flops=count.ledger.flops,
        weights=weights if full else weights + trained_bytes,
        optimizer=state_bytes(recipe, trainable(setup.family).values()),
        reference=reference,
        fixed=cast + unpacked,
        each=max(0, count.ledger.peak - cast),
    )


QUANTISED = {"int8": 1.0, "nf4": 0.5 + 4 / 64}
"""Bytes of a quantised weight; of nf4 with one scale in float32 for 64 of them."""


def _kept(network: nn.Module, quantize: str) -> tuple[int, int, int]:
    """Return numbers and bytes of a denoiser's weights, and bytes to unpack the largest of them.

    It is matrices that are quantised.
    """
    parameters, weights = _size(network.parameters())
    if quantize == "none":
        return parameters, weights, 0
    matrices = [layer.weight for layer in network.modules() if isinstance(layer, nn.Linear)]
    saved = sum(value.nbytes - int(QUANTISED[quantize] * value.numel()) for value in matrices)
    return parameters, weights - saved, max(2 * value.numel() for value in matrices)


class Count:
    """Runs work on paper and adds up what it costs on a type of device.

    Attributes:
        ledger: what it added up to.
        forward_flops: operations of the denoiser's first forward pass.
        rows: items in that pass.
    """

    def __init__(self, recipe: Recipe, device: str) -> None:
        lowered = torch.bfloat16 if recipe.model.precision == "bf16" else None
        self.ledger = Ledger()
        self.forward_flops, self.rows = 0, 1
        self._imitated = Imitated(self.ledger, lowered, raises=device == "cuda")

    def of(self, work: Callable[[], T]) -> T:
        """Run work and return what it returns."""
        with self.ledger, self._imitated:
            return work()

    def note_forward(self, _: nn.Module, __: Any, output: Any) -> None:
        """Note what the first forward pass took; a forward hook."""
        if not self.forward_flops:
            self.forward_flops, self.rows = self.ledger.flops, len(output[0])

    def checkpoint(self, module: nn.Module, *args: Any) -> Any:
        """Run a block whose activations are computed again: in backward, where no mode reaches."""

        def run(*given: Any) -> Any:
            with self._imitated:
                return module(*given)

        return checkpoint(run, *args, use_reentrant=False)


def _size(weights: Iterable[Tensor]) -> tuple[int, int]:
    """Return how many numbers and how many bytes weights have."""
    sizes = [(value.numel(), value.nbytes) for value in weights]
    return sum(numel for numel, _ in sizes), sum(nbytes for _, nbytes in sizes)


def stand_in(encoded: Encodings, records: int, items: int) -> EncodedData:
    """Return random records of the right shapes."""
    shape = (records * items, *encoded.latents)
    latents = np.random.default_rng(0).standard_normal(shape, np.float32)
    rows = np.arange(records * items).reshape(items, records).T
    return EncodedData.of_latents(
        RaggedArray.of(latents),
        _arrays(encoded.condition, 2),
        rows,
        np.zeros(records, np.int64),
        fingerprint="trial",
        media_conditions=_arrays(encoded.media_condition, len(latents)),
    )


def _arrays(condition: Condition, rows: int) -> dict[str, RaggedArray]:
    return {
        name: RaggedArray.of(_numbers(value.repeat_interleave(rows, 0)))
        for name, value in condition.items()
    }


def _numbers(values: Tensor) -> NDArray[Any]:
    """Return values as a cache keeps them: numpy has no bfloat16."""
    if values.dtype == torch.bfloat16:
        return values.view(torch.int16).numpy().view(np.uint16)
    return values.float().numpy()


def trial(recipe: Recipe) -> Recipe:
    """Return a recipe for random records: what depends on the data is left out."""
    noise = recipe.noise
    return recipe.model_copy(
        update={
            "data": recipe.data.model_copy(update={"held_out": 0}),
            "loop": recipe.loop.model_copy(update={"kind": "offline"}),
            "objective": recipe.objective.model_copy(update={"typical_logit": None}),
            "noise": noise.model_copy(
                update={"source": "shared"} if noise.source == "stored" else {}
            ),
        }
    )
