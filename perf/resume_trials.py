"""Kill runs with SIGKILL at random moments, resume them, and compare what they come to, to the bit.

    OMP_NUM_THREADS=1 python perf/resume_trials.py --trials 200

Every trial takes a model family, an objective and LoRA or full fine-tuning by chance, on a tiny
random pipeline. A run is killed up to three times and resumed until it has reached its end; then
its weights, its optimizer and the records of all its steps must equal those of a run that was never
touched, and no checkpoint that was once complete may have been lost. The interpreter is started
once, and each run is a fork of it. Prints JSON; exit status 3 if anything differs.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

SMALL = {
    "run.steps": 8, "run.checkpoint_every": 2, "run.held_out_every": 4, "optimizer.batch_size": 4,
    "optimizer.learning_rate": 1e-3, "data.pairs": 24, "data.held_out": 6, "model.ema": 0.9,
    "model.precision": "fp32",
}  # fmt: skip
ROUNDS = {"loop.rounds": 2, "loop.prompts": 8, "loop.sampling_steps": 3, "loop.guidance": 1.0}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "poly-dpo": {"objective.alpha": 0.5},
    "sipo": {},
    "dspo": {},
    "kto": {},
    "mapo": {},
    "cached": {"objective.method": "poly-dpo", "noise.draws": 2, "reference.kind": "cached"},
    "moving": {"objective.method": "diffusion-dpo", "reference.kind": "ema"},
    "spin": {"objective.method": "diffusion-dpo", "loop.kind": "spin", **ROUNDS},
}
"""What a run minimises, by the name that a trial has for it."""


def command(folder: Path, family: str, objective: str, train: str, out: Path) -> list[str]:
    """Return the command line of a run."""
    video = family in ("wan", "cogvideox", "hunyuan")
    chosen = SMALL | {"model.train": train, "data.name": "shapes-clips" if video else "shapes"}
    chosen |= OBJECTIVES[objective]
    chosen.setdefault("objective.method", objective)
    settings = [part for key, value in chosen.items() for part in ("--set", f"{key}={value}")]
    return ["train", "--model", str(folder / family), "--out", str(out), *settings]


def start(arguments: list[str], log: Path) -> int:
    """Run a command of vipo in a fork; return its process number."""
    child = os.fork()
    if child:
        return child
    os.setsid()
    with log.open("ab") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    from vipo_cli.cli import main

    sys.argv = ["vipo", *arguments]
    status = 1
    try:
        main()
        status = 0
    except SystemExit as stopped:
        status = int(stopped.code or 0)
    finally:
        os._exit(status)


def wait(child: int, seconds: float | None) -> int | None:
    """Return the exit status of a process; None if it had to be killed after so many seconds."""
    until = time.monotonic() + seconds if seconds is not None else float("inf")
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def outcome(run: Path) -> dict[str, str]:
    """Name all that a run came to: tensors, not files, since their headers' order is by chance."""
    from safetensors.numpy import load_file

    last = sorted((run / "checkpoints").glob("step-*"))[-1]
    found = {}
    for file in sorted(last.rglob("*.safetensors")):
        digest = hashlib.sha256()
        for name, tensor in sorted(load_file(file).items()):
            digest.update(name.encode() + tensor.tobytes())
        found[str(file.relative_to(last))] = digest.hexdigest()
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        record.pop("seconds", None)
    found["records"] = hashlib.sha256(json.dumps(records).encode()).hexdigest()
    return found


def trial(arguments: list[str], run: Path, seconds: float, chance: random.Random) -> dict[str, Any]:
    """Kill and resume one run until it is done."""
    kills, lost, log = [], 0, run.with_suffix(".log")
    kept: set[str] = set()
    while True:
        resumed = (run / "recipe.yaml").is_file()
        child = start(["train", "--resume", str(run)] if resumed else arguments, log)
        moment = chance.uniform(0.0, 1.0) * seconds if len(kills) < 3 else None
        status = wait(child, moment)
        there = {path.name for path in (run / "checkpoints").glob("step-*")}
        newest = max(kept, default="")
        lost += bool(newest) and newest not in there and max(there, default="") < newest
        kept |= there
        if status is None:
            kills.append(
                {"after_seconds": round(moment or 0, 2), "checkpoint": max(there, default=None)}
            )
            continue
        if status != 0:
            return {"kills": kills, "failed": log.read_text()[-2000:], "lost": lost}
        return {"kills": kills, "lost": lost}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--families", nargs="*", help="all where not given")
    given = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch

    import vipo_cli.training.train  # noqa: F401  what every fork needs, once
    from tests.tiny import FAMILIES, build

    torch.set_num_threads(1)
    chance = random.Random(given.seed)
    families = given.families or FAMILIES
    whole: dict[tuple[str, str, str], tuple[dict[str, str], float]] = {}
    trials = []
    with TemporaryDirectory() as place:
        folder = Path(place)
        os.environ["VIPO_CACHE"] = str(folder / "cache")
        for family in families:
            build(family, folder / family)
        for number in range(given.trials):
            case = (
                families[number % len(families)],
                chance.choice(list(OBJECTIVES)),
                chance.choice(("lora", "full")),
            )
            if case not in whole:
                run = folder / f"whole-{'-'.join(case)}"
                began = time.monotonic()
                if wait(start(command(folder, *case, run), run.with_suffix(".log")), None) != 0:
                    sys.exit(f"{case}: {run.with_suffix('.log').read_text()}")
                whole[case] = outcome(run), time.monotonic() - began
            expected, seconds = whole[case]
            run = folder / f"trial-{number}"
            found = trial(command(folder, *case, run), run, seconds, chance)
            identical = "failed" not in found and outcome(run) == expected
            trials.append({"case": case, "identical": identical, **found})
            verdict = "same" if identical else "DIFFERS"
            sys.stderr.write(f"{number + 1}/{given.trials} {' '.join(case)}: {verdict}\n")
    good = sum(one["identical"] and not one["lost"] for one in trials)
    kills = sum(len(one["kills"]) for one in trials)
    early = sum(kill["checkpoint"] is None for one in trials for kill in one["kills"])
    summary = {
        "of": len(trials),
        "identical": good,
        "cases": len(whole),
        "kills": kills,
        "before_a_checkpoint": early,
    }
    print(
        json.dumps(
            {**summary, "trials": [one for one in trials if not one["identical"] or one["lost"]]},
            indent=2,
        )
    )
    sys.exit(0 if good == len(trials) else 3)


if __name__ == "__main__":
    main()
