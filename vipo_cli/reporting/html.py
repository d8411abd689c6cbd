"""One self-contained page about an evaluation: numbers, pictures, settings and provenance."""

import json
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

from vipo_cli.reporting.pages import page_template
from vipo_cli.reporting.read import (
    Found,
    Key,
    read_baseline,
    read_evaluation,
    spread,
    tag_title,
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
        galleries=_galleries(found, baseline) if found.media else [],
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
    """Return the lines of the table: the metrics, then the subtasks."""
    metrics, of_base = _metrics(found), _metrics(baseline) if baseline else {}
    spans = [_span(metric, of_base.get(name)) for name, metric in metrics.items()]
    widest = min((low for low, _ in spans), default=0), max((high for _, high in spans), default=1)
    rows = []
    for name, metric in metrics.items():
        difference, base = differences.get(name), of_base.get(name)
        bounded = metric["scale"] and None not in metric["scale"]
        rows.append(
            {
                "title": tag_title(name),
                "headline": name == found.headline.name,
                "metric": metric,
                "base": base,
                "bar": _bar(metric, base, metric["scale"] if bounded else widest),
                "difference": difference,
                "certain": difference is not None and _excludes_zero(difference["ci95"]),
            }
        )
    return rows


def _metrics(found: Found) -> dict[str, dict[str, Any]]:
    metrics: dict[str, dict[str, Any]] = found.results["metrics"] | found.results["subtasks"]
    return metrics


def _span(metric: dict[str, Any], base: dict[str, Any] | None) -> tuple[float, float]:
    ends = [metric["value"], *(metric["ci95"] or ()), *([base["value"]] if base else ())]
    return min(ends), max(ends)


def _bar(
    metric: dict[str, Any], base: dict[str, Any] | None, scale: tuple[float, float]
) -> dict[str, float | None]:
    """Return where the value, its interval and the baseline's value lie, in percent of a bar."""
    low, high = scale
    wide = (high - low) or 1.0
    ends = metric["ci95"] or (metric["value"], metric["value"])
    return {
        "value": 100 * (metric["value"] - low) / wide,
        "left": 100 * (ends[0] - low) / wide,
        "width": 100 * (ends[1] - ends[0]) / wide,
        "base": 100 * (base["value"] - low) / wide if base else None,
    }


def _excludes_zero(ci95: list[float] | None) -> bool:
    return ci95 is not None and (ci95[0] > 0 or ci95[1] < 0)


def _galleries(found: Found, baseline: Found | None) -> list[dict[str, Any]]:
    """Choose prompts worth a look: gained and lost against the baseline, or best and worst."""
    scores = _scores(found)
    up = 1 if found.headline.higher_is_better else -1
    if baseline is not None:
        before = _scores(baseline)
        gains = {prompt: scores[prompt] - before[prompt] for prompt in scores if prompt in before}
        sides = [
            ("Gained most", "prompts on which the baseline does worse", gains, up),
            ("Lost most", "prompts on which the baseline does better", gains, -up),
        ]
    else:
        middle = median(scores.values()) if scores and not found.is_share else 0.5
        centred = {prompt: score - middle for prompt, score in scores.items()}
        sides = [
            ("Best prompts", "those that are done best", centred, up),
            ("Worst prompts", "those that are done worst", centred, -up),
        ]
    galleries = [
        {"title": title, "about": about, "cards": _cards(found, baseline, _top(found, by, sign))}
        for title, about, by, sign in sides
    ]
    each = max(2, PER_GALLERY // max(1, len(found.tags)))
    tags = found.tags[:PER_GALLERY]
    sampled = [prompt for tag in tags for prompt, _ in spread(found.of_tag(tag), each)]
    evenly = "chosen by their number alone, evenly over the kinds of prompts"
    galleries.append(
        {"title": "Unselected", "about": evenly, "cards": _cards(found, baseline, sampled)}
    )
    return galleries


def _scores(found: Found) -> dict[int, float]:
    """Return for each prompt the mean headline score of its judged pictures."""
    scores: dict[int, list[float]] = defaultdict(list)
    for key in sorted(found.samples):
        score = found.score(key)
        if score is not None:
            scores[key[0]].append(score)
    return {prompt: sum(of) / len(of) for prompt, of in scores.items()}


def _top(found: Found, scores: dict[int, float], sign: int) -> list[int]:
    """Return the prompts of highest score above zero, taking turns between tags at a tie."""
    turns: dict[str, int] = defaultdict(int)
    order = []
    for prompt, score in scores.items():
        if sign * score > 0:
            tag = found.samples[_first(found, prompt)]["tag"]
            order.append((-sign * score, turns[tag], prompt))
            turns[tag] += 1
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
                "tag": tag_title(found.samples[keys[0]]["tag"]),
                "sides": [
                    {"name": side.manifest["model"], "pictures": [_shown(side, k) for k in keys]}
                    for side in sides
                ],
            }
        )
    return cards


def _shown(found: Found, key: Key) -> dict[str, Any]:
    score = found.score(key)
    sample = found.samples.get(key, {"reason": "no verdict"})
    right = bool(score) if found.is_share and score is not None else None
    said = found.verdict(key) or ("\u2713 right" if right else "\u2717")
    return {
        "source": found.source(key),
        "right": right,
        "said": said,
        "reason": sample["reason"],
    }


def _recipe(found: Found) -> str | None:
    """Return the recipe of the run that was evaluated, if it is still there."""
    run = found.manifest["run"]
    file = Path(run) / "recipe.yaml" if run else None
    return file.read_text() if file is not None and file.is_file() else None
