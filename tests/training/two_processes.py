"""What two processes do together for test_parallel.py: python two_processes.py MODEL FOLDER."""

import json
import sys
from pathlib import Path

import torch

from vipo_cli.errors import VipoError
from vipo_cli.recipe import resolve_recipe
from vipo_cli.run import Progress, finish
from vipo_cli.training import devices
from vipo_cli.training.train import new_run, read_run, train

SMALL = {
    "model.precision": "fp32",
    "data.pairs": 28, "data.held_out": 8, "optimizer.batch_size": 4, "run.steps": 3,
    "run.checkpoint_every": 3, "optimizer.learning_rate": 1e-3, "data.size": [32, 32],
}  # fmt: skip
MOVING = {"model.ema": 0.5, "reference.kind": "ema", "reference.decay": 0.5}
ROUNDS = {"loop.rounds": 2, "loop.prompts": 6, "loop.sampling_steps": 2, "loop.guidance": 1.0}
RUNS = {
    "lora": ("poly-dpo", {"optimizer.micro_batch": 1, "model.ema": 0.5}),
    "decoupled": ("diffusion-dpo", {"optimizer.backward": "decoupled"}),
    "full": ("sipo", {"model.train": "full", **MOVING}),
    "likes": ("kto", {}),
    "guarded": ("diffusion-dpo", {"objective.safeguard": 0.9, "objective.beta": 20.0}),
    "cached": ("poly-dpo", {"noise.draws": 2, "reference.kind": "cached"}),
    "rounds": ("diffusion-dpo", {"loop.kind": "spin", **ROUNDS}),
}
"""Runs that come out the same on one process and on two: method and settings."""
SLICED = {
    "lora-fsdp": ("poly-dpo", {"model.ema": 0.5, **MOVING}),
    "full-fsdp": ("sipo", {"model.train": "full", "model.ema": 0.5}),
    "rounds-fsdp": ("diffusion-dpo", {"loop.kind": "spin", **ROUNDS}),
    "dora-fsdp": ("diffusion-dpo", {"model.adapter": "dora", "optimizer.backward": "decoupled"}),
    "half-fsdp": ("diffusion-dpo", {"model.precision": "bf16", "objective.beta": 2.0}),
}
"""The same with FSDP2."""


def recipe_of(name, model):
    method, settings = (RUNS | SLICED | ZERO)[name]
    kind = name.rpartition("-")[2]
    sharding = {"run.sharding": kind} if kind in ("fsdp", "zero2", "zero3") else {}
    chosen = SMALL | settings | sharding
    return resolve_recipe(None, model=str(model), method=method, settings=chosen)


ZERO = {
    "lora-zero2": ("diffusion-dpo", MOVING),
    "full-zero2": ("diffusion-dpo", {"model.train": "full"}),
    "rounds-zero2": ("diffusion-dpo", {"loop.kind": "spin", **ROUNDS}),
    "lora-zero3": ("diffusion-dpo", {"run.samples": 2}),
    "full-zero3": ("diffusion-dpo", {"model.train": "full"}),
}
"""The same with DeepSpeed, where that is installed."""
STOPPED = ("lora", "full", "lora-fsdp", "full-fsdp", *ZERO)
"""Runs that are stopped after two steps, for the other number of processes to go on with."""


def stop_after(steps, work):
    """Close a run after some steps, as a request to stop does."""
    for progress in work:
        if progress.stage == "training" and progress.done == steps:
            work.close()


def check_talk():
    """Let the processes say to each other all that there is to say."""
    rank = devices.process_rank()
    assert devices.process_count() == 2
    assert devices.is_main() == (rank == 0)
    assert devices.gathered({"rank": rank}) == [{"rank": 0}, {"rank": 1}]
    assert not devices.agreed(False)
    assert devices.agreed(rank == 1)
    numbers = torch.tensor([1.0, 2.0, 3.0] if rank else [6.0])
    assert devices.shared_mean(numbers) == 3.0

    own = []
    progress = list(devices.shared_out("squares", range(5), lambda n: own.append(n) or n * n))
    assert [each.done for each in progress] == [2, 4, 5]
    assert own == ([1, 3, 4] if rank else [0, 2, 4])  # the last once more
    assert finish(devices.shared_out("squares", range(5), lambda n: n * n)) == [0, 1, 4, 9, 16]

    entered = []

    def work(outcome):
        entered.append(rank)
        yield Progress("first", 0, 2)
        yield Progress("first", 1, 2)  # too soon after to be told
        yield Progress("second", 2, 2)
        if isinstance(outcome, VipoError):
            raise outcome
        return outcome

    seen = []
    assert finish(devices.on_main(work("done")), seen.append) == "done"
    assert [(each.stage, each.done) for each in seen] == [("first", 0), ("second", 2)]
    try:
        finish(devices.on_main(work(VipoError("it is broken", hint="mend it", details=["here"]))))
    except VipoError as error:
        assert (error.message, error.hint, error.details) == ("it is broken", "mend it", ("here",))
    else:
        raise AssertionError("an error of the main process was not told")
    assert entered == ([] if rank else [0, 0])
    assert devices.after_main(lambda: rank) == rank
    assert devices.from_main(lambda: rank) == 0


def main(model, folder, names):
    torch.set_num_threads(1)
    found = {}
    for name in names:
        recipe = recipe_of(name, model)
        run = new_run(recipe, folder / name)
        result = finish(train(recipe, run))
        found[name] = {"held_out": result.held_out, "final": result.final}
        assert devices.gathered(result)[0] == result
        if name in STOPPED:
            halves = new_run(recipe, folder / f"{name}-stopped")
            stop_after(2, train(recipe, halves))
            begun = folder / f"{name}-begun"
            if begun.is_dir():
                finish(train(read_run(begun), begun, resume=True))
    check_talk()
    if devices.is_main():
        (folder / "found.json").write_text(json.dumps(found))
    devices.leave()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
