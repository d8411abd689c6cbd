"""Several evaluations at once: who wins how often, and how strong that makes each model."""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from vipo_cli.analysis.ranking import rank
from vipo_cli.errors import VipoError
from vipo_cli.evaluation.compare import evaluation_folders, prompt_outcomes


def rank_evaluations(paths: Sequence[Path]) -> dict[str, Any]:
    """Rank evaluations by Bradley and Terry's model, on each benchmark that all of them have.

    A comparison is a prompt, won by the higher mean of the headline metric over its media.

    Raises:
        VipoError: a name twice, no benchmark in common, or evaluations that cannot be compared or
            ranked.
    """
    names = [str(path) for path in paths]
    if len(set(names)) < len(names):
        raise VipoError("the same evaluation is named twice")
    folders = [evaluation_folders(path) for path in paths]
    shared = [task for task in folders[0] if all(task in of for of in folders)]
    if not shared:
        raise VipoError(
            "these have no benchmark in common",
            details=[f"{name}: {', '.join(of)}" for name, of in zip(names, folders, strict=True)],
        )
    return {"models": names, "ranking": {task: _ranked(names, folders, task) for task in shared}}


def _ranked(names: Sequence[str], folders: Sequence[dict[str, Path]], task: str) -> dict[str, Any]:
    first, second, results, prompts = [], [], [], []
    metric = ""
    for a, b in combinations(range(len(names)), 2):
        metric, outcomes = prompt_outcomes(folders[a][task], folders[b][task])
        for prompt, outcome in outcomes.items():
            first.append(names[a])
            second.append(names[b])
            results.append(outcome)
            prompts.append(prompt)
    try:
        ranking = rank(first, second, results, prompts)
    except ValueError as error:
        raise VipoError(f"{task}: the models cannot be ranked: {error}") from error
    return {"metric": metric, **ranking.document()}
