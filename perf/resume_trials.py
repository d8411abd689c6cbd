"""Kill a run with SIGKILL at random moments, resume it, and compare its final weights to the bit.

    python perf/resume_trials.py --trials 10

Prints JSON. Each trial kills the run once or more, until it has survived to its end.
"""

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors.numpy import load_file

VIPO = Path(sys.executable).with_name("vipo")


def start(out: Path, steps: int) -> list[str]:
    settings = [f"run.steps={steps}", "run.checkpoint_every=4", "optimizer.batch_size=8"]
    settings += ["data.pairs=64", "data.held_out=16", "model.ema=0.99"]
    chosen = [part for setting in settings for part in ("--set", setting)]
    return [
        str(VIPO),
        "train",
        "--method",
        "poly-dpo",
        "--alpha",
        "0.5",
        "--out",
        str(out),
        *chosen,
    ]


def digest(run: Path) -> str:
    """Hash all tensors; not the files, since safetensors orders the keys of a header at random."""
    last = sorted((run / "checkpoints").glob("step-*"))[-1]
    found = hashlib.sha256()
    for file in ("pytorch_lora_weights.safetensors", "resume/state.safetensors"):
        for name, tensor in sorted(load_file(last / file).items()):
            found.update(name.encode())
            found.update(tensor.tobytes())
    return found.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    with TemporaryDirectory() as folder:
        whole = Path(folder, "whole")
        command = start(whole, arguments.steps)
        subprocess.run(command, env=environment, check=True, capture_output=True)
        began = time.perf_counter()
        repeat = Path(folder, "repeat")
        subprocess.run(
            start(repeat, arguments.steps), env=environment, check=True, capture_output=True
        )
        seconds = time.perf_counter() - began
        expected = digest(whole)
        assert digest(repeat) == expected, "two uninterrupted runs differ: nothing can be concluded"

        trials = []
        for trial in range(arguments.trials):
            run = Path(folder, f"trial-{trial}")
            moments = []
            while True:
                resumable = (run / "recipe.yaml").exists()
                command = (
                    [str(VIPO), "train", "--resume", str(run)]
                    if resumable
                    else start(run, arguments.steps)
                )
                process = subprocess.Popen(
                    command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
                )
                moment = random.uniform(0.2, 1.0) * seconds
                try:
                    _, errors = process.communicate(timeout=moment if len(moments) < 3 else None)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.communicate()
                    done = sorted(path.name for path in (run / "checkpoints").glob("step-*"))
                    moments.append({"after_seconds": round(moment, 2), "checkpoints": done})
                    continue
                assert process.returncode == 0, errors.decode()
                if moments:
                    break
                # it finished before it could be killed: try again with a new directory
                run = Path(folder, f"trial-{trial}-{random.random()}")
            trials.append({"kills": moments, "identical": digest(run) == expected})
    identical = sum(trial["identical"] for trial in trials)
    print(json.dumps({"trials": trials, "identical": identical, "of": len(trials)}, indent=2))
    sys.exit(0 if identical == len(trials) else 3)


if __name__ == "__main__":
    main()
