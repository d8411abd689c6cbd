"""Native rewards beside the official packages' own loops: same weights, pictures and threads.

    vipo eval setup image-reward && vipo eval setup hpsv2
    python perf/reward_throughput.py imagereward hpsv2.1 --pictures 16 --per-prompt 1 8 --threads 2

The official side is what the package's users write, in the environment that `vipo eval setup`
makes: one call of its `score` for each prompt with the files of that prompt's pictures. hpsv2 reads
its checkpoint in each of those calls; `official_in_memory` is the same loop with a model that was
filled beforehand, without as much as copying the weights. The native side is one call with every
picture. Both are loaded and warmed up with one picture, and decode PNG files from the page cache.

Beside the times stands what they are made of: the arithmetic of the models (counted by torch), what
the machine multiplies at most (measured around it), and the time that the native arithmetic would
take at that rate. No implementation with this arithmetic is faster, so the official time divided
by it is the greatest ratio that there is to reach. Weights are random, of the official shape,
unless given. On a machine with CUDA both sides run there. Prints JSON.
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
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from vipo_cli.rewards import rewards
from vipo_cli.rewards.official import PATIENCE, with_backend
from vipo_cli.rewards.options import torch_device, torch_dtype
from vipo_cli.rewards.parity import write_random_weights
from vipo_cli.weights import SOURCES, converted_file

SIDE = 512
"""Of the pictures, in pixels."""
LONG = "a very long prompt " * 40
"""Fills all the places that a model has for words."""
SHAPES = ((2056, 1280, 5120), (1576, 1024, 4096), (4096, 4096, 4096), (2048, 2048, 2048))
"""Products of matrices by which the machine is measured: two of the models', two that it likes."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("rewards", nargs="+")
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--per-prompt", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--precision", default="fp32", help="of the native side")
    parser.add_argument("--batch-size", type=int, help="of the native side, else its own choice")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--weights", type=Path, help="folder with the real ones")
    parser.add_argument("--keep", type=Path, help="folder to keep random ones in, and to find them")
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
        "weights": str(arguments.weights or "random, of the official shape"),
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
    precision = arguments.precision
    with contextlib.ExitStack() as stack:
        folder, checkpoint = weights_of(name, arguments, stack)
        prompts = {
            count: [f"prompt number {place // count}" for place in range(len(pictures))]
            for count in arguments.per_prompt
        }
        most = fastest_product(precision)
        theirs, about = official(name, folder, pictures, prompts)
        ours, arithmetic = native(name, folder, pictures, prompts, arguments)
        most = max(most, fastest_product(precision))
    return {
        "official": about,
        "native": {"torch": torch.__version__, "precision": precision},
        "checkpoint_bytes": checkpoint.stat().st_size,
        "gflop_a_picture": {
            "official": round(arithmetic.official / 1e9, 1),
            "native": round(arithmetic.picture / 1e9, 1),
            "native_a_prompt": round(arithmetic.prompt / 1e9, 1),
        },
        "greatest_gflop_per_second": round(most / 1e9, 1),
        "pictures_a_prompt": {
            count: compared(
                {way: times[count] for way, times in theirs.items()},
                ours[count],
                arithmetic,
                most,
                len(set(words)),
            )
            for count, words in prompts.items()
        },
    }


@dataclass(frozen=True, slots=True)
class Timed:
    """One measurement; seconds of the processor count what others on the machine do not disturb."""

    seconds: float
    cpu_seconds: float
    scores: Any
    load_average: float


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """Floating-point operations, additions and multiplications each counted.

    Attributes:
        official: of a picture in the package, which reads the prompt anew for each and at full
            length.
        picture, prompt: of a picture, and of a prompt however many pictures it has, in vipo.
    """

    official: float
    picture: float
    prompt: float


def compared(
    theirs: dict[str, Timed], ours: Timed, arithmetic: Arithmetic, most: float, prompts: int
) -> dict[str, Any]:
    """Lay out what was measured for one number of pictures a prompt."""
    count = len(ours.scores)
    needed = count * arithmetic.picture + prompts * arithmetic.prompt
    found: dict[str, Any] = {}
    for way, their in theirs.items():
        found[way] = shown(their, count, count * arithmetic.official) | {
            "native_is_times_as_fast": round(their.seconds / ours.seconds, 2),
            "native_takes_times_less_cpu": round(their.cpu_seconds / ours.cpu_seconds, 2),
            "greatest_ratio": round(their.seconds * most / needed, 2),
            "largest_difference": float(np.abs(their.scores - ours.scores).max()),
        }
    return found | {"native": shown(ours, count, needed)}


