"""How long `vipo analyze conflict` takes over a million pairs that have been scored before.

    python perf/conflict_million.py --pairs 1000000

Made-up pairs in the columns of Pick-a-Pic v2, with the scores of five rewards, models and
annotators, in three places: as they come, with the scores in columns of their own; imported, with
the scores in the rows; and imported, with the scores beside the data alone, written and merged as
`vipo data score` does it. Media are a few bytes: none is read.

Each time is that of a process of its own from its start to its end, as a user waits for it, without
and with --out (the page, its figures, the numbers and the Parquet of all pairs); the least of a few
runs. Where others use the cores, the time of the processor says more than that of the clock.
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
VIPO = [sys.executable, "-m", "vipo_cli"]
PLACES = {
    "columns": "scores in columns",
    "rows": "scores in stored rows",
    "beside": "scores beside",
}


def write(folder: Path, pairs: int, shards: int, *, scored: bool) -> None:
    """Write the data set."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    each = -(-pairs // shards)
    for shard in range(shards):
        rows = range(shard * each, min(pairs, (shard + 1) * each))
        writer = None
        for start in range(rows.start, rows.stop, BATCH):
            table = batch(rng, range(start, min(start + BATCH, rows.stop)))
            if not scored:
                table = table.drop_columns([f"{name}_{side}" for name in REWARDS for side in "01"])
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


def keep(source: Path, stored: Path) -> None:
    """Import a data set."""
    command = [*VIPO, "data", "import", str(source), "--out", str(stored), "-q"]
    subprocess.run(command, check=True, capture_output=True)


def score_beside(folder: Path) -> dict[str, float]:
    """Write scores of all media as `vipo data score` does; return shards, and seconds to merge."""
    from vipo_cli.building.scoring import MERGED_EVERY, SHARD_ROWS
    from vipo_cli.data.scores import SCORES, MediaKeys, media_keys, merge_scores, write_scores

    keys = media_keys(folder)
    rng = np.random.default_rng(1)
    shards, seconds = 0, 0.0
    for name in REWARDS:
        values = rng.normal(size=len(keys))
        for number, start in enumerate(range(0, len(keys), SHARD_ROWS), start=1):
            part = slice(start, start + SHARD_ROWS)
            several = MediaKeys(keys.media[part], keys.prompts[part], keys.counts[:0])
            write_scores(folder / SCORES, name, "made up", several, values[part])
            shards += 1
            if number % MERGED_EVERY == 0 or start + SHARD_ROWS >= len(keys):
                began = time.process_time()
                merge_scores(folder / SCORES, name, "made up")
                seconds += time.process_time() - began
    left = len(list((folder / SCORES).rglob("*.parquet")))
    return {
        "shards": shards,
        "shards_merged": left,
        "processor_seconds_to_merge": round(seconds, 1),
    }


def timed(command: list[str]) -> dict[str, float]:
    """Run a command, and return how long it took and how much memory."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"failed: {' '.join(command)}")
    return {
        "seconds": round(seconds, 2),
        "user_seconds": round(used.ru_utime, 2),
        "system_seconds": round(used.ru_stime, 2),
        "peak_megabytes": round(used.ru_maxrss / 1024),
    }


def measure(place: Path, out: Path, runs: int) -> dict[str, dict[str, float]]:
    """Time the command without and with files; the least of all runs, one number at a time."""
    found = {}
    command = [*VIPO, "analyze", "conflict", str(place)]
    for name, more in (("printed", []), ("with_files", ["--out", str(out)])):
        every = [timed([*command, *more]) for _ in range(runs)]
        found[name] = {key: min(each[key] for each in every) for key in every[0]}
    return found


def table(report: dict) -> str:
    lines = [
        "| source | seconds | user CPU | system | MB | with --out: seconds | user CPU | system |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind, title in PLACES.items():
        if kind in report:
            printed, files = report[kind]["printed"], report[kind]["with_files"]
            cells = [
                *(printed[key] for key in ("seconds", "user_seconds", "system_seconds")),
                printed["peak_megabytes"],
                *(files[key] for key in ("seconds", "user_seconds", "system_seconds")),
            ]
            lines.append(f"| {title} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--shards", type=int, default=20)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("million"), help="removed at the end")
    parser.add_argument("--keep", action="store_true", help="keep it; what is there is used again")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    places = {kind: given.folder / kind for kind in PLACES}
    report: dict = {
        "pairs": given.pairs,
        "rewards": len(REWARDS),
        "cores": os.cpu_count(),
        "load": [round(each, 1) for each in os.getloadavg()],
    }
    if not places["columns"].is_dir():
        write(places["columns"], given.pairs, given.shards, scored=True)
    if not places["rows"].is_dir():
        keep(places["columns"], places["rows"])
    if not places["beside"].is_dir():
        write(given.folder / "unscored", given.pairs, given.shards, scored=False)
        keep(given.folder / "unscored", places["beside"])
        report["merging"] = score_beside(places["beside"])
    for kind, place in places.items():
        report[kind] = measure(place, given.folder / "out", given.runs)
    if not given.keep:
        shutil.rmtree(given.folder)
    print(json.dumps(report, indent=2) if given.json else table(report))
    if not given.json:
        load = " ".join(map(str, report["load"]))
        merging = "".join(f"; {key} {value}" for key, value in report.get("merging", {}).items())
        print(f"\n{given.pairs:,} pairs, {report['cores']} cores, load before {load}{merging}")


if __name__ == "__main__":
    main()
