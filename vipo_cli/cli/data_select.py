"""`vipo data filter`, `split` and `mix`: which entries of which data sets to train on."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vipo_cli.cli.output import Json, Output, Quiet
from vipo_cli.cli.source import Data, Folder, Settings, describe, setting

if TYPE_CHECKING:
    from vipo_cli.data.entries import Entries
    from vipo_cli.data.filtering import Conditions, Filtered
    from vipo_cli.data.mixing import Part

Out = Annotated[
    Path, typer.Option(metavar="DIR", show_default=False, help="Folder of the new data set.")
]
Against = Annotated[
    list[Path] | None,
    typer.Option(
        "--against",
        metavar="FILE",
        show_default=False,
        help="Prompts kept for evaluation: .txt, .csv, .jsonl, .json, .parquet, or a folder of "
        ".txt; repeatable. GenEval's are known.",
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Another seed chooses others.")]
Link = Annotated[bool, typer.Option("--link", help="Leave media files where they are.")]
Limit = Annotated[
    int | None, typer.Option(min=1, help="Only the first so many entries.", show_default="all")
]


def register(app: typer.Typer) -> None:
    """Add the commands to those of `vipo data`."""
    app.command(
        "filter",
        epilog="Examples: vipo data filter pairs --drop broken,duplicates --out clean   |   "
        "vipo data filter pairs --agree 4 --min-margin pickscore=0.5 --balance category --out best",
    )(filter_)
    app.command(epilog="Example: vipo data split pairs --held-out 0.05 --out parts")(split)
    app.command(
        epilog="Examples: vipo data mix people=0.7 synthetic=0.3 --out both   |   "
        "vipo data mix people=0.7 synthetic=0.3 --weigh --out both"
    )(mix)


def filter_(
    data: Data,
    out: Out,
    drop: Annotated[
        str,
        typer.Option(
            metavar="PROBLEM,...",
            show_default=False,
            help="Problems as vipo data check --quiet names them, or: broken, duplicates, "
            "identical, contradictions, leaked, prompts.",
        ),
    ] = "",
    agree: Annotated[
        int | None,
        typer.Option(min=1, show_default=False, help="So many rewards prefer the winner."),
    ] = None,
    min_margin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="REWARD=X",
            show_default=False,
            help="By so much a reward scores the winner higher; repeatable.",
        ),
    ] = None,
    dominates: Annotated[
        bool, typer.Option("--dominates", help="No reward prefers the loser, one the winner.")
    ] = False,
    rewards: Annotated[
        str, typer.Option(metavar="A,B", help="Rewards that count.", show_default="all known")
    ] = "",
    scores: Annotated[
        Path | None,
        typer.Option(
            metavar="PLACE",
            show_default="in DATA, beside it",
            help="Folder of vipo data score, or Parquet file with a row for each pair.",
        ),
    ] = None,
    min_probability: Annotated[
        float | None,
        typer.Option(min=0, max=1, show_default=False, help="The label is so probable."),
    ] = None,
    min_side: Annotated[
        int | None,
        typer.Option(min=1, show_default=False, help="Pixels of the shorter side of each medium."),
    ] = None,
    max_aspect: Annotated[
        float | None,
        typer.Option(min=1, show_default=False, help="Longer side over shorter side."),
    ] = None,
    balance: Annotated[
        str | None,
        typer.Option(
            metavar="FIELD",
            show_default=False,
            help="Equally many of each category, source, split, annotator or metadata key.",
        ),
    ] = None,
    at_most: Annotated[
        int | None,
        typer.Option(min=1, show_default="as the rarest", help="With --balance: so many of each."),
    ] = None,
    against: Against = None,
    seed: Seed = 0,
    link: Link = False,
    limit: Limit = None,
    path: Folder = None,
    settings: Settings = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Keep the entries that fulfil all conditions; say in dropped.jsonl why the others do not."""
    from vipo_cli.data.filtering import Conditions, filter_entries, problems_named
    from vipo_cli.data.held_back import read_prompts

    output = Output(json=json, quiet=quiet)
    conditions = Conditions(
        drop=problems_named(drop),
        agree=agree,
        min_margins=dict(map(_amount, min_margin or [])),
        dominates=dominates,
        rewards=tuple(filter(None, (name.strip() for name in rewards.split(",")))),
        min_probability=min_probability,
        min_side=min_side,
        max_aspect=max_aspect,
        balance=balance,
        at_most=at_most,
        scores=scores,
        against=read_prompts(against or []),
        seed=seed,
    )
    _require_a_condition(conditions)
    entries = _open(data, settings, path, limit, output)
    found = output.follow(filter_entries(entries, out, conditions, link=link))
    document = {
        "data": describe(data, settings),
        "out": str(out),
        "entries": found.entries,
        "kept": found.kept,
        "dropped": found.dropped,
        "groups": found.groups,
    }
    output.result(document, _filtered_text(describe(data, settings), found), [str(out)])


