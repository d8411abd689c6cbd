"""Two evaluations side by side, paired on prompt and seed."""

import json
from pathlib import Path
from typing import Any

from vipo_cli.analysis.intervals import paired_difference
from vipo_cli.benchmarks.geneval import TASKS
from vipo_cli.errors import VipoError
from vipo_cli.evaluation.plan import differing
from vipo_cli.evaluation.score import read_samples


def evaluation_folder(path: Path) -> Path:
    """Return the folder of an evaluation: itself, its results.json, or the latest of a run.

    Raises:
        VipoError: there is no finished evaluation.
    """
    if path.name == "results.json" and path.is_file():
        return path.parent
    if (path / "results.json").is_file():
        return path
    found = [file.parent for file in path.glob("eval/*/results.json")]
    if found:
        return max(found, key=lambda folder: (folder.name.split("-")[:3], -len(folder.name)))
    raise VipoError(
        f"`{path}` holds no finished evaluation", hint=f"make one: vipo eval geneval {path}"
    )


def compare(a: Path, b: Path) -> dict[str, Any]:
    """Return how much better A is than B: overall and by task, with paired intervals.

    Raises:
        VipoError: the two are not comparable, or have no picture in common.
    """
    folders = [evaluation_folder(path) for path in (a, b)]
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in folders]
    if manifests[0]["fingerprint"] != manifests[1]["fingerprint"]:
        names = differing(manifests[0]["comparable"], manifests[1]["comparable"])
        raise VipoError(
            f"`{a}` and `{b}` cannot be compared: they differ in {', '.join(names)}",
            details=[
                f"{name}: {_nested(manifests[0], name)} and {_nested(manifests[1], name)}"
                for name in names
            ],
            hint="evaluate both with the same version and options of `vipo eval geneval`",
        )
    of_a, of_b = (
        {
            (sample["prompt"], sample["seed"], key): sample
            for key, sample in read_samples(folder / "samples.jsonl").items()
            if sample["correct"] is not None
        }
        for folder in folders
    )
    shared = sorted(of_a.keys() & of_b.keys(), key=lambda pair: pair[2])
    if not shared:
        raise VipoError(f"`{a}` and `{b}` have no judged picture in common")
    pairs = [(of_a[key], of_b[key]) for key in shared]
    tasks = {task: [pair for pair in pairs if pair[0]["tag"] == task] for task in TASKS}
    differences = {task: _difference(members) for task, members in tasks.items() if members}
    if len(differences) == len(TASKS):
        differences = {"overall": _difference(pairs)} | differences
    unpaired = len(of_a) + len(of_b) - 2 * len(shared)
    return {"a": str(a), "b": str(b), "differences": differences, "unpaired": unpaired}


def _difference(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, Any]:
    interval, p_value = paired_difference(
        [one["correct"] for one, _ in pairs],
        [other["correct"] for _, other in pairs],
        [one["prompt_index"] for one, _ in pairs],
        [one["tag"] for one, _ in pairs],
    )
    return {
        "value": interval.value,
        "ci95": [interval.low, interval.high],
        "p_value": p_value,
        "n": interval.n,
        "n_clusters": interval.n_clusters,
    }


def _nested(manifest: dict[str, Any], name: str) -> Any:
    comparable = manifest["comparable"]
    return comparable[name] if name in comparable else comparable["sampling"].get(name)
