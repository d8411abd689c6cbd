"""The devices and processes of a run: how they start, agree, share work out and wait.

All processes run the same command and go the same way, each with its share of every batch. Two
rules keep them together. Whatever one of them does alone, such as writing a file, the others do not
enter; and long work yields the same progress in every process, so that wherever one is asked to
stop, all stop.
"""

import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import cache
from time import monotonic
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from vipo_cli.errors import RecipeError, VipoError
from vipo_cli.recipe import Recipe
from vipo_cli.run import Progress, Work, finish
from vipo_cli.training.launch import started_processes

T = TypeVar("T")
R = TypeVar("R")

EXCHANGE = timedelta(hours=1)
"""How long an exchange between devices may take; what takes longer is done by `on_main`."""
WAITING = timedelta(days=30)
"""How long processes wait for what one of them does alone."""
PERIOD = 0.5
"""Seconds between two tellings of how far the main process is."""


def start_accelerator(recipe: Recipe) -> Any:
    """Return accelerate's view of devices, processes and precision.

    Raises:
        RecipeError: a batch that cannot be shared out evenly.
        VipoError: more processes than devices, or a launcher that was told to shard the weights.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import (
        DistributedDataParallelKwargs,
        GradientAccumulationPlugin,
        InitProcessGroupKwargs,
    )

    _refuse_launch(recipe)
    AcceleratorState._reset_state()  # else a second run in this process has the first's precision
    accelerator = Accelerator(
        cpu=started_processes() > 1 and not _has_devices(),
        mixed_precision="bf16" if recipe.model.precision == "bf16" else "no",
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        kwargs_handlers=[
            InitProcessGroupKwargs(timeout=EXCHANGE),
            DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True),
        ],
    )
    if process_count() > 1:
        _talk()
    return accelerator


def _refuse_launch(recipe: Recipe) -> None:
    """Refuse what cannot work with as many processes as were started.

    Raises:
        RecipeError: a batch that cannot be shared out evenly.
        VipoError: more processes than devices, or a launcher that was told to shard the weights.
    """
    processes = started_processes()
    refuse_uneven(recipe.optimizer.batch_size, processes)
    for name in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        if os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() == "true":
            raise VipoError(
                f"accelerate was told to shard the weights with {name}, which is for the recipe "
                "to say",
                hint="launch without it, and say --set run.sharding=fsdp, zero2 or zero3",
            )
    refuse_crowding()


def refuse_crowding() -> None:
    """Refuse to share a GPU between processes.

    Raises:
        VipoError: more processes than devices.
    """
    processes = started_processes()
    local = int(os.environ.get("LOCAL_WORLD_SIZE", processes))
    if processes > 1 and torch.cuda.is_available() and local > torch.cuda.device_count():
        devices = torch.cuda.device_count()
        raise VipoError(
            f"{local} processes on this machine, which has {devices} GPU{'s' * (devices != 1)}",
            hint=f"--processes {devices} at most",
        )


def refuse_uneven(batch: int, processes: int) -> None:
    """Refuse a batch that cannot be shared out evenly.

    Raises:
        RecipeError: says which one could.
    """
    if batch % processes:
        more = -(-batch // processes) * processes
        raise RecipeError(
            f"optimizer.batch_size: must be a multiple of the number of processes, "
            f"got `{batch}` for {processes} processes",
            hint=f"--set optimizer.batch_size={more}",
        )


def _has_devices() -> bool:
    """Return whether processes can have a device each that they exchange tensors between."""
    found = torch.accelerator.current_accelerator(check_available=True)
    return found is not None and found.type != "mps"


def process_count() -> int:
    """Return how many processes take part in the run."""
    return dist.get_world_size() if _together() else 1


def process_rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if _together() else 0


def is_main() -> bool:
    """Return whether this process is the one that writes and speaks."""
    return process_rank() == 0


def _is_local_main() -> bool:
    """Return whether this process is the first of its machine."""
    return os.environ.get("LOCAL_RANK", "0") == "0" or not _together()


def _together() -> bool:
    return dist.is_available() and dist.is_initialized()


@cache
def _talk() -> Any:
    """Return the group that agrees and waits: on the host, so that no device has to stand still."""
    return dist.new_group(backend="gloo", timeout=WAITING)


def leave() -> None:
    """Take leave of the other processes where all have come to the end.

    Who leaves alone may have to wait for an exchange that the others never enter.
    """
    if _together():
        dist.destroy_process_group()
        _talk.cache_clear()


def agreed(wish: bool) -> bool:
    """Return whether any process wishes something; all must ask."""
    if process_count() == 1:
        return wish
    found = torch.tensor(int(wish))
    dist.all_reduce(found, dist.ReduceOp.MAX, group=_talk())
    return bool(found)


def wait() -> None:
    """Wait until all processes have come here."""
    if process_count() > 1:
        dist.barrier(group=_talk())


def gathered(value: T) -> list[T]:
    """Return the values of all processes, in their order."""
    if process_count() == 1:
        return [value]
    found: list[Any] = [None] * process_count()
    dist.all_gather_object(found, value, group=_talk())
    return found


def shared_mean(values: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    """Return the mean over the values of all processes, which may differ in number."""
    if process_count() == 1:
        return values.mean()
    both = torch.stack([values.sum(), values.new_tensor(values.numel())])
    dist.all_reduce(both)
    return both[0] / both[1]


def shared_out(stage: str, tasks: Sequence[T], work: Callable[[T], R]) -> Work[list[R]]:
    """Do tasks in turn, each process its share, and return all results in the tasks' order.

    Every process does as many, the last task again if there is no other: where weights are sharded
    all must go forward together.
    """
    processes, own = process_count(), []
    for first in range(0, len(tasks), processes):
        own.append(work(tasks[min(first + process_rank(), len(tasks) - 1)]))
        yield Progress(stage, min(first + processes, len(tasks)), len(tasks))
    found = gathered(own)
    return [found[number % processes][number // processes] for number in range(len(tasks))]


def on_main(work: Work[T]) -> Work[T]:
    """Let the main process do work that the others wait for; all see its progress and result.

    Raises:
        VipoError: in all processes, if the work fails of one.
    """
    if process_count() == 1:
        return (yield from work)
    if not is_main():
        result: T = yield from _followed()
        return result
    told, stage = -PERIOD, ""
    try:
        while True:
            progress = next(work)
            done = progress.done == progress.total or progress.stage != stage
            if done or monotonic() - told >= PERIOD:
                told, stage = monotonic(), progress.stage
                _broadcast(progress)
                yield progress
    except StopIteration as end:
        _broadcast(("done", end.value))
        result = end.value
        return result
    except VipoError as error:
        _broadcast(("failed", (error.message, error.hint, error.details)))
        raise
    finally:
        work.close()


def _followed() -> Work[Any]:
    """Yield the main process's progress and return its result."""
    while isinstance(said := _broadcast(None), Progress):
        yield said
    outcome, value = said
    if outcome == "done":
        return value
    message, hint, details = value
    raise VipoError(message, hint=hint, details=details)


def _broadcast(value: Any) -> Any:
    """Return the main process's value."""
    box = [value]
    dist.broadcast_object_list(box, src=0, group=_talk())
    return box[0]


def from_main(function: Callable[[], T]) -> T:
    """Let the main process call a function; return its result, or raise its error, in all."""

    def work() -> Work[T]:
        yield from ()
        return function()

    return finish(on_main(work()))


def after_main(function: Callable[[], T]) -> T:
    """Call a function in the main process, then in the others, who find on disk what it left."""

    def work() -> Work[T]:
        yield from ()
        return function()

    return finish(main_first(work))


def main_first(work: Callable[[], Work[T]]) -> Work[T]:
    """Let the main process do work whose result stays on disk, then the others, who find it there.

    Where machines share no disk, the first process of each does the work once more.
    """
    results: list[T] = []

    def first() -> Work[None]:
        results.append((yield from work()))

    yield from on_main(first())
    if _is_local_main() and not results:
        results.append(finish(work()))
    wait()
    return results[0] if results else finish(work())
