"""One self-contained page about an evaluation: numbers, pictures, settings and provenance."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from vipo_cli.reporting.pages import data_uri, page_template
from vipo_cli.reporting.read import (
    TASKS,
    Found,
    Key,
    read_baseline,
    read_evaluation,
    spread,
    task_title,
)
from vipo_cli.run import writing

PER_GALLERY = 12


def write_report(folder: Path) -> Path:
    """Write `report.html` into an evaluation's folder and return its path; it needs no network."""
    found = read_evaluation(folder)
    comparison, baseline = read_baseline(folder)
    page = page_template("report.html").render(
        found=found,
        results=found.results,
        manifest=found.manifest,
        baseline=baseline,
        comparison=comparison,
        rows=_rows(found, baseline, comparison.get("differences", {})),
        galleries=_galleries(found, baseline),
        recipe=_recipe(found),
        to_json=lambda value: json.dumps(value, indent=2, default=str),
    )
    target = folder / "report.html"
    with writing(target) as temporary:
        temporary.write_text(page)
    return target


def _rows(
    found: Found, baseline: Found | None, differences: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return the lines of the table: overall, then the tasks."""
    rows = []
    for name in ("overall", *TASKS):
        metric = _metric(found, name)
        if metric is not None:
            difference = differences.get(name)
            rows.append(
                {
                    "title": task_title(name),
                    "metric": metric,
                    "base": _metric(baseline, name) if baseline else None,
                    "difference": difference,
                    "certain": difference is not None and _excludes_zero(difference["ci95"]),
                }
            )
    return rows


def _metric(found: Found, name: str) -> dict[str, Any] | None:
    metric: dict[str, Any] | None = (found.results["metrics"] | found.results["subtasks"]).get(name)
    return metric


def _excludes_zero(ci95: list[float]) -> bool:
    return ci95[0] > 0 or ci95[1] < 0


def _galleries(found: Found, baseline: Found | None) -> list[dict[str, Any]]:
    """Choose prompts worth a look: gained and lost against the baseline, or right and wrong."""
    shares = _shares(found)
    if baseline is not None:
        before = _shares(baseline)
        gains = {prompt: shares[prompt] - before[prompt] for prompt in shares if prompt in before}
        sides = [
            ("Gained most", "prompts that the baseline got wrong more often", gains, 1),
            ("Lost most", "prompts that the baseline got right more often", gains, -1),
        ]
    else:
        centred = {prompt: share - 0.5 for prompt, share in shares.items()}
        sides = [
            ("Best prompts", "right most often", centred, 1),
            ("Worst prompts", "wrong most often", centred, -1),
        ]
    galleries = [
        {"title": title, "about": about, "cards": _cards(found, baseline, _top(found, by, sign))}
        for title, about, by, sign in sides
    ]
    sampled = [prompt for task in TASKS for prompt, _ in spread(found.of_task(task), 2)]
    evenly = "two prompts of each task, chosen by their number alone"
    galleries.append(
        {"title": "Unselected", "about": evenly, "cards": _cards(found, baseline, sampled)}
    )
    return galleries


def _shares(found: Found) -> dict[int, float]:
    """Return for each prompt the share of its judged pictures that are right."""
    verdicts: dict[int, list[bool]] = defaultdict(list)
    for (prompt, _), sample in sorted(found.samples.items()):
        if sample["correct"] is not None:
            verdicts[prompt].append(sample["correct"])
    return {prompt: sum(of) / len(of) for prompt, of in verdicts.items()}


def _top(found: Found, scores: dict[int, float], sign: int) -> list[int]:
    """Return the prompts of highest score above zero, taking turns between tasks at a tie."""
    turns: dict[str, int] = defaultdict(int)
    order = []
    for prompt, score in scores.items():
        if sign * score > 0:
            task = found.samples[_first(found, prompt)]["tag"]
            order.append((-sign * score, turns[task], prompt))
            turns[task] += 1
    return [prompt for *_, prompt in sorted(order)[:PER_GALLERY]]


def _first(found: Found, prompt: int) -> Key:
    return min(key for key in found.samples if key[0] == prompt)


def _cards(found: Found, baseline: Found | None, prompts: list[int]) -> list[dict[str, Any]]:
    cards = []
    for prompt in prompts:
        keys = sorted(key for key in found.samples if key[0] == prompt)[:4]
        sides = [baseline, found] if baseline is not None else [found]
        cards.append(
            {
                "prompt": found.samples[keys[0]]["prompt"],
                "task": task_title(found.samples[keys[0]]["tag"]),
                "sides": [
                    {"name": side.manifest["model"], "pictures": [_shown(side, k) for k in keys]}
                    for side in sides
                ],
            }
        )
    return cards


def _shown(found: Found, key: Key) -> dict[str, Any]:
    sample = found.samples.get(key, {"correct": None, "reason": "no verdict"})
    source = data_uri(found.image(key))
    return {"source": source, "correct": sample["correct"], "reason": sample["reason"]}


def _recipe(found: Found) -> str | None:
    """Return the recipe of the run that was evaluated, if it is still there."""
    run = found.manifest["run"]
    file = Path(run) / "recipe.yaml" if run else None
    return file.read_text() if file is not None and file.is_file() else None
