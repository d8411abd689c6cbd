"""How the processes of a run hold the trained weights: each all of them, or each a share.

    Whole   every process holds all weights, and gradients are averaged: one process, or DDP
    Fsdp    FSDP2: every process holds a slice of each tensor, gathered block by block when needed
    Zero    DeepSpeed's ZeRO: stage 2 shares out optimizer and gradients, stage 3 the weights too

FSDP2 and ZeRO are called directly, not through accelerate, which offers them on GPUs alone: so what
the tests run on two CPU processes is what runs on GPUs. Weights are exchanged in the type in which
they are kept, so that sharding changes no number beyond the order of a sum.

Checkpoints hold whole tensors by name, so they move between these and between numbers of processes.
"""

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from vipo_cli.errors import VipoError
from vipo_cli.models.family import Family
from vipo_cli.recipe import Recipe
from vipo_cli.training.devices import is_main, process_count
from vipo_cli.training.reference import is_sliced, slice_like, trainable

MakeOptimizer = Callable[[Iterable[Tensor]], torch.optim.Optimizer]
Saved = Callable[[str], Tensor]
"""Gives a whole tensor of a checkpoint by name."""
OptimizerState = dict[str, dict[str, Tensor]]
"""What the optimizer keeps of each trained tensor: by the tensor's name, then by its own."""
SavedState = Mapping[str, dict[str, Tensor]]
"""The same, perhaps read from a file when it is asked for."""


class Sharding(Protocol):
    """What the loop and the checkpoints need of it."""

    optimizer: Any
    """Over the trained weights as this process holds them."""

    def place(self) -> Any:
        """Return the device that weights are loaded to before they are shared out."""

    def hold(self, network: nn.Module) -> None:
        """Share a frozen network out, in place."""

    def prepare(self, family: Family, make_optimizer: MakeOptimizer) -> None:
        """Share the denoiser out, and make the optimizer of its trained weights."""

    def accumulating(self, *, last: bool) -> AbstractContextManager[None]:
        """Surround forward and backward pass; gradients are exchanged with the last of an update.

        Where they are shared out too, they are exchanged every time: nobody has room for all.
        """

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add to the gradient."""

    def update(self, max_norm: float) -> Tensor:
        """Clip the gradient, follow it and forget it; return its norm before."""

    def forget(self) -> None:
        """Forget the gradient."""

    def gathered(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return trained weights or snapshots of them whole, on the CPU; nothing but in main."""

    def gathered_state(self) -> OptimizerState:
        """Return what the optimizer keeps, likewise."""

    def restore(self, weights: Mapping[str, Tensor], saved: Saved) -> None:
        """Put whole values into weights or snapshots, in all processes."""

    def restore_state(self, state: SavedState) -> None:
        """Put back what the optimizer kept, in all processes."""


def choose_sharding(recipe: Recipe, accelerator: Any) -> Sharding:
    """Return how a recipe wants weights held; one process holds all of them in any case.

    Raises:
        VipoError: DeepSpeed is asked for and not installed.
    """
    kind = recipe.run.sharding
    if process_count() == 1 or kind == "none":
        return Whole(accelerator)
    return Fsdp(accelerator) if kind == "fsdp" else Zero(accelerator, recipe, int(kind[-1]))


