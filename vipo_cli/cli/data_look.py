"""`vipo data check`, `stats` and `preview`: look at data before anything is trained on them."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vipo_cli.cli.data_select import Against
from vipo_cli.cli.output import Json, Output, Quiet
from vipo_cli.cli.source import Data, Folder, Settings, describe, open_to_look_at

if TYPE_CHECKING:
    from vipo_cli.data.check import Finding, Findings
    from vipo_cli.data.stats import Statistics

Limit = Annotated[
    int | None, typer.Option(min=1, help="Only the first so many pairs.", show_default="all")
]
SHOWN = 8
"""Lines of each table of `stats`."""


def register(app: typer.Typer) -> None:
    """Add the commands to those of `vipo data`."""
    app.command(
        epilog="Examples: vipo data check shapes --set kind=noisy --limit 200   |   "
        "vipo data check pairs --against pick-a-pic-test.txt --json"
    )(check)
    app.command(
        epilog="Examples: vipo data stats shapes --limit 500   |   "
        "vipo data stats pickapic_v2 --path DIR --json"
    )(stats)
    app.command(
        epilog="Examples: vipo data preview shapes --set kind=noisy   |   "
        "vipo data preview pairs.jsonl --pairs 60 --out pairs.html"
    )(preview)


def check(
    data: Data,
    limit: Limit = None,
    against: Against = None,
    path: Folder = None,
    settings: Settings = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Decode every picture and look for what spoils training; exit status 3 if there is any."""
    from vipo_cli.data.check import check as check_pairs
    from vipo_cli.data.check import mending
    from vipo_cli.data.entries import left_out_before
    from vipo_cli.data.held_back import read_prompts
    from vipo_cli.data.lazy import dropped, first
    from vipo_cli.data.problems import option_of
    from vipo_cli.data.stored import Candidates

    output = Output(json=json, quiet=quiet)
    held_back = read_prompts(against or [])
    pairs = open_to_look_at(data, settings, path, output)
    work = check_pairs(first(pairs, limit), held_back, left_out_before(data))
    findings = output.follow(work)
    name = describe(data, settings)
    words = [f"--set={each}" for each in settings or []]
    words += [f"--path={path}"] if path else []
    commands = {
        finding.problem: mending(data, [*words, *_against(finding, against)], [finding.mend])
        for finding in findings.found
        if finding.mend
    }
    judged = not isinstance(pairs, Candidates)
    document = {
        "data": name,
        "kind": findings.kind if judged else "candidates",
        "pairs": findings.pairs,
        "serious": findings.serious,
        "dropped": dict(dropped(pairs)),
        "findings": [
            asdict(finding) | {"mend": commands.get(finding.problem)} for finding in findings.found
        ],
    }
    problems = [option_of(finding.problem) for finding in findings.found]
    serious = [finding for finding in findings.found if finding.serious]
    extra = [word for finding in serious for word in _against(finding, against)]
    at_once = mending(data, [*words, *extra], [finding.mend for finding in serious if finding.mend])
    at_once = at_once if len(serious) > 1 else ""
    text = _findings_text(name, findings, commands, at_once, judged=judged)
    output.result(document, text, problems)
    if findings.serious:
        raise typer.Exit(3)


