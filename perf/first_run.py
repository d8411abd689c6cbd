"""Time the README's training command and measure its gain in GenEval (shapes), for some seeds.

    python perf/first_run.py --seeds 0 1 2

Prints JSON: seconds of each run, GenEval of base and trained model, and the paired difference.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

VIPO = str(Path(sys.executable).with_name("vipo"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, help="where the runs stay; nowhere if not given")
    parser.add_argument("options", nargs="*", help="further options of vipo train, after --")
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        place = arguments.out or Path(folder)
        for seed in arguments.seeds:
            run = place / f"seed-{seed}"
            command = [VIPO, "train", "--method", "poly-dpo", "--alpha", "0.5", "--seed", str(seed)]
            began = time.perf_counter()
            trained = subprocess.run(
                [*command, "--out", str(run), "--json", *arguments.options],
                check=True, stdout=subprocess.PIPE,
            )  # fmt: skip
            seconds = time.perf_counter() - began
            judged = subprocess.run(
                [VIPO, "eval", "geneval", str(run), "--json"], check=True, stdout=subprocess.PIPE
            )
            print(
                json.dumps(
                    {
                        "seed": seed,
                        "train_seconds": round(seconds, 1),
                        "train": json.loads(trained.stdout),
                        "geneval": json.loads(judged.stdout),
                    }
                ),
                flush=True,
            )


if __name__ == "__main__":
    main()
