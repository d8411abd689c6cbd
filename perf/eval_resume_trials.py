"""Kill evaluations at random moments, run them again, and compare with those that were not killed.

    OMP_NUM_THREADS=1 python perf/eval_resume_trials.py --trials 20

Each trial is one evaluation in a folder of its own, killed with SIGKILL up to three times, each
time at a random moment of one of its stages. Compared are results.json but for `timing` and
`environment`, all verdicts and the bytes of all pictures. Prints JSON.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

VIPO = str(Path(sys.executable).with_name("vipo"))
CASES = (
    ("geneval", "shapes-sd", "--prompts", "6", "--images-per-prompt", "2"),
    ("run", "shapes-cleanliness", "shapes-flow", "--prompts", "8"),
    ("run", "shapes-motion", "shapes-video", "--prompts", "5"),
)
"""Pictures judged one by one and in batches, and clips."""
UNTIMED = ("timing", "environment")
STAGES = ("starting", "drawing", "judging", "reporting")
LATEST = 1.0
"""Seconds after a stage has begun up to which the process is killed."""


def start(case: tuple[str, ...], out: Path) -> subprocess.Popen:
    command = [VIPO, "eval", *case, "--out", str(out), "--quiet"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def stage(out: Path) -> str:
    """Say how far an evaluation has come."""
    if (out / "results.json").is_file():
        return "reporting"
    if (out / "samples.jsonl").is_file():
        return "judging"
    return "drawing" if any(out.glob("pictures-*/*/samples/*")) else "starting"


def state(out: Path) -> dict:
    """Return all that must not depend on having been killed."""
    results = json.loads((out / "results.json").read_text())
    lines = (out / "samples.jsonl").read_text().splitlines()
    files = sorted(out.glob("pictures-*/*/samples/*"))
    return {
        "results": {key: value for key, value in results.items() if key not in UNTIMED},
        "samples": sorted(lines),
        "pictures": {str(file.relative_to(out)): file.read_bytes() for file in files},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--kills", type=int, default=3, help="at most, in a trial")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    killed: Counter[str] = Counter()
    same = 0
    with TemporaryDirectory() as folder:
        whole = {}
        for number, case in enumerate(CASES):
            out = Path(folder) / f"whole-{number}"
            if start(case, out).wait() not in (0, 1):
                raise SystemExit(f"cannot run: vipo eval {' '.join(case)}")
            whole[case] = state(out)
        for trial in range(options.trials):
            case, out = CASES[trial % len(CASES)], Path(folder) / f"trial-{trial}"
            for wanted in sorted(rng.sample(STAGES, k=options.kills), key=STAGES.index):
                process = start(case, out)
                while process.poll() is None and STAGES.index(stage(out)) < STAGES.index(wanted):
                    time.sleep(0.002)
                try:
                    process.wait(rng.uniform(0.0, LATEST))
                    break
                except subprocess.TimeoutExpired:
                    killed[stage(out)] += 1
                    process.send_signal(signal.SIGKILL)
                    process.wait()
            start(case, out).wait()
            same += state(out) == whole[case]
            sys.stderr.write(f"trial {trial}: {same} the same, killed {dict(killed)}\n")
    document = {"trials": options.trials, "same": same, "kills": killed.total(), "in": killed}
    print(json.dumps(document))


if __name__ == "__main__":
    main()
