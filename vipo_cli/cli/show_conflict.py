"""How `vipo analyze conflict` shows what it found."""

import shlex
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vipo_cli.analysis.conflict import Conflict, Unanimity
    from vipo_cli.analysis.dominance import Dominance
    from vipo_cli.analysis.intervals import Interval
    from vipo_cli.data.record import Record
    from vipo_cli.evaluation.conflict import ConflictReport

EXAMPLES = 6
"""Pairs of a kind that a page shows."""
WIDTH = 78
BAR = 40
LACKING = 3
"""Rewards that are not at hand of which it is shown how to get them."""
PARTS = 6
"""Parts of a stratum that are shown; all are in the JSON."""
TITLES = {
    "against the label": "All rewards prefer the loser: is the label right?",
    "most contested": "Most contested: large margins both ways",
}
HEURISTIC = "advice (a heuristic of vipo, not the paper's)"


def conflict_text(name: str, report: "ConflictReport") -> str:
    """Lay a conflict out for people, 80 columns wide."""
    found = report.conflict
    used = f"{report.pairs:,} pairs"
    if report.pairs < report.available:
        used = f"the first {report.pairs:,} of {report.available:,} pairs"
    scores = f"; scores known before: {', '.join(report.stored)}" if report.stored else ""
    blocks = [
        filled(f"conflict in {name}: {used}, {len(found.rewards)} rewards{scores}"),
        *(filled(f"left out {count:,} pairs: {why}") for why, count in report.skipped.items()),
        _unanimity(found),
        _votes(found),
        _accuracy(found),
        _matrices(found),
        _dominance(found),
        *_strata(found),
        f"{HEURISTIC}\n{filled(found.advice, '  ')}",
        _missing(report),
    ]
    return "\n\n".join(block for block in blocks if block)


def write_files(
    folder: Path,
    name: str,
    records: "Sequence[Record]",
    report: "ConflictReport",
    document: Mapping[str, Any],
) -> dict[str, Path]:
    """Write the page, its figure, the numbers and the table of pairs; return them by kind."""
    from vipo_cli.analysis.dominance import in_own_scale
    from vipo_cli.data.record import PreferencePair
    from vipo_cli.evaluation.pair_table import telling_pairs, write_pair_table
    from vipo_cli.reporting.conflict_figures import plot_conflict
    from vipo_cli.reporting.conflict_page import Example, write_conflict_page
    from vipo_cli.reporting.figures import save
    from vipo_cli.run import write_json

    figures = save(plot_conflict(report.conflict), folder, "conflict")
    table = report.table
    margins = in_own_scale(table.margins())
    examples: dict[str, list[Example]] = {}
    for title, places in telling_pairs(table, EXAMPLES).items():
        examples[TITLES[title]] = []
        for place in places.tolist():
            number = int(table.rows[place])
            pair = records[number]
            assert isinstance(pair, PreferencePair)
            said = dict(zip(table.rewards, margins[place].tolist(), strict=True))
            examples[TITLES[title]].append((number, pair, said))
    page = folder / "conflict.html"
    notes = [f"{each.reward} took no part: {each.reason}" for each in report.missing]
    notes += [f"left out {count:,} pairs: {why}" for why, count in report.skipped.items()]
    write_conflict_page(page, name, report.conflict, figures["svg"], examples, notes)
    write_json(folder / "conflict.json", document)
    write_pair_table(folder / "pairs.parquet", table, name)
    numbers, pairs = folder / "conflict.json", folder / "pairs.parquet"
    return {"page": page, "json": numbers, **figures, "pairs": pairs}