def shown(found: Timed, pictures: int, operations: float) -> dict[str, float]:
    return {
        "seconds": round(found.seconds, 2),
        "cpu_seconds": round(found.cpu_seconds, 2),
        "pictures_per_second": round(pictures / found.seconds, 3),
        "gflop_per_second": round(operations / found.seconds / 1e9, 1),
        "load_average": round(found.load_average, 1),
    }


def weights_of(
    name: str, arguments: argparse.Namespace, stack: contextlib.ExitStack
) -> tuple[Path, Path]:
    """Return a folder with weights and its checkpoint, after drawing them if there are none."""
    main_file = SOURCES[name].files[0].name
    if arguments.weights is not None:
        return arguments.weights, arguments.weights / main_file
    if arguments.keep is None:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="vipo-random-weights-")))
        checkpoint = write_random_weights(name, folder, 0)
        stack.callback(converted_file(checkpoint).unlink, missing_ok=True)
        return folder, checkpoint
    folder = arguments.keep / name
    if not folder.is_dir():
        half_done = arguments.keep / f"{name}.part"
        half_done.mkdir(parents=True, exist_ok=True)
        write_random_weights(name, half_done, 0)
        half_done.rename(folder)
    return folder, folder / main_file


def fastest_product(precision: str) -> float:
    """Return the operations a second of the fastest product of matrices, over about two seconds."""
    device = torch_device("auto")
    best = 0.0
    for rows, inner, columns in SHAPES:
        left = torch.randn(rows, inner, device=device, dtype=torch_dtype(precision))
        right = torch.randn(columns, inner, device=device, dtype=torch_dtype(precision))
        until = time.perf_counter() + 0.7
        while time.perf_counter() < until:
            began = time.perf_counter()
            torch.nn.functional.linear(left, right)
            if device.type == "cuda":
                torch.cuda.synchronize()
            best = max(best, 2 * rows * inner * columns / (time.perf_counter() - began))
    return best


def timed(work: Callable[[], Any], process: int) -> Timed:
    cpu, began = cpu_seconds(process), time.perf_counter()
    scores = work()
    seconds = time.perf_counter() - began
    return Timed(seconds, cpu_seconds(process) - cpu, scores, os.getloadavg()[0])


def cpu_seconds(process: int) -> float:
    """Return what a process has used of all processors, its input and output included."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def official(
    name: str, folder: Path, pictures: list[Path], prompts: dict[int, list[str]]
) -> tuple[dict[str, dict[int, Timed]], dict[str, Any]]:
    """Run the package's loop, and for one that reads its weights in it, that without reading."""
    ways = {"official": {}}
    if name.startswith("hpsv2"):
        ways = {"official": {"reread": True}, "official_in_memory": {}}
    found: dict[str, dict[int, Timed]] = {}
    for way, options in ways.items():
        reward: Any = with_backend(name, "official")(path=str(folder), **options)
        with reward.worker as worker:

            def score(files: list[Path], words: list[str], worker: Any = worker) -> Any:
                request = {"do": "score", "pictures": list(map(str, files)), "prompts": words}
                return np.array([each["score"] for each in worker.ask(request, 4 * PATIENCE)])

            score(pictures[:1], ["warm up"])
            found[way] = {
                count: timed(partial(score, pictures, words), worker.process_id)
                for count, words in prompts.items()
            }
    return found, dict(reward.about)


def native(
    name: str,
    folder: Path,
    pictures: list[Path],
    prompts: dict[int, list[str]],
    arguments: argparse.Namespace,
) -> tuple[dict[int, Timed], Arithmetic]:
    options = {"dtype": arguments.precision, "batch_size": arguments.batch_size}
    reward: Any = rewards[name](path=str(folder), **options)
    two, prompt = [file.read_bytes() for file in pictures[:2]], "prompt number 0"
    once = operations(lambda: reward.score(two[:1], [prompt]))
    picture = operations(lambda: reward.score(two, [prompt] * 2)) - once
    arithmetic = Arithmetic(
        operations(lambda: reward.score(two[:1], [LONG])), picture, once - picture
    )
    found: dict[int, Timed] = {}
    for count, words in prompts.items():
        found[count] = timed(
            lambda words=words: reward.score([file.read_bytes() for file in pictures], words),
            os.getpid(),
        )
    return found, arithmetic


def operations(work: Callable[[], Any]) -> int:
    """Count the operations of products of matrices, of convolutions and of attention."""

    def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> Any:
        return sdpa_flop_count(query, key, value)

    ours = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}
    with FlopCounterMode(display=False, custom_mapping=ours) as counter:  # which lacks the CPU's
        work()
    count: int = counter.get_total_flops()
    return count


if __name__ == "__main__":
    main()
