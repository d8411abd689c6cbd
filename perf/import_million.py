"""A synthetic data set in the layout of Pick-a-Pic v2: how fast it is imported, opened and read.

    python perf/import_million.py --pairs 1000000 --bytes 4000 --shards 20 --folder million

Pictures are random bytes between the marks of a JPEG: nothing here decodes them. The import runs in
a process of its own, whose peak of memory the system tells. The file system's cache is as warm as
writing left it. Prints JSON.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

BATCH = 1000
PROMPTS_EACH = 17
"""Pairs that share a prompt: Pick-a-Pic v2 has 851,293 over 58,960."""
TIES = 0.12
READ = 20_000
"""Records read in order."""


def write(folder: Path, pairs: int, size: int, shards: int) -> int:
    """Write the data set; return its bytes."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    each = -(-pairs // shards)
    for shard in range(shards):
        rows = range(shard * each, min(pairs, (shard + 1) * each))
        file = folder / f"train-{shard:05d}-of-{shards:05d}.parquet"
        writer = None
        for start in range(rows.start, rows.stop, BATCH):
            table = batch(rng, range(start, min(start + BATCH, rows.stop)), size)
            writer = writer or pq.ParquetWriter(file, table.schema)
            writer.write_table(table)
        if writer:
            writer.close()
    return sum(file.stat().st_size for file in folder.iterdir())


def batch(rng: np.random.Generator, rows: range, size: int) -> pa.Table:
    count = len(rows)
    first = rng.integers(0, 2, count).astype(float)
    first[rng.random(count) < TIES] = 0.5
    columns = {"caption": [f"a picture of thing {row // PROMPTS_EACH}, in oil" for row in rows]}
    for side in "01":
        columns[f"jpg_{side}"] = pictures(rng, count, size)
        columns[f"image_{side}_uid"] = [f"{row:024x}-{side}" for row in rows]
        columns[f"model_{side}"] = [f"model-{number}" for number in rng.integers(0, 9, count)]
    return pa.table(
        columns
        | {
            "label_0": first,
            "label_1": 1 - first,
            "has_label": np.ones(count, bool),
            "are_different": np.ones(count, bool),
            "ranking_id": list(rows),
            "user_id": rng.integers(0, 5000, count),
            "num_example_per_prompt": np.full(count, PROMPTS_EACH),
            "created_at": pa.array(np.arange(count), pa.timestamp("ms")),
        }
    )


def pictures(rng: np.random.Generator, count: int, size: int) -> list[bytes]:
    sizes = rng.integers(size // 2, size * 3 // 2, count)
    noise, ends = rng.bytes(int(sizes.sum())), np.cumsum(sizes).tolist()
    return [
        b"\xff\xd8\xff\xe0" + noise[start:end] + b"\xff\xd9"
        for start, end in zip([0, *ends], ends, strict=False)
    ]


def in_another_process(task: str, *arguments: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--task", task, *arguments]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(found.stdout)


def import_it(source: str, folder: str) -> dict[str, float]:
    """Import through the command line; its peak of memory is that of the only child."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "vipo_cli", "data", "import", source, "--out", folder, "-q"]
    subprocess.run(command, check=True, capture_output=True)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return {"seconds": seconds, "peak_megabytes": peak / 1024}


def open_it(place: str) -> dict[str, float]:
    """Open, read at random and in order; the imports come before the clock starts."""
    import pyarrow.compute  # noqa: F401 - on first use it takes as long as all the rest

    from vipo_cli.data.sources import open_pairs

    start = time.perf_counter()
    pairs = open_pairs(place)
    opened = time.perf_counter() - start
    rows = np.random.default_rng(1).integers(0, len(pairs), 1000).tolist()
    start = time.perf_counter()
    for row in rows:
        pairs[row]
    scattered = (time.perf_counter() - start) / len(rows)
    count = min(READ, len(pairs))
    start = time.perf_counter()
    for row in range(count):
        pairs[row]
    in_order = count / (time.perf_counter() - start)
    start = time.perf_counter()
    prompts = len(pairs.prompts())
    return {
        "pairs": len(pairs),
        "open_seconds": opened,
        "milliseconds_a_random_record": scattered * 1e3,
        "records_a_second_in_order": in_order,
        "seconds_for_all_prompts": time.perf_counter() - start,
        "prompts": prompts,
        "peak_megabytes": peak_megabytes(),
    }


def peak_megabytes() -> float:
    """Return the peak of this process alone; what getrusage tells includes that of its parent."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--bytes", type=int, default=4000, help="of a picture, on average")
    parser.add_argument("--shards", type=int, default=20)
    parser.add_argument("--folder", type=Path, default=Path("million"), help="removed at the end")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--task", choices=["import", "open"], help=argparse.SUPPRESS)
    parser.add_argument("places", nargs="*", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.task:
        task = {"import": import_it, "open": open_it}[given.task]
        print(json.dumps(task(*given.places)))
        return
    source, folder = given.folder / "source", given.folder / "imported"
    size = write(source, given.pairs, given.bytes, given.shards)
    found = in_another_process("import", str(source), str(folder))
    files = list(folder.glob("*.parquet"))
    report = {
        "pairs": given.pairs,
        "source": {"gigabytes": size / 1e9, "files": given.shards},
        "import": found | {"pairs_a_second": given.pairs / found["seconds"]},
        "imported": {
            "gigabytes": sum(file.stat().st_size for file in files) / 1e9,
            "files": len(files),
            **in_another_process("open", str(folder)),
        },
        "original": in_another_process("open", str(source)),
    }
    if not given.keep:
        shutil.rmtree(given.folder)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
