"""`vipo data score`, `generate` and `build`: new preference data from models and rewards."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vipo_cli.cli.eval_options import Processes
from vipo_cli.cli.output import Json, Output, Quiet
from vipo_cli.cli.source import Data, RewardSettings, Settings, describe, reward_settings, setting
from vipo_cli.cli.train import stop_requests
from vipo_cli.errors import Interrupted
from vipo_cli.run import Work
from vipo_cli.training.launch import is_main_process, launch, must_launch

if TYPE_CHECKING:
    from vipo_cli.building.build import Built
    from vipo_cli.building.candidates import Generated
    from vipo_cli.building.drawing import Sampling
    from vipo_cli.building.scoring import Scoring

TRUSTED = 60.0
"""Percent of agreement with people below which labels are little better than chance."""

Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        metavar="MODEL",
        show_default=False,
        help="Who draws: model name, run, LoRA file, folder or hub id; repeatable.",
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Base seed; each medium's own derives from it.")]
Steps = Annotated[
    int | None, typer.Option(min=1, help="Denoising steps.", show_default="the model's")
]
Guidance = Annotated[
    float | None, typer.Option(min=0, help="Guidance scale.", show_default="the model's")
]
Precision = Annotated[str, typer.Option(help="Weights in fp32, bf16 or fp16.")]
BatchSize = Annotated[
    int | None, typer.Option(min=1, help="Media drawn at once.", show_default="by size")
]
Out = Annotated[
    Path, typer.Option(metavar="DIR", show_default=False, help="Folder of the data set.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to those of `vipo data`."""
    app.command(
        epilog="Examples: vipo data score pairs --rewards pickscore,clip   |   "
        "vipo data score candidates --rewards shapes-alignment,shapes-sharpness --processes 2"
    )(score)
    app.command(
        epilog="Examples: vipo data generate prompts.txt --model sdxl --model runs/mine --out "
        "candidates   |   vipo data generate shapes --set pairs=100 --model shapes-sd "
        "--per-prompt 4 --out candidates"
    )(generate)
    app.command(
        epilog="Examples: vipo data build candidates --by reward:pickscore --out pairs   |   "
        "vipo data build candidates --by pareto:pickscore,clip --out pairs   |   "
        "vipo data build prompts.txt --category alignment --model sdxl --out pairs   |   "
        "vipo data build candidates --category aesthetics --judge http://localhost:8000/v1 "
        "--out pairs"
    )(build)


