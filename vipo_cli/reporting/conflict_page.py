"""A page of how far rewards agree about pairs: the figure, the numbers, and pairs worth a look."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vipo_cli.analysis.conflict import Conflict
from vipo_cli.analysis.intervals import Interval
from vipo_cli.data.record import PreferencePair
from vipo_cli.errors import DataError
from vipo_cli.media import Media, media_bytes, stills
from vipo_cli.reporting.pages import data_uri, page_template
from vipo_cli.run import writing

SMALL = 128
"""Longer side up to which a picture is kept without loss."""
PARTS = 12
"""Parts of a stratum that are shown."""

Example = tuple[int, PreferencePair, Mapping[str, float]]
"""A pair with its number, and the margins of the rewards in units of their medians."""


def write_conflict_page(
    target: Path,
    name: str,
    found: Conflict,
    figure: Path,
    examples: Mapping[str, Sequence[Example]],
    notes: Sequence[str],
) -> None:
    """Write an HTML file that needs no network.

    Args:
        target: the file.
        name: of the data set.
        found: the numbers.
        figure: an SVG file of them.
        examples: pairs to show, by what is told of them.
        notes: what else the reader should know.
    """
    page = page_template("conflict.html").render(
        name=name,
        found=found,
        notes=notes,
        figure=f"data:image/svg+xml;base64,{base64.b64encode(figure.read_bytes()).decode()}",
        matrices=_matrices(found),
        dominance=_dominance(found),
        strata={key: _parts(found, key) for key in found.strata},
        examples={title: [_card(*each) for each in pairs] for title, pairs in examples.items()},
        bar=_bar,
    )
    with writing(target) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="replace")


def _matrices(found: Conflict) -> dict[str, list[tuple[str, list[float | None]]]]:
    """Return each matrix by row; None on the diagonal."""
    agreed = found.agreement
    tables = {
        "Agreement": agreed.share,
        "Cohen's kappa": agreed.kappa,
        "Spearman of margins": agreed.spearman,
    }
    return {
        title: [
            (
                reward,
                [None if row == column else float(value) for column, value in enumerate(line)],
            )
            for row, (reward, line) in enumerate(zip(found.rewards, table, strict=True))
        ]
        for title, table in tables.items()
    }


def _dominance(found: Conflict) -> list[tuple[str, dict[str, float | None]]]:
    report = found.dominance
    rows = [("all rewards, each alike", report.rewards.document())]
    if report.dimensions is not None:
        rows.append(("all dimensions, each alike", report.dimensions.document()))
    rows += [(f"within: {name}", each.document()) for name, each in report.within.items()]
    return rows


def _parts(found: Conflict, stratum: str) -> dict[str, Any]:
    parts = found.strata[stratum]
    return {"shown": list(parts.items())[:PARTS], "more": max(0, len(parts) - PARTS)}


def _bar(share: Interval) -> dict[str, str]:
    """Return where an interval and its estimate stand on a bar, in percent of its width."""
    return {
        "left": f"{100 * share.low:.2f}%",
        "width": f"{100 * (share.high - share.low):.2f}%",
        "value": f"{100 * share.value:.2f}%",
    }


def _card(number: int, pair: PreferencePair, margins: Mapping[str, float]) -> dict[str, Any]:
    assert pair.loser is not None
    return {
        "number": number,
        "prompt": pair.prompt,
        "media": [_shown("winner", pair.winner), _shown("loser", pair.loser)],
        "margins": margins,
    }


def _shown(role: str, medium: Media) -> dict[str, Any]:
    try:
        pictures = stills(media_bytes(medium))
    except DataError as error:
        return {"role": role, "sources": [], "problem": error.message}
    return {"role": role, "sources": [data_uri(each, SMALL) for each in pictures], "problem": ""}