class Whole:
    """Every process holds all weights."""

    optimizer: Any

    def __init__(self, accelerator: Any) -> None:
        self._accelerator = accelerator

    def place(self) -> Any:
        """Return the accelerator's device."""
        return self._accelerator.device

    def hold(self, network: nn.Module) -> None:
        """Leave it as it is."""

    def prepare(self, family: Family, make_optimizer: MakeOptimizer) -> None:
        """Wrap the denoiser in DDP where there are several processes."""
        self._family = family
        optimizer = make_optimizer(trainable(family).values())
        with warnings.catch_warnings():  # of a name that the oldest torch does not know yet
            warnings.filterwarnings("ignore", "`broadcast_buffers`", FutureWarning)
            family.denoiser, self.optimizer = self._accelerator.prepare(family.denoiser, optimizer)

    def accumulating(self, *, last: bool) -> AbstractContextManager[None]:
        """Exchange gradients with the last backward pass alone."""
        if last:
            return nullcontext()
        held_back: AbstractContextManager[None] = self._accelerator.no_sync(self._family.denoiser)
        return held_back

    def backward(self, loss: Tensor, *, last: bool) -> None:  # noqa: ARG002
        """Go backward."""
        self._accelerator.backward(loss)

    def update(self, max_norm: float) -> Tensor:
        """Clip and step."""
        norm: Tensor = self._accelerator.clip_grad_norm_(trainable(self._family).values(), max_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    def forget(self) -> None:
        """Let go of the gradient."""
        self.optimizer.zero_grad()

    def gathered(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return them as they are."""
        return {name: _on_cpu(value) for name, value in weights.items()} if is_main() else {}

    def gathered_state(self) -> OptimizerState:
        """Return the optimizer's own."""
        return {
            name: self.gathered(entry)
            for name, entry in _state_by_name(self._family, self.optimizer).items()
        }

    @torch.no_grad()
    def restore(self, weights: Mapping[str, Tensor], saved: Saved) -> None:
        """Copy."""
        for name, value in weights.items():
            value.copy_(saved(name))

    def restore_state(self, state: SavedState) -> None:
        """Hand it to the optimizer."""
        _load_state(self._family, self.optimizer, state)


class Fsdp:
    """Every process holds a slice of each tensor, along its first dimension."""

    optimizer: torch.optim.Optimizer

    def __init__(self, accelerator: Any) -> None:
        self._accelerator = accelerator

    def place(self) -> Any:
        """Return the CPU: from there one block after the other goes to the device and is cut."""
        return torch.device("cpu")

    def hold(self, network: nn.Module) -> None:
        """Cut a network block by block, and what is outside of blocks as one."""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(self._accelerator.device.type, (process_count(),))
        for block in blocks_of(network):
            fully_shard(block, mesh=mesh, reshard_after_forward=True)
        # the outermost by default keeps its weights from one forward pass to the next, stale ones
        # when a snapshot stands in for the policy meanwhile
        fully_shard(network, mesh=mesh, reshard_after_forward=True)

    def prepare(self, family: Family, make_optimizer: MakeOptimizer) -> None:
        """Cut the denoiser, and make the optimizer of the slices."""
        self._family = family
        _compute_as_told(self._accelerator, family)
        self.hold(family.denoiser)
        self.optimizer = make_optimizer(trainable(family).values())

    def accumulating(self, *, last: bool) -> AbstractContextManager[None]:  # noqa: ARG002
        """Exchange gradients every time."""
        return nullcontext()

    def backward(self, loss: Tensor, *, last: bool) -> None:  # noqa: ARG002
        """Go backward."""
        loss.backward()  # type: ignore[no-untyped-call]

    def update(self, max_norm: float) -> Tensor:
        """Clip and step; the norm is that of all slices together."""
        norm: Any = nn.utils.clip_grad_norm_(trainable(self._family).values(), max_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        whole: Tensor = norm.full_tensor()
        return whole

    def forget(self) -> None:
        """Let go of the gradient."""
        self.optimizer.zero_grad()

    def gathered(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Put the slices of one tensor after the other together."""
        found = {}
        for name, value in weights.items():
            whole = whole_tensor(value)
            if is_main():
                found[name] = _on_cpu(whole)
        return found

    def gathered_state(self) -> OptimizerState:
        """Put the slices of what the optimizer keeps together."""
        return {
            name: self.gathered(entry)
            for name, entry in _state_by_name(self._family, self.optimizer).items()
        }

    @torch.no_grad()
    def restore(self, weights: Mapping[str, Tensor], saved: Saved) -> None:
        """Take this process's slice of each."""
        for name, value in weights.items():
            value.copy_(slice_like(value, saved(name)))

    def restore_state(self, state: SavedState) -> None:
        """Take this process's slices of what has the tensors' shapes."""
        slices = {
            name: {
                key: slice_like(value, kept) if kept.shape == value.shape else kept
                for key, kept in state[name].items()
            }
            for name, value in trainable(self._family).items()
            if name in state
        }
        _load_state(self._family, self.optimizer, slices)


class Zero:
    """DeepSpeed shares out what the optimizer keeps, and from stage 3 on the weights too."""

    optimizer: Any

    def __init__(self, accelerator: Any, recipe: Recipe, stage: int) -> None:
        self._accelerator = accelerator
        self._recipe = recipe
        self._stage = stage
        self._deepspeed = _import_deepspeed()
        self._norm = torch.zeros((), device=accelerator.device)

    def place(self) -> Any:
        """Return the accelerator's device."""
        return self._accelerator.device

    def hold(self, network: nn.Module) -> None:
        """Leave it whole: DeepSpeed shares out what is trained."""

    def prepare(self, family: Family, make_optimizer: MakeOptimizer) -> None:
        """Make DeepSpeed's engine."""
        self._family = family
        _compute_as_told(self._accelerator, family)
        optimizer = make_optimizer(trainable(family).values())
        engine, self.optimizer, _, _ = self._deepspeed.initialize(
            model=family.denoiser,
            optimizer=optimizer,
            config=self._configuration(),
            dist_init_required=False,
        )
        family.denoiser = self._engine = engine

    def _configuration(self) -> dict[str, Any]:
        return {
            "train_micro_batch_size_per_gpu": 1,  # it only reports by this: batches are our own
            "gradient_accumulation_steps": 1,
            "gradient_clipping": self._recipe.optimizer.max_gradient_norm,
            "zero_optimization": {"stage": self._stage},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": 2**31,
        }

    @contextmanager
    def accumulating(self, *, last: bool) -> Iterator[None]:
        """Tell DeepSpeed whether an update follows."""
        self._engine.set_gradient_accumulation_boundary(last)
        yield

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Go backward."""
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss)

    def update(self, max_norm: float) -> Tensor:  # noqa: ARG002
        """Clip, as its configuration says, and step."""
        self._engine.step()
        norm = self._engine.get_global_grad_norm()
        return torch.as_tensor(norm, device=self._accelerator.device).detach().float()

    def forget(self) -> None:
        """Let go of the gradient."""
        self._engine.zero_grad()

    def gathered(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Put the shares of one tensor after the other together; snapshots are whole."""
        policy, found = trainable(self._family), {}
        for name, value in weights.items():
            whole = (
                self._deepspeed.utils.safe_get_full_fp32_param(value)
                if value is policy.get(name)
                else value
            )
            if is_main():
                found[name] = _on_cpu(whole)
        return found

    def gathered_state(self) -> OptimizerState:
        """Put the shares of AdamW's two moments together."""
        found: OptimizerState = {}
        for name, value in trainable(self._family).items():
            entry = {
                key: self._deepspeed.utils.safe_get_full_optimizer_state(value, key)
                for key in MOMENTS
            }
            if is_main():
                found[name] = {key: _on_cpu(whole) for key, whole in entry.items()}
                found[name]["step"] = torch.tensor(float(self._steps()))
        return found

    def _steps(self) -> int:
        return max((int(entry["step"]) for entry in self._inner().state.values()), default=0)

    def _inner(self) -> Any:
        """Return the optimizer under DeepSpeed's, whose state counts the updates."""
        return self.optimizer.optimizer

    @torch.no_grad()
    def restore(self, weights: Mapping[str, Tensor], saved: Saved) -> None:
        """Take this process's share of each, of the weights and of their master copy."""
        policy = trainable(self._family)
        for name, value in weights.items():
            whole = saved(name).to(self._accelerator.device)
            if value is policy.get(name):
                self._deepspeed.utils.safe_set_full_fp32_param(value, whole)
            shared_out = [value] if hasattr(value, "ds_id") else []
            with self._deepspeed.zero.GatheredParameters(shared_out, modifier_rank=0):
                value.copy_(whole)

    @torch.no_grad()
    def restore_state(self, state: SavedState) -> None:
        """Take this process's share of the moments, and count on."""
        self._make_room()
        for name, value in trainable(self._family).items():
            for key in MOMENTS:
                whole = state[name][key].to(self._accelerator.device)
                self._deepspeed.utils.safe_set_full_optimizer_state(value, whole, key)
        steps = max(int(entry["step"]) for entry in state.values())
        for entry in self._inner().state.values():
            entry["step"] = torch.as_tensor(entry["step"]).fill_(steps)

    def _make_room(self) -> None:
        """Make the state that the first update would make; before, there is none to fill."""
        inner, stage_2 = self._inner(), self._stage == 2
        names = ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups")
        for share in getattr(self.optimizer, names[stage_2]):
            entry = inner.state[share]
            if not entry:
                device = share.device if inner.defaults["fused"] else torch.device("cpu")
                entry["step"] = torch.zeros((), device=device)
                entry.update({key: torch.zeros_like(share) for key in MOMENTS})
        if stage_2:
            self.optimizer._lazy_init_hp_params_optimizer_state()


MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW keeps of each weight."""


def _import_deepspeed() -> Any:
    try:
        deepspeed: Any = import_module("deepspeed")
    except ImportError as error:
        raise VipoError(
            "run.sharding: ZeRO needs DeepSpeed, which is not installed",
            hint="pip install deepspeed; or without it: --set run.sharding=fsdp",
        ) from error
    for handler in deepspeed.utils.logger.handlers:
        handler.setStream(sys.stderr)  # stdout is for the result
    return deepspeed


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """Return the blocks that a network says are not to be split, the innermost first."""
    names = set(getattr(network, "_no_split_modules", None) or ())
    return [module for module in network.modules() if type(module).__name__ in names][::-1]


def _compute_as_told(accelerator: Any, family: Family) -> None:
    """Let the denoiser compute in the recipe's precision, whoever calls it."""
    family.denoiser = accelerator.prepare_model(
        family.denoiser, device_placement=False, evaluation_mode=True
    )


def whole_shape(value: Tensor) -> torch.Size:
    """Return the shape of a tensor of which this process may hold but a share."""
    shape: torch.Size = getattr(value, "ds_shape", value.shape)  # DeepSpeed leaves an empty one
    return shape


def whole_tensor(value: Tensor) -> Tensor:
    """Return a tensor whole, where it is cut into slices; all processes must ask."""
    sliced: Any = value
    whole: Tensor = sliced.full_tensor() if is_sliced(value) else value
    return whole


def _on_cpu(value: Any) -> Tensor:
    return torch.as_tensor(value).detach().cpu().contiguous()


def _state_by_name(family: Family, optimizer: torch.optim.Optimizer) -> OptimizerState:
    names = {id(value): name for name, value in trainable(family).items()}
    return {
        names[id(value)]: {key: kept for key, kept in entry.items() if kept is not None}
        for value, entry in optimizer.state.items()
    }


def _load_state(family: Family, optimizer: torch.optim.Optimizer, state: SavedState) -> None:
    names = {id(value): name for name, value in trainable(family).items()}
    order = [names[id(value)] for group in optimizer.param_groups for value in group["params"]]
    optimizer.load_state_dict(
        {
            "state": {
                number: dict(state[name]) for number, name in enumerate(order) if name in state
            },
            "param_groups": optimizer.state_dict()["param_groups"],
        }
    )
