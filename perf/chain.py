"""From prompts to a better model on the shapes world, for some seeds: the commands of `vipo data`.

    python perf/chain.py --seeds 0 1 --prompts 600 --steps 80

Candidates of two models for each prompt, the best against the worst by a reward, training, GenEval.
Prints a JSON line for each seed: how many pairs, and the paired difference to the base model.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

VIPO = str(Path(sys.executable).with_name("vipo"))


def vipo(*words: object) -> dict:
    """Run a command and return its document."""
    command = [VIPO, *map(str, words), "--json"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def chain(place: Path, seed: int, prompts: int, steps: int) -> dict:
    """Go the whole way with one seed, which draws the prompts, the candidates and the training."""
    candidates, pairs, run = place / "candidates", place / "pairs", place / "run"
    drawn_from = ["shapes", "--set", f"pairs={prompts}", "--set", f"seed={1000 + seed}"]
    two = ["--model", "shapes-sd", "--model", "shapes-flow", "--per-prompt", 2]
    vipo("data", "generate", *drawn_from, *two, "--seed", seed, "--out", candidates)
    by = ["--by", "reward:shapes-alignment", "--min-margin", 0.2]
    built = vipo("data", "build", candidates, *by, "--out", pairs)
    vipo("data", "check", pairs)
    method = ["--method", "poly-dpo", "--alpha", 0.5, "--steps", steps, "--seed", seed]
    trained = vipo("train", *method, "--data", pairs, "--out", run)
    judged = vipo("eval", "geneval", run)
    return {"built": built, "train": trained, "geneval": judged}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--prompts", type=int, default=600)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--out", type=Path, help="where all of it stays; nowhere if not given")
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        for seed in arguments.seeds:
            place = (arguments.out or Path(folder)) / f"seed-{seed}"
            began = time.perf_counter()
            found = chain(place, seed, arguments.prompts, arguments.steps)
            seconds = round(time.perf_counter() - began, 1)
            print(json.dumps({"seed": seed, "seconds": seconds, **found}), flush=True)


if __name__ == "__main__":
    main()
