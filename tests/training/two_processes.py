"""What two processes do together for test_parallel.py: python two_processes.py MODEL FOLDER."""

import json
import sys
from pathlib import Path

import torch

from vipo_cli.recipe import resolve_recipe
from vipo_cli.run import finish
from vipo_cli.training import devices
from vipo_cli.training.train import new_run, read_run, train

SMALL = {
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
    "half-fsdp": ("diffusion-dpo", {"model.precision": "bf16"}),
}
"""The same with FSDP2."""


def recipe_of(name, model):
    method, settings = (RUNS | SLICED | ZERO)[name]
    kind = name.rpartition("-")[2]
    sharding = {"run.sharding": kind} if kind in ("fsdp", "zero2", "zero3") else {}
    chosen = SMALL | settings | sharding
    return resolve_recipe(None, model=str(model), method=method, settings=chosen)


ZERO = {
    f"{part}-{stage}": ("diffusion-dpo", {"model.train": part})
    for part in ("lora", "full")
    for stage in ("zero2", "zero3")
}
"""The same with DeepSpeed, where that is installed."""
STOPPED = ("lora", "full", "lora-fsdp", "full-fsdp")
"""Runs that are stopped after two steps, for the other number of processes to go on with."""


def stop_after(steps, work):
    """Close a run after some steps, as a request to stop does."""
    for progress in work:
        if progress.stage == "training" and progress.done == steps:
            work.close()


def main(model, folder, names):
    torch.set_num_threads(1)
    found = {}
    for name in names:
        recipe = recipe_of(name, model)
        run = new_run(recipe, folder / name)
        result = finish(train(recipe, run))
        found[name] = {"held_out": result.held_out, "final": result.final}
        if name in STOPPED:
            halves = new_run(recipe, folder / f"{name}-stopped")
            stop_after(2, train(recipe, halves))
            begun = folder / f"{name}-begun"
            if begun.is_dir():
                finish(train(read_run(begun), begun, resume=True))
    if devices.is_main():
        (folder / "found.json").write_text(json.dumps(found))
    devices.leave()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