def split(
    data: Data,
    out: Annotated[
        Path,
        typer.Option(metavar="DIR", show_default=False, help="Folder for train/ and held-out/."),
    ],
    held_out: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the entries that is held out.")
    ] = 0.05,
    seed: Seed = 0,
    link: Link = False,
    limit: Limit = None,
    path: Folder = None,
    settings: Settings = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Divide a data set into train/ and held-out/, so that no prompt is in both."""
    from vipo_cli.data.mixing import split_entries

    if not 0 < held_out < 1:
        raise typer.BadParameter("is a share between 0 and 1", param_hint="--held-out")
    output = Output(json=json, quiet=quiet)
    entries = _open(data, settings, path, limit, output)
    parts = output.follow(split_entries(entries, out, held_out, seed=seed, link=link))
    document = {
        "data": describe(data, settings),
        "parts": {part.folder.name: _part_document(part) for part in parts},
    }
    lines = [
        f"{part.folder}: {part.entries:,} {entries.kind}s, {part.prompts:,} prompts"
        for part in parts
    ]
    lines += ["", f"next: vipo train --data {parts[0].folder}"]
    output.result(document, "\n".join(lines), [str(part.folder) for part in parts])


def mix(
    shares: Annotated[
        list[str],
        typer.Argument(
            metavar="DATA=SHARE...", show_default=False, help="Data sets with their shares."
        ),
    ],
    out: Out,
    weigh: Annotated[
        bool,
        typer.Option(
            "--weigh", help="Keep all entries; their weights, not their numbers, have the shares."
        ),
    ] = False,
    pairs: Annotated[
        int | None,
        typer.Option(
            min=1, help="How many in all.", show_default="as many as there are without repeats"
        ),
    ] = None,
    seed: Seed = 0,
    link: Link = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make one data set of several, evenly mixed; shares are of entries, drawn without repeats."""
    import numpy as np

    from vipo_cli.data.mixing import Ingredient, mix_entries, sample_shares, weigh_shares

    if weigh and pairs is not None:
        raise typer.BadParameter("goes without --weigh, which keeps all", param_hint="--pairs")
    output = Output(json=json, quiet=quiet)
    named = [_amount(text, "DATA=SHARE") for text in shares]
    if wrong := [name for name, share in named if not 0 < share < float("inf")]:
        raise typer.BadParameter(f"the share of `{wrong[0]}` is not above 0")
    if len(named) < 2:
        raise typer.BadParameter("two data sets or more are needed to mix any")
    ingredients = [
        Ingredient(_open(name, None, None, None, output), share) for name, share in named
    ]
    if weigh:
        rows = [np.arange(len(each.entries)) for each in ingredients]
        factors = weigh_shares(ingredients)
    else:
        rows, factors = sample_shares(ingredients, pairs, seed), [1.0] * len(ingredients)
    parts = output.follow(mix_entries(ingredients, out, rows, factors, seed=seed, link=link))
    total = sum(part.entries for part in parts)
    document = {
        "out": str(out),
        "entries": total,
        "parts": [{"data": str(part.folder), **_part_document(part)} for part in parts],
    }
    output.result(document, _mixture_text(out, parts), [str(out)])


def _open(
    data: str,
    settings: list[str] | None,
    path: str | None,
    limit: int | None,
    output: Output,
) -> "Entries":
    from vipo_cli.data.entries import opening_entries

    parameters: dict[str, Any] = dict(map(setting, settings or []))
    if path is not None:
        parameters["path"] = path
    entries = output.follow(opening_entries(data, parameters, limit))
    if entries.folder is None:
        for reason, count in entries.left_out.items():
            if reason not in entries.unusable:  # else warned about
                output.note(f"left out {count:,} rows: {reason}")
    return entries


def _amount(text: str, what: str = "REWARD=X") -> tuple[str, float]:
    name, equals, number = text.rpartition("=")
    try:
        if equals and name.strip():
            return name.strip(), float(number)
    except ValueError:
        pass
    raise typer.BadParameter(f"`{text}` is not {what}")


def _require_a_condition(conditions: "Conditions") -> None:
    if conditions.at_most is not None and conditions.balance is None:
        raise typer.BadParameter("goes with --balance FIELD", param_hint="--at-most")
    said = conditions.document()
    if not said.keys() - {"seed", "against", "scores", "rewards"}:
        raise typer.BadParameter("no condition is given; see vipo data filter --help")


def _part_document(part: "Part") -> dict[str, Any]:
    return {"entries": part.entries, "prompts": part.prompts, "weight": part.weight}


def _filtered_text(name: str, found: "Filtered") -> str:
    lines = [f"{found.folder}: kept {found.kept:,} of {found.entries:,} entries of {name}"]
    width = max((len(f"{count:,}") for count in found.dropped.values()), default=0)
    lines += [f"  {count:>{width},}  {reason}" for reason, count in found.dropped.items()]
    if sum(found.dropped.values()) > found.entries - found.kept:
        lines.append("  (several reasons may apply to one entry)")
    if found.groups:
        kept = ", ".join(f"{group} {count:,}" for group, count in found.groups.items())
        lines.append(f"kept: {kept}")
    if found.kept < found.entries:
        lines.append(f"each with its reasons: {found.folder / 'dropped.jsonl'}")
    lines += ["", f"next: vipo data check {found.folder}"]
    return "\n".join(lines)


def _mixture_text(out: Path, parts: "Sequence[Part]") -> str:
    total, weight = sum(part.entries for part in parts), sum(part.weight for part in parts)
    lines = [f"{out}: {total:,} entries"]
    for part in parts:
        shares = f"{part.entries / total:.1%} of entries, {part.weight / weight:.1%} of weight"
        lines.append(f"  {part.folder}: {part.entries:,}, {shares}")
    return "\n".join([*lines, "", f"next: vipo data check {out}"])
