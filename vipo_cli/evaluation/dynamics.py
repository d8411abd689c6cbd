"""A run's own records, read from its directory and examined."""

import re
from pathlib import Path
from typing import Any

from vipo_cli.analysis.dynamics import Dynamics, examine
from vipo_cli.analysis.findings import About
from vipo_cli.analysis.history import read_history
from vipo_cli.errors import VipoError, did_you_mean
from vipo_cli.objectives import has_reference, objectives, record_of
from vipo_cli.objectives.slope import methods_of_the_logit
from vipo_cli.recipe.files import read_yaml
from vipo_cli.run import draws_clips, read_lines


def measure_dynamics(run: Path) -> tuple[Dynamics, About]:
    """Examine what a run recorded.

    Raises:
        VipoError: no such run, or one without records, or with damaged ones.
    """
    metrics = run / "metrics.jsonl"
    if not metrics.is_file():
        raise _no_records(run)
    try:
        history = read_history(read_lines(metrics))
    except (ValueError, KeyError, TypeError) as error:
        raise VipoError(
            f"`{metrics}` is damaged: a line is no record",
            hint="`vipo train --resume` keeps the records up to the last checkpoint",
        ) from error
    if not len(history):
        raise _no_records(run)
    about = describe_run(run)
    return examine(history, about), about


def _no_records(run: Path) -> VipoError:
    if not run.is_dir():
        runs = [child.name for child in run.parent.glob("*")] if run.parent.is_dir() else []
        near = did_you_mean(run.name, runs).replace("`", f"`{run.parent}/", 1)
        return VipoError(
            f"no such run: `{run}`", hint=near.strip() or "finished runs are in `runs/`: ls runs"
        )
    if run.resolve().parent.name == "checkpoints":
        return VipoError(
            f"`{run}` is a checkpoint, and records are kept by its run",
            hint=f"vipo analyze dynamics {run.parent.parent}",
        )
    if (run / "recipe.yaml").is_file():
        return VipoError(
            f"`{run}` has no metrics yet: not one step was made",
            hint=f"let it train: vipo train --resume {run}",
        )
    return VipoError(
        f"`{run}` holds no metrics: `metrics.jsonl` is missing",
        hint="give the directory of a run; vipo train makes one",
    )


def describe_run(run: Path) -> About:
    """Return what advice may refer to, as far as the run's recipe tells."""
    recipe: dict[str, Any] = {}
    if (run / "recipe.yaml").is_file():
        recipe = read_yaml(run / "recipe.yaml", f"`{run / 'recipe.yaml'}`")
    objective = dict(recipe.get("objective") or {})
    method = str(objective.pop("method", ""))
    names = [child.name for child in (run / "checkpoints").glob("step-*")]
    steps = [int(match[1]) for name in names if (match := re.fullmatch(r"step-(\d+)", name))]
    return About(
        run=str(run),
        method=method,
        data=str((recipe.get("data") or {}).get("name", "")),
        parameters=objective,
        learning_rate=(recipe.get("optimizer") or {}).get("learning_rate"),
        steps=(recipe.get("run") or {}).get("steps"),
        checkpoints=tuple(sorted(steps)),
        has_curve=method in methods_of_the_logit(),
        has_reference=method not in objectives or has_reference(record_of(method)),
        clips=draws_clips(run),
    )
