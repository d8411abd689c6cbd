"""Pictures of how far rewards agree about pairs."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vipo_cli.analysis.conflict import Conflict
from vipo_cli.reporting.figures import BLUE, COLOURS, GREY, RED, STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDEST = 24
"""Characters of a reward's name."""


def plot_conflict(found: Conflict) -> "Figure":
    """Draw the votes about a pair, how two rewards agree, and how accuracy grows with margins."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(13.2, 4.1), layout="constrained")
        votes, matrix, calibration = figure.subplots(1, 3, width_ratios=(1, 1.15, 1.1))
        _draw_votes(votes, found)
        _draw_matrix(matrix, found)
        _draw_calibration(calibration, found)
    return figure


def _draw_votes(axes: "Axes", found: Conflict) -> None:
    counts = np.array(found.votes, float)
    total = max(1.0, counts.sum())
    places = np.arange(len(counts))
    axes.bar(places, counts / total, color=BLUE, width=0.75, label="found")
    expected = expected_votes(found)
    if not np.isnan(expected).any():
        axes.plot(places, expected, "o", color=RED, markersize=5, label="if independent")
    axes.set(title="Rewards that prefer the winner", xticks=places, ylabel="share of pairs")
    axes.grid(visible=False, axis="x")
    axes.legend()


def expected_votes(found: Conflict) -> NDArray[np.float64]:
    """Return the shares of pairs with no, one, ... votes if each reward voted on its own."""
    shares = np.ones(1)
    for each in found.accuracy.values():
        wins = (1 - each.ties) * each.decided.value
        shares = np.convolve(shares, [1 - wins, wins])
    return shares


def _draw_matrix(axes: "Axes", found: Conflict) -> None:
    """Draw kappa below the diagonal, Spearman's correlation above it."""
    agreed, k = found.agreement, len(found.rewards)
    values = np.where(np.tri(k, k=-1, dtype=bool), agreed.kappa, agreed.spearman)
    np.fill_diagonal(values, np.nan)
    axes.imshow(values, cmap="RdBu", vmin=-1, vmax=1)
    for row in range(k):
        for column in range(k):
            if row != column and not np.isnan(values[row, column]):
                value = values[row, column]
                look: dict[str, Any] = {"color": "white" if abs(value) > 0.6 else "black"}
                text = f"{value + 0.0:.2f}"
                axes.text(column, row, text, ha="center", va="center", fontsize=9, **look)
    names = [name[:WIDEST] for name in found.rewards]
    axes.set_xticks(range(k), names, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(k), names)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set(title="Cohen's kappa (below), Spearman (above)")


def _draw_calibration(axes: "Axes", found: Conflict) -> None:
    """Draw accuracy over margins in units of each reward's median, with the fitted curve."""
    furthest = 0.0
    for (name, each), colour in zip(
        found.accuracy.items(), _cycle(len(found.rewards)), strict=True
    ):
        calibration = each.calibration
        if not calibration.bins or not calibration.scale > 0:
            continue
        x = np.array([bin_.margin for bin_ in calibration.bins]) / calibration.scale
        y = np.array([bin_.accuracy.value for bin_ in calibration.bins])
        below = y - [bin_.accuracy.low for bin_ in calibration.bins]
        above = [bin_.accuracy.high for bin_ in calibration.bins] - y
        axes.errorbar(
            x,
            y,
            [below, above],
            fmt="o",
            color=colour,
            markersize=4,
            linewidth=1,
            label=name[:WIDEST],
        )
        furthest = max(furthest, float(x.max()))
        if calibration.slope is not None:
            line = np.linspace(0, float(x.max()), 100)
            odds = calibration.slope * calibration.scale * line
            axes.plot(line, 1 / (1 + np.exp(-odds)), color=colour, linewidth=1.2)
    axes.axhline(0.5, color=GREY, linewidth=0.8)
    axes.set(title="How often right, by size of margin", xlabel="margin / its median")
    if furthest:
        axes.legend()


def _cycle(count: int) -> list[str]:
    return [COLOURS[number % len(COLOURS)] for number in range(1, count + 1)]
