"""How long `vipo analyze conflict` takes over a million pairs that have been scored before.

Made-up pairs in the columns of Pick-a-Pic v2, with the scores of five rewards, models and
annotators, in three places: as they come, with the scores in columns of their own; imported, with
the scores in the rows; and imported, with the scores beside the data as `vipo data score` writes
them. Media are a few bytes: none is read. Prints JSON; each time is that of another process.

    python perf/conflict_million.py --pairs 1000000
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

BATCH = 50_000
PROMPTS_EACH = 17
"""Pairs that share a prompt: Pick-a-Pic v2 has 851,293 over 58,960."""
REWARDS = {"pickscore": 0.80, "hpsv2": 0.69, "imagereward": 0.61, "clip": 0.61, "aesthetic": 0.55}
"""With their accuracy."""
RUNS = 3


def write(folder: Path, pairs: int, shards: int) -> None:
    """Write the data set."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    each = -(-pairs // shards)
    for shard in range(shards):
        rows = range(shard * each, min(pairs, (shard + 1) * each))
        writer = None
        for start in range(rows.start, rows.stop, BATCH):
            table = batch(rng, range(start, min(start + BATCH, rows.stop)))
            file = folder / f"train-{shard:05d}-of-{shards:05d}.parquet"
            writer = writer or pq.ParquetWriter(file, table.schema)
            writer.write_table(table)
        if writer:
            writer.close()


def batch(rng: np.random.Generator, rows: range) -> pa.Table:
    """Return rows; each reward is the true quality with noise, and prefers as many winners."""
    from scipy.stats import norm

    count = len(rows)
    first = rng.integers(0, 2, count).astype(float)
    columns = {
        "caption": [f"a picture of thing {row // PROMPTS_EACH}, in oil" for row in rows],
        "label_0": first,
        "label_1": 1 - first,
        "ranking_id": np.arange(rows.start, rows.stop),
        "user_id": rng.integers(0, 5000, count),
    }
    for side, sign in (("0", 1), ("1", -1)):
        columns[f"jpg_{side}"] = [b"%d-%s" % (row, side.encode()) for row in rows]
        columns[f"model_{side}"] = [f"model-{number}" for number in rng.integers(0, 9, count)]
        for name, accuracy in REWARDS.items():
            centre = sign * (first - 0.5) * norm.ppf(accuracy) * np.sqrt(2)
            columns[f"{name}_{side}"] = centre + rng.normal(size=count)
    return pa.table(columns)


def score_beside(folder: Path) -> None:
    """Move the scores out of the rows, to where `vipo data score` puts them."""
    from vipo_cli.building.scoring import SHARD_ROWS
    from vipo_cli.data.scores import SCORES, MediaKeys, media_keys, write_scores
    from vipo_cli.data.stored import read_manifest

    keys = media_keys(folder)
    rng = np.random.default_rng(1)
    for name in REWARDS:
        values = rng.normal(size=len(keys))
        for start in range(0, len(keys), SHARD_ROWS):
            part = slice(start, start + SHARD_ROWS)
            several = MediaKeys(keys.media[part], keys.prompts[part], keys.counts[:0])
            write_scores(folder / SCORES, name, "made up", several, values[part])
    assert read_manifest(folder)


def analyse(place: Path) -> dict[str, float]:
    """Time the command, and from opening to printing within it; the best of a few runs."""
    inner, whole = [], []
    for _ in range(RUNS):
        start = time.perf_counter()
        command = [sys.executable, __file__, "--task", str(place)]
        found = subprocess.run(command, check=True, capture_output=True, text=True)
        whole.append(time.perf_counter() - start)
        inner.append(json.loads(found.stderr.splitlines()[-1]))
    best = min(inner, key=lambda each: each["seconds_open_to_printed"])
    return best | {"seconds_of_the_process": min(whole)}


def task(place: str) -> None:
    """Open, analyse and print in this process; tell the time on stderr."""
    import pandas  # noqa: F401 - pyarrow imports it, as soon as it makes an array
    import pyarrow.compute  # noqa: F401 - on first use it takes as long as opening does

    import vipo_cli.cli.show_conflict
    import vipo_cli.evaluation.conflict  # noqa: F401 - the imports come before the clock starts
    from vipo_cli.cli.analyze import conflict

    start, used = time.perf_counter(), time.process_time()
    conflict(place, quiet=False)
    seconds, used = time.perf_counter() - start, time.process_time() - used
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    report = {
        "seconds_open_to_printed": seconds,
        "processor_seconds_open_to_printed": used,
        "peak_megabytes": peak,
    }
    print(json.dumps(report), file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--shards", type=int, default=20)
    parser.add_argument("--folder", type=Path, default=Path("million"), help="removed at the end")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.task:
        task(given.task)
        return
    source, stored = given.folder / "source", given.folder / "stored"
    write(source, given.pairs, given.shards)
    report = {
        "pairs": given.pairs,
        "rewards": len(REWARDS),
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }
    report["columns"] = analyse(source)
    command = [
        sys.executable,
        "-m",
        "vipo_cli",
        "data",
        "import",
        str(source),
        "--out",
        str(stored),
    ]
    subprocess.run([*command, "-q"], check=True, capture_output=True)
    report["rows"] = analyse(stored)
    score_beside(stored)
    report["beside"] = analyse(stored)
    if not given.keep:
        shutil.rmtree(given.folder)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