def score(
    data: Data,
    rewards: Annotated[
        str,
        typer.Option(metavar="A,B", show_default=False, help="Which (vipo list rewards)."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Where scores go.", show_default="DATA/scores, if vipo keeps DATA"
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many entries.", show_default="all")
    ] = None,
    processes: Processes = None,
    reward_set: RewardSettings = None,
    settings: Settings = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score each medium with its prompt once, beside the data; goes on where it was stopped."""
    output = Output(json=json, quiet=quiet, mute=not is_main_process())
    names = [name.strip() for name in rewards.split(",") if name.strip()]
    if not names:
        raise typer.BadParameter("names no reward", param_hint="--rewards")
    options = reward_settings(reward_set, names)
    if must_launch(processes):
        launch(processes or 1, sys.argv[1:])
        return
    from vipo_cli.building.team import join_team
    from vipo_cli.data.scores import scores_folder

    place = Path(data).expanduser()
    folder = scores_folder(place, out)
    join_team()
    found = _follow(output, lambda: _scoring(data, settings, folder, names, limit, options))
    document = {"data": describe(data, settings), **_scoring_document(found)}
    output.result(document, _scoring_text(describe(data, settings), found), [str(found.folder)])


def _scoring(
    data: str,
    settings: list[str] | None,
    folder: Path,
    names: list[str],
    limit: int | None,
    options: Mapping[str, Mapping[str, Any]],
) -> "Work[Scoring]":
    from vipo_cli.building.scoring import score_records, score_stored
    from vipo_cli.data.lazy import first
    from vipo_cli.data.sources import opening
    from vipo_cli.data.stored import is_stored

    place = Path(data).expanduser()
    if place.is_dir() and is_stored(place):
        return (yield from score_stored(place, names, folder, limit, options))
    records = yield from opening(data, dict(map(setting, settings or [])))
    return (yield from score_records(first(records, limit), names, folder, options))


def generate(
    prompts: Annotated[
        str,
        typer.Argument(
            metavar="PROMPTS",
            show_default=False,
            help="Text file with a prompt a line, table with a column of prompts, or data set.",
        ),
    ],
    out: Out,
    model: Models = None,
    per_prompt: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Candidates of each model for each prompt.",
            show_default="1, or 2 of a single model",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many prompts.", show_default="all")
    ] = None,
    seed: Seed = 0,
    steps: Steps = None,
    guidance: Guidance = None,
    precision: Precision = "fp32",
    batch_size: BatchSize = None,
    processes: Processes = None,
    settings: Settings = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Draw candidates for prompts with one or several models; goes on where it was stopped."""
    output = Output(json=json, quiet=quiet, mute=not is_main_process())
    if must_launch(processes):
        launch(processes or 1, sys.argv[1:])
        return
    from vipo_cli.building.candidates import generate_candidates
    from vipo_cli.building.drawing import find_artists
    from vipo_cli.building.prompts import read_prompts
    from vipo_cli.building.team import join_team

    sampling = _sampling(seed, steps, guidance, precision, batch_size)
    artists = find_artists(model or [], sampling)
    found = read_prompts(prompts, dict(map(setting, settings or [])), limit)
    each = per_prompt or (2 if len(artists) == 1 else 1)
    output.note(
        f"prompts  {len(found):,}\n"
        f"models   {', '.join(artist.label for artist in artists)}, {each} each"
    )
    join_team()
    made = _follow(output, lambda: generate_candidates(found, artists, each, sampling, out))
    document = {
        "data": str(out),
        "prompts": made.prompts,
        "media": made.media,
        "models": [artist.document() for artist in artists],
        "per_prompt": each,
        "seed": seed,
    }
    output.result(document, _generated_text(made), [str(out)])


def build(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            show_default=False,
            help="Candidates or another data set; prompts for --by perturbation.",
        ),
    ],
    out: Out,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="WAY",
            help="reward:NAME, reward:A=0.7,B=0.3, pareto:A,B, perturbation, ocr, judge, "
            "self-play.",
            show_default="the category's",
        ),
    ] = None,
    category: Annotated[
        str | None,
        typer.Option(
            show_default=False,
            help="Of all pairs; also says how they are made: aesthetics, composition, alignment, "
            "text-rendering, portrait, motion, visual-quality, video-alignment.",
        ),
    ] = None,
    min_margin: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="How much better the winner must be: in the reward's units; of several rewards "
            "in standard deviations.",
            show_default="the category's, or 0",
        ),
    ] = None,
    balance: Annotated[
        bool, typer.Option("--balance", help="As many pairs of each category as of the rarest.")
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Only the first so many prompts (perturbation) or records (self-play).",
            show_default="all",
        ),
    ] = None,
    model: Models = None,
    change: Annotated[
        list[str] | None,
        typer.Option(
            show_default=False,
            help="What a perturbation may change, such as count or colour; repeatable.",
        ),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            metavar="URL|MODEL",
            show_default=False,
            help="OpenAI-compatible server (its key in VIPO_JUDGE_KEY), or a vision-language "
            "model on this machine.",
        ),
    ] = None,
    judge_model: Annotated[
        str | None,
        typer.Option(help="What the server calls the model.", show_default="its only one"),
    ] = None,
    judge_together: Annotated[
        int, typer.Option(min=1, max=256, help="Questions that the server is asked at once.")
    ] = 4,
    rubric: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What the judge goes by.", show_default="the category's"),
    ] = None,
    per_prompt: Annotated[
        int, typer.Option(min=1, help="Pairs of each prompt that the judge is asked about.")
    ] = 1,
    seed: Seed = 0,
    steps: Steps = None,
    guidance: Guidance = None,
    precision: Precision = "fp32",
    batch_size: BatchSize = None,
    processes: Processes = None,
    reward_set: RewardSettings = None,
    settings: Settings = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make pairs of candidates, prompts or data; goes on where it was stopped."""
    output = Output(json=json, quiet=quiet, mute=not is_main_process())
    if processes is not None and processes > 1 and not model:
        raise typer.BadParameter(
            "share out drawing, and nothing is drawn; vipo data score has processes of its own",
            param_hint="--processes",
        )
    if must_launch(processes):
        launch(processes or 1, sys.argv[1:])
        return
    from vipo_cli.building.team import join_team
    from vipo_cli.building.ways import Wish
    from vipo_cli.building.ways import build as build_pairs

    wish = Wish(
        source=source,
        by=by,
        parameters=dict(map(setting, settings or [])),
        category=category,
        min_margin=min_margin,
        models=tuple(model or ()),
        changes=tuple(change or ()),
        judge=judge,
        judge_model=judge_model,
        together=judge_together,
        rubric=rubric,
        per_prompt=per_prompt,
        limit=limit,
        balance=balance,
        sampling=_sampling(seed, steps, guidance, precision, batch_size),
        rewards=reward_settings(reward_set, []),
    )
    if category is not None:
        output.note(_agreement(category))
    join_team()
    built = _follow(output, lambda: build_pairs(wish, out))
    if built is None:
        return
    output.result(_built_document(built), _built_text(built), [str(out)])


def _sampling(
    seed: int,
    steps: int | None,
    guidance: float | None,
    precision: str,
    batch_size: int | None,
) -> "Sampling":
    from vipo_cli.building.drawing import Sampling
    from vipo_cli.evaluation.generate import PRECISIONS

    if precision not in PRECISIONS:
        raise typer.BadParameter(
            f"`{precision}` is none of {', '.join(PRECISIONS)}", param_hint="--precision"
        )
    return Sampling(seed, steps, guidance, precision, batch_size)


def _follow(output: Output, work: Callable[[], Work[Any]]) -> Any:
    """Follow long work that can be gone on with by giving the same command again."""
    try:
        with stop_requests() as stop:
            return output.follow(work(), until=stop.is_set)
    except Interrupted as error:
        raise Interrupted(
            "stopped on request; what is finished is kept",
            hint="go on: give the same command again",
        ) from error


def _scoring_document(found: "Scoring") -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "scores": str(found.folder),
        "media": found.media,
        "distinct": found.distinct,
        "unreadable": found.unreadable,
        "rewards": {name: asdict(scores) for name, scores in found.rewards.items()},
    }


def _scoring_text(name: str, found: "Scoring") -> str:
    lines = [f"{name}: {found.media:,} media, {found.distinct:,} distinct with their prompts"]
    if found.unreadable:
        lines.append(f"left out {found.unreadable:,}: cannot be read")
    width = max(map(len, found.rewards))
    lines += ["", f"{'reward':{width}}  {'new':>9}  {'known':>9}  {'no score':>9}   mean (range)"]
    for reward, scores in found.rewards.items():
        said = (
            "none can be judged"
            if scores.mean is None
            else f"{scores.mean:.4g} ({scores.low:.4g} to {scores.high:.4g})"
        )
        counts = (scores.new, scores.known, scores.unjudged)
        lines.append(f"{reward:{width}}  {'  '.join(f'{each:9,}' for each in counts)}   {said}")
    return "\n".join([*lines, "", f"scores {found.folder}"])


def _generated_text(made: "Generated") -> str:
    rewards = "REWARD"
    return "\n".join(
        [
            f"{made.folder}: {made.media:,} candidates for {made.prompts:,} prompts",
            "",
            f"next: vipo data build {made.folder} --by reward:{rewards} --out pairs",
        ]
    )


def _agreement(name: str) -> str:
    """Say how far labels of a category are to be trusted."""
    from vipo_cli.building.categories import find_category

    category = find_category(name)
    found, way = category.agreement, {"judge": "a judge", "ocr": "OCR"}
    said = (
        f"labels by {way.get(category.by, category.by)} agreed with the consensus of people on "
        f"{found.judge:g} % of such pairs in ViPO's study, one person on {found.person:g} %"
    )
    if found.judge >= TRUSTED:
        return said
    return f"{said}; so near chance: train with a higher alpha (--alpha auto)"


def _built_document(built: "Built") -> dict[str, Any]:
    return {
        "data": str(built.folder),
        "pairs": built.pairs,
        "categories": built.categories,
        "left_out": built.left_out,
        **built.report,
    }


def _built_text(built: "Built") -> str:
    lines = [f"{built.folder}: {built.pairs:,} pairs"]
    if any(built.categories):
        shown = (f"{name or 'none'} {count:,}" for name, count in built.categories.items())
        lines.append(f"categories {', '.join(shown)}")
    lines += [f"left out {count:,}: {reason}" for reason, count in built.left_out.items()]
    lines += _report_lines(built.report)
    lines += [
        "",
        f"next: vipo data check {built.folder}",
        f"      vipo train --data {built.folder}",
    ]
    return "\n".join(lines)


def _report_lines(report: Mapping[str, Any]) -> list[str]:
    lines = []
    if (margin := report.get("median_margin")) is not None:
        lines.append(f"median margin {margin:.4g}")
    if changes := report.get("perturbations"):
        lines.append("changed " + ", ".join(f"{name} {count:,}" for name, count in changes.items()))
    if (consistent := report.get("consistent")) is not None:
        lines.append(f"the same verdict in both orders {consistent:.1%}")
    if bias := report.get("position_bias"):
        low, high = bias["ci95"]
        lines.append(
            f"verdicts for what was shown first {bias['value']:.3f} [{low:.3f}, {high:.3f}]"
            f" of {bias['n']:,}; 0.5 is none"
        )
    return lines