def stats(
    data: Data,
    limit: Limit = None,
    path: Folder = None,
    settings: Settings = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Count pairs, prompts, categories, sizes, formats, models, annotators and scores."""
    from vipo_cli.data.lazy import dropped, first
    from vipo_cli.data.stats import statistics
    from vipo_cli.data.stored import Candidates

    output = Output(json=json, quiet=quiet)
    pairs = open_to_look_at(data, settings, path, output)
    found = output.follow(statistics(first(pairs, limit)))
    name = describe(data, settings)
    document = {"data": name, "dropped": dict(dropped(pairs)), **asdict(found)}
    noun = _noun(found.kind, judged=not isinstance(pairs, Candidates))
    output.result(document, _statistics_text(name, found, noun), [str(found.pairs)])


def preview(
    data: Data,
    pairs: Annotated[int, typer.Option(min=1, max=500, help="How many pairs, evenly spread.")] = 8,
    out: Annotated[
        Path, typer.Option(help="PNG file, or an HTML page that says more: .html.")
    ] = Path("preview.png"),
    path: Folder = None,
    settings: Settings = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show pairs with their prompts, winner left, on a sheet or a page; print its path."""
    from vipo_cli.data.entries import entry_at
    from vipo_cli.data.preview import preview as draw
    from vipo_cli.data.usable import kind_of
    from vipo_cli.run import writing

    output = Output(json=json, quiet=quiet)
    source = open_to_look_at(data, settings, path, output)
    count = min(pairs, len(source))
    rows = [number * len(source) // count for number in range(count)]
    if out.suffix.lower() in (".html", ".htm"):
        from vipo_cli.reporting.pairs_page import write_pairs_page

        shown = [(row, entry_at(source, row)) for row in rows]
        write_pairs_page(out, describe(data, settings), kind_of(source), len(source), shown)
    else:
        sheet = draw([source[row] for row in rows])
        with writing(out) as temporary:
            sheet.save(temporary, format="PNG")
    document = {"data": describe(data, settings), "path": str(out), "pairs": rows}
    output.result(document, str(out), [str(out)])


def _against(finding: "Finding", against: Sequence[Path] | None) -> list[str]:
    """Return the options by which a leak is found again."""
    leaked = finding.problem == "leaked prompt"
    return [f"--against={file}" for file in against or []] if leaked else []


def _findings_text(
    name: str, findings: "Findings", commands: dict[str, str], at_once: str, *, judged: bool
) -> str:
    from vipo_cli.data.problems import PROBLEMS

    looked_at = f"{findings.pairs:,} {_noun(findings.kind, judged=judged)}"
    lines = [f"{name}: {looked_at} looked at"]
    for finding in findings.found:
        weight = "SERIOUS" if finding.serious else "note"
        lines += [
            "",
            f"{weight}: {finding.problem}, {finding.count:,} of {looked_at}",
            f"  {finding.meaning}",
            *(f"  - {example}" for example in finding.examples),
        ]
        if finding.problem in PROBLEMS and finding.count > len(finding.examples):
            lines.append(f"  - and {finding.count - len(finding.examples):,} more")
        if command := commands.get(finding.problem):
            lines.append(f"  mend: {command}")
        if finding.advice:
            lines.append(f"  {finding.advice}")
    fit = "fit for training" if judged else "fit to make pairs of"
    verdict = f"not {fit} as it is" if findings.serious else fit
    if at_once:
        verdict += f"; all that is serious at once:\n  {at_once}"
    return "\n".join([*lines, "", verdict])


def _noun(kind: str, *, judged: bool) -> str:
    """Return what several records are called."""
    return f"{kind}s" if judged else "groups of candidates"


def _statistics_text(name: str, found: "Statistics", noun: str) -> str:
    shortest, median, longest = found.prompt_characters
    rows: list[tuple[str, Any]] = [
        ("data", name),
        (noun, f"{found.pairs:,}"),
        *([("without a loser", f"{found.singles:,}")] if found.kind == "pair" else []),
        ("prompts", f"{found.prompts:,}"),
        ("prompt characters", f"{shortest} to {longest}, median {median}"),
        ("media", f"{found.media_bytes / 2**20:,.1f} MiB encoded"),
        ("unreadable media", f"{found.unreadable:,}"),
    ]
    if found.annotators:
        busiest = next(iter(found.annotators.values()))
        rows.append(("annotators", f"{len(found.annotators):,}, the busiest judged {busiest:,}"))
    tables: list[tuple[str, list[str]]] = [
        ("labels", _counts(found.labels)),
        ("categories", _counts(found.categories)),
        ("sizes", _counts(found.sizes)),
        ("formats", _counts(found.formats)),
        ("models", [_model(*each) for each in found.models.items()]),
        ("dimensions", [_dimension(*each) for each in found.dimensions.items()]),
        ("scores", [_score(*each) for each in found.scores.items()]),
    ]
    for title, lines in tables:
        shown = lines[:SHOWN]
        rows += [(title if not number else "", line) for number, line in enumerate(shown)]
        if len(lines) > len(shown):
            rows.append(("", f"and {len(lines) - len(shown)} more"))
    width = max(18, len(noun))
    return "\n".join(f"{title:{width}} {value}" for title, value in rows)


def _counts(counts: dict[str, int]) -> list[str]:
    return [f"{name:16} {count:>9,}" for name, count in counts.items()]


def _model(name: str, counts: dict[str, int]) -> str:
    line = f"{name:16} {counts['shown']:>9,}"
    if compared := counts["compared"]:
        line += f", preferred in {counts['preferred'] / compared:.0%} of {compared:,}"
    return line


def _dimension(name: str, labels: dict[str, int]) -> str:
    return f"{name:16} " + ", ".join(f"{label} {count:,}" for label, count in labels.items())


def _score(name: str, said: dict[str, Any]) -> str:
    line = f"{name:16} {said['pairs']:>9,}, winner {said['winner']:.4g}, loser {said['loser']:.4g}"
    if share := said.get("prefers_winner"):
        low, high = share["ci95"]
        line += f", prefers the winner in {share['value']:.0%} ({low:.0%} to {high:.0%})"
    return line
