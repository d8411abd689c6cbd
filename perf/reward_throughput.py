"""Native rewards beside the official packages' own scoring: same weights, pictures and threads.

    vipo eval setup image-reward && vipo eval setup hpsv2
    python perf/reward_throughput.py imagereward hpsv2.1 --pictures 16 --per-prompt 1 8

The official side is what the package's users write: one call of its `score` for each prompt, with
the list of that prompt's pictures, in the environment that `vipo eval setup` makes. hpsv2 reads its
checkpoint in each of those calls, as it does for its users (vipo's official backend keeps it from
that unless asked to). The native side is one call with everything. Both are loaded beforehand and
warmed up with one picture; both read PNG files from the page cache. Weights are random, of the
official shape, unless given. Prints JSON.
"""

import argparse
import contextlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch
from PIL import Image

from vipo_cli.rewards import rewards
from vipo_cli.rewards.official import PATIENCE, with_backend
from vipo_cli.rewards.parity import write_random_weights
from vipo_cli.weights import converted_file

SIDE = 512
"""Of the pictures, in pixels."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("rewards", nargs="+")
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--per-prompt", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--dtype", default="fp32", help="of the native side")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--weights", help="folder with the real ones")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    with TemporaryDirectory(prefix="vipo-throughput-") as place:
        pictures = write_pictures(Path(place), arguments.pictures)
        found = {name: measured(name, pictures, arguments) for name in arguments.rewards}
    document = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": arguments.threads,
        "pictures": arguments.pictures,
        "weights": arguments.weights or "random, of the official shape",
        "rewards": found,
    }
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def write_pictures(folder: Path, count: int) -> list[Path]:
    rng = np.random.default_rng(0)
    files = [folder / f"{number:04d}.png" for number in range(count)]
    for file in files:
        coarse = Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8))
        coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(file)
    return files


def measured(name: str, pictures: list[Path], arguments: argparse.Namespace) -> dict[str, Any]:
    with contextlib.ExitStack() as stack:
        folder = arguments.weights
        if folder is None:
            folder = stack.enter_context(TemporaryDirectory(prefix="vipo-random-weights-"))
            checkpoint = write_random_weights(name, Path(folder), 0)
            stack.callback(converted_file(checkpoint).unlink, missing_ok=True)
        prompts = {
            count: [f"prompt number {place // count}" for place in range(len(pictures))]
            for count in arguments.per_prompt
        }
        theirs, about = official(name, folder, pictures, prompts)
        ours = native(name, folder, pictures, prompts, arguments)
    return {
        "official": about,
        "native": {"torch": torch.__version__, "dtype": arguments.dtype},
        "pictures_a_prompt": {
            count: {
                "official": shown(theirs[count], len(pictures)),
                "native": shown(ours[count], len(pictures)),
                "times_as_fast": round(theirs[count].seconds / ours[count].seconds, 2),
                "times_less_cpu": round(theirs[count].cpu_seconds / ours[count].cpu_seconds, 2),
                "largest_difference": float(
                    np.abs(theirs[count].scores - ours[count].scores).max()
                ),
            }
            for count in prompts
        },
    }


@dataclass(frozen=True, slots=True)
class Timed:
    """One measurement; seconds of the processor count what others on the machine do not disturb."""

    seconds: float
    cpu_seconds: float
    scores: Any
    load_average: float


def timed(work: Callable[[], Any], process: int) -> Timed:
    cpu, began = cpu_seconds(process), time.perf_counter()
    scores = work()
    seconds = time.perf_counter() - began
    return Timed(seconds, cpu_seconds(process) - cpu, scores, os.getloadavg()[0])


def cpu_seconds(process: int) -> float:
    """Return what a process has used of all processors, its input and output included."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def shown(found: Timed, pictures: int) -> dict[str, float]:
    return {
        "seconds": round(found.seconds, 2),
        "cpu_seconds": round(found.cpu_seconds, 2),
        "pictures_per_second": round(pictures / found.seconds, 3),
        "load_average": round(found.load_average, 1),
    }


def official(
    name: str, folder: str, pictures: list[Path], prompts: dict[int, list[str]]
) -> tuple[dict[int, Timed], dict[str, Any]]:
    options = {"reread": True} if name.startswith("hpsv2") else {}
    reward: Any = with_backend(name, "official")(path=folder, **options)
    found: dict[int, Timed] = {}
    with reward.worker as worker:

        def score(files: list[Path], words: list[str]) -> Any:
            request = {"do": "score", "pictures": list(map(str, files)), "prompts": words}
            return np.array([each["score"] for each in worker.ask(request, 4 * PATIENCE)])

        score(pictures[:1], ["warm up"])
        for count, words in prompts.items():
            found[count] = timed(partial(score, pictures, words), worker.process_id)
    return found, dict(reward.about)


def native(
    name: str,
    folder: str,
    pictures: list[Path],
    prompts: dict[int, list[str]],
    arguments: argparse.Namespace,
) -> dict[int, Timed]:
    options = {"path": folder, "dtype": arguments.dtype, "batch_size": arguments.batch_size}
    reward: Any = rewards[name](**options)
    reward.score([pictures[0].read_bytes()], ["warm up"])
    found: dict[int, Timed] = {}
    for count, words in prompts.items():
        found[count] = timed(
            lambda words=words: reward.score([file.read_bytes() for file in pictures], words),
            os.getpid(),
        )
    return found


if __name__ == "__main__":
    main()