def files_text(data: str, report: "ConflictReport", files: Mapping[str, Path]) -> str:
    """Say where the files lie, and what to do with the table of pairs."""
    if not files:
        return ""
    lines = ["", "", *(f"{kind:5} {file}" for kind, file in files.items())]
    if "pairs" in files:
        agree = max(1, len(report.conflict.rewards) // 2 + 1)
        words = ("vipo", "data", "filter", data, "--scores", str(files["pairs"]))
        lines += ["", f"next: {shlex.join(words)} --agree {agree} --out DIR"]
    return "\n".join(lines)


def _unanimity(found: "Conflict") -> str:
    def line(title: str, unanimity: "Unanimity") -> str:
        return (
            f"{title:21} {_percent(unanimity.share):22} chance {unanimity.chance:6.1%}"
            f"  independent {unanimity.independent:6.1%}"
        )

    rows = [
        line("all rewards agree", found.unanimous),
        line("  and with the label", found.unanimous_with_label),
        f"{'label outvoted':21} {_percent(found.outvoted)}",
    ]
    if found.n_complete < found.n_pairs:
        rows.append(f"  over the {found.n_complete:,} pairs that every reward can judge")
    if found.n_tied:
        rows.append(f"  {found.n_tied:,} labels are ties, with which nobody can agree")
    return "\n".join(rows)


def _votes(found: "Conflict") -> str:
    total, most = max(1, sum(found.votes)), max(1, *found.votes)
    rows = [
        f"  {siding:2} {'#' * round(BAR * count / most):{BAR}} {count:>9,} {count / total:6.1%}"
        for siding, count in reversed(list(enumerate(found.votes)))
    ]
    agreed = found.agreement
    told = (
        f"a pair's votes hold {agreed.entropy:.2f} bits (0 agreed, 1 split evenly); Krippendorff's "
        f"alpha {_cell(agreed.alpha).strip()}"
    )
    return "\n".join(["pairs by how many rewards prefer the winner", *rows, filled(told, "  ")])


def _accuracy(found: "Conflict") -> str:
    title = f"{'how often each prefers the winner':51}{'ties':>7}{'without':>8}{'slope':>10}"
    rows = []
    for name, each in found.accuracy.items():
        calibration = each.calibration
        steep = "-"
        if calibration.slope is not None:
            steep = f"{calibration.slope * calibration.scale:.2f}"
        rows.append(
            f"  {name[:22]:22} {_percent(each.share):26}{each.ties:7.1%}"
            f"{each.decided.value:8.1%}{steep:>10}"
        )
    notes = "  a tie counts half; slope: log odds of being right at the median margin"
    if any(each.with_ties for each in found.accuracy.values()):
        best = (
            f"{name} {each.with_ties.accuracy:.1%} (ties up to {each.with_ties.threshold:.3g})"
            for name, each in found.accuracy.items()
            if each.with_ties
        )
        notes += "\n" + filled(f"right about ties too, at best: {', '.join(best)}", "  ")
    return "\n".join([title, *rows, notes])


def _matrices(found: "Conflict") -> str:
    """Draw agreement right of the diagonal and kappa left of it."""
    names, agreed = found.rewards, found.agreement
    lines = [" " * 26 + "".join(f"{number:>7}" for number in range(1, len(names) + 1))]
    for row, name in enumerate(names):
        cells = [
            "      -"
            if row == column
            else _cell((agreed.share if column > row else agreed.kappa)[row, column])
            for column in range(len(names))
        ]
        lines.append(f"  {row + 1:2} {name[:20]:20} {''.join(cells)}")
    return "\n".join(["agreement (upper right) and Cohen's kappa (lower left)", *lines])


def _cell(value: float) -> str:
    return f"{round(value, 2) + 0.0:7.2f}"  # + 0.0: no minus sign before zero


def _dominance(found: "Conflict") -> str:
    report = found.dominance
    columns: dict[str, Dominance] = {"all rewards": report.rewards}
    if report.dimensions is not None and report.dimensions != report.rewards:
        columns["dimensions"] = report.dimensions
    lines = [
        ("winner better, nowhere worse", [each.dominates for each in columns.values()]),
        ("winner worse, nowhere better", [each.dominated for each in columns.values()]),
        ("better in some, worse in others", [each.mixed for each in columns.values()]),
        ("equal in all", [each.equal for each in columns.values()]),
    ]
    title = f"dominance beyond {report.indifference:g} of the median margin"
    rows = [f"  {what:42}{''.join(f'{share:13.1%}' for share in shares)}" for what, shares in lines]
    return "\n".join([f"{title:44}{''.join(f'{name:>13}' for name in columns)}", *rows])


def _strata(found: "Conflict") -> list[str]:
    """Lay out the parts of each stratum, the first few of many."""
    blocks = []
    for name, parts in found.strata.items():
        title = f"by {name.replace('_', ' ')}"
        lines = [f"{title:34} {'agree':>8}{'and label':>11}{'outvoted':>10}{'pairs':>12}"]
        for part, each in list(parts.items())[:PARTS]:
            shares = f"{_share(each.unanimous, 8)}{_share(each.unanimous_with_label, 11)}"
            lines.append(f"  {part[:32]:32} {shares}{_share(each.outvoted, 10)}{each.pairs:>12,}")
        if len(parts) > PARTS:
            lines.append(f"  and {len(parts) - PARTS:,} more (--json, or --out DIR)")
        blocks.append("\n".join(lines))
    return blocks


def _share(share: "Interval", width: int) -> str:
    return f"{share.value:{width}.1%}" if share.n else f"{'-':>{width}}"


def _missing(report: "ConflictReport") -> str:
    if not report.missing:
        return ""
    lines = ["rewards that took no part"]
    lacking = [each for each in report.missing if each.hint]
    listed = report.missing
    if len(lacking) > LACKING:
        listed = tuple(each for each in listed if not each.hint)
        names = ", ".join(each.reward for each in lacking)
        lines.append(filled(f"not at hand: {names}", "  "))
        lines.append("    vipo eval doctor says what each needs, and so does --json")
    for each in listed:
        lines.append(filled(f"{each.reward}: {each.reason}", "  "))
        if each.hint:
            lines += [f"    {line}" for line in each.hint.splitlines()]  # commands stay in a piece
    return "\n".join(lines)


def _percent(share: "Interval") -> str:
    if not share.n:
        return "     -"
    return f"{share.value:6.1%} [{share.low:.1%}, {share.high:.1%}]"


def filled(text: str, indent: str = "") -> str:
    """Break text into lines of the usual width."""
    return textwrap.fill(text, WIDTH, initial_indent=indent, subsequent_indent=indent)
