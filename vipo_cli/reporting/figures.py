"""Pictures of analyses, as SVG and PNG; the same numbers always give the same SVG.

Colours are those of Okabe and Ito, which people with any kind of colour vision tell apart; lines
differ in their dashes as well.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vipo_cli.analysis.dynamics import Dynamics
from vipo_cli.analysis.gradients import Curve
from vipo_cli.analysis.intervals import Interval
from vipo_cli.analysis.pictures import LEAST
from vipo_cli.analysis.timesteps import ENOUGH, Timesteps
from vipo_cli.run import writing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # it announces its cache

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, BLACK, GREY = "#CC79A7", "#56B4E9", "#000000", "#8A8A8A"
COLOURS = (BLACK, BLUE, RED, GREEN, PURPLE, ORANGE, SKY, GREY)
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (2, 1)), (0, (6, 1.5, 1.5, 1.5)))

WIDE = 30.0
"""Largest over smallest value from which on an axis is logarithmic."""

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "lines.linewidth": 1.8,
    "legend.edgecolor": "none",
    "legend.framealpha": 0.85,
    "legend.fontsize": 9,
    "svg.hashsalt": "vipo",
    "figure.dpi": 100,
    "savefig.dpi": 160,
    "savefig.facecolor": "white",
}


def plot_gradients(curves: Mapping[str, Curve]) -> "Figure":
    """Draw |dloss/dz| over the implicit probability, as it is and relative to p = 0.5."""
    with _style():
        figure = _figure(9.2, 3.8)
        size, emphasis = figure.subplots(1, 2)
        common, labels = _shorter(list(curves))
        looks = _looks(len(labels), ordered=bool(common))
        for curve, label, look in zip(curves.values(), labels, looks, strict=True):
            height = np.abs(curve.slope)
            size.plot(curve.p, height, label=label, **look)
            if curve.half:
                emphasis.plot(curve.p, height / curve.half, **look)
            if curve.peak is not None and 0 < curve.peak_p < 1:
                _mark_peak(size, curve.peak_p, curve.peak, look["color"])
            for turn in curve.turns:
                (mark,) = size.plot(turn, 0, "o", **_hollow(look["color"]))
                mark.set_in_layout(False)
        size.set(title="Push on a pair, |dloss/dz|", ylim=(0, _ceiling(curves, relative=False)))
        emphasis.set(
            title="Relative to the push at p = 0.5", ylim=(0, _ceiling(curves, relative=True))
        )
        for axes in (size, emphasis):
            axes.axvline(0.5, color=GREY, linewidth=0.8, zorder=0)
            axes.set(xlim=(0, 1), xlabel="implicit probability p")
        figure.legend(loc="outside right center", title=common or None, alignment="left")
    return figure


def _mark_peak(axes: "Axes", p: float, height: float, colour: Any) -> None:
    axes.plot(p, height, "o", color=colour, markersize=5)
    text = axes.annotate(
        f"{height:.3f} at p = {p:.4g}",
        (p, height),
        (0, 6),
        textcoords="offset points",
        ha="left" if p < 0.25 else "center",
        fontsize=8.5,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8},
    )
    text.set_in_layout(False)


def _hollow(colour: Any) -> dict[str, Any]:
    return {"color": colour, "markerfacecolor": "white", "markersize": 5, "clip_on": False}


def _ceiling(curves: Mapping[str, Curve], *, relative: bool) -> float:
    """Return a height that shows all bounded curves, and of the others what lies near p = 0.5."""
    heights = []
    for curve in curves.values():
        scale = curve.half if relative else 1.0
        inner = np.abs(curve.slope[(curve.p >= 0.25) & (curve.p <= 0.75)]).max()
        if scale:
            heights.append((inner if curve.peak is None else curve.peak) / scale)
    return 1.12 * max(heights, default=1.0)


def _shorter(labels: Sequence[str]) -> tuple[str, list[str]]:
    """Split off the method's name where all labels begin with it."""
    methods = {label.partition(" ")[0] for label in labels}
    if len(methods) > 1 or len(labels) == 1:
        return "", list(labels)
    return methods.pop(), [label.partition(" ")[2].replace("=", " = ") for label in labels]


def _looks(count: int, *, ordered: bool) -> list[dict[str, Any]]:
    """Return one look a line: from dark to light for values in order, else told apart."""
    if ordered:
        from matplotlib import colormaps

        return [{"color": shade} for shade in colormaps["viridis"](np.linspace(0, 0.9, count))]
    return [
        {"color": COLOURS[number % len(COLOURS)], "linestyle": DASHES[number % len(DASHES)]}
        for number in range(count)
    ]


def plot_timesteps(found: Timesteps) -> "Figure":
    """Draw errors, importance weights and, against a reference, the margin over time."""
    with _style():
        margins = found.moments[0].margin is not None
        figure = _figure(12.6 if margins else 8.8, 3.7)
        panels = figure.subplots(1, 3 if margins else 2)
        _draw_errors(panels[0], found)
        _draw_weights(panels[1], found)
        if margins:
            _draw_margin(panels[2], found)
        for axes in panels:
            axes.set(xlim=(0, 1), xlabel="time (0 clean, 1 noise)")
    return figure


def _draw_errors(axes: "Axes", found: Timesteps) -> None:
    times = [moment.time for moment in found.moments]
    sides = {
        "winners": ("error_w", BLUE, "-"),
        "losers": ("error_l", RED, "-"),
        "winners, reference": ("reference_w", BLUE, DASHES[2]),
        "losers, reference": ("reference_l", RED, DASHES[2]),
    }
    for label, (side, colour, dashes) in sides.items():
        intervals = [getattr(moment, side) for moment in found.moments]
        if intervals[0] is not None:
            look = {"color": colour, "linestyle": dashes}
            _line_with_band(axes, times, intervals, label, look, band=dashes == "-")
    axes.set(title="Prediction error, mean and 95 %", yscale="log")
    axes.legend()


def _draw_weights(axes: "Axes", found: Timesteps) -> None:
    axes.set_xscale("function", functions=(np.sqrt, np.square))  # what is masked lies near 0
    axes.set_xticks([0, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1], minor=False)
    axes.xaxis.set_major_formatter("{x:g}")
    for start, end in _stretches(found.kept < ENOUGH):
        axes.axvspan(start, end, color="#F0E4D8", linewidth=0, zorder=0)
    axes.fill_between(found.times, *found.spread, color=BLUE, alpha=0.18, linewidth=0)
    axes.plot(found.times, found.weight, color=BLUE, label="weight, mean and 5 to 95 %")
    axes.plot(found.times, found.kept, color=RED, linestyle=DASHES[1], label="pairs kept")
    threshold = 1 - found.clip
    axes.axhline(threshold, color=GREY, linewidth=1, linestyle=DASHES[2])
    axes.annotate(
        f"masked below {threshold:g}", (0.98, threshold - 0.02), ha="right", va="top", fontsize=9
    )
    axes.annotate(
        ", ".join(found.settings) or f"no time keeps {ENOUGH:.0%} of the pairs",
        (found.low or 0, 0.5),
        (6, 0),
        textcoords="offset points",
        fontsize=9,
    )
    axes.set(title="Importance weight and mask", ylim=(0, 1.05))
    axes.legend(loc="lower right")


def _draw_margin(axes: "Axes", found: Timesteps) -> None:
    times = [moment.time for moment in found.moments]
    for label, side, colour in (("margin", "margin", GREEN), ("gain on winners", "gain_w", BLUE)):
        intervals = [getattr(moment, side) for moment in found.moments]
        _line_with_band(axes, times, intervals, label, {"color": colour})
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set(title="What was learnt, against the reference")
    axes.legend()


def _line_with_band(
    axes: "Axes",
    times: Sequence[float],
    intervals: Sequence[Interval],
    label: str,
    look: Mapping[str, Any],
    *,
    band: bool = True,
) -> None:
    axes.plot(times, [each.value for each in intervals], label=label, **look)
    if band and intervals[0].n_clusters > 1:
        ends = [each.low for each in intervals], [each.high for each in intervals]
        axes.fill_between(times, *ends, color=look["color"], alpha=0.15, linewidth=0)


def _stretches(chosen: NDArray[np.bool_]) -> list[tuple[float, float]]:
    """Return the ends of each stretch of chosen cells of [0, 1]."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], chosen, [False]]))) / len(chosen)
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def plot_dynamics(found: Dynamics) -> "Figure":
    """Draw what a run recorded, raw and smoothed, a panel for each thing that it has."""
    recorded = found.smooth.keys()
    panels = [
        draw
        for needs, draw in (
            ("implicit_accuracy", _draw_accuracy),
            ("displacement_w", _draw_displacement),
            ("margin", _draw_run_margin),
            ("gradient_norm", _draw_gradient_norm),
            ("saturated", _draw_shares),
            ("loss", _draw_loss),
        )
        if needs in recorded or (needs == "saturated" and "kept_fraction" in recorded)
    ]
    if found.history.pictures:
        panels.append(_draw_pictures)
    with _style():
        columns = min(3, len(panels))
        rows = -(-len(panels) // columns)
        figure = _figure(4.1 * columns, 3.0 * rows)
        places = figure.subplots(rows, columns, squeeze=False).flatten()
        for axes, draw in zip(places, panels, strict=False):
            draw(axes, found)
            axes.set(xlabel="step")
            axes.margins(x=0.02)
            rounds = found.history.rounds
            for start in np.flatnonzero(rounds[1:] != rounds[:-1]):
                axes.axvline(found.history.step[start + 1], color=GREY, linewidth=0.8)
            for alarm in found.history.alarms:
                if alarm["begins"]:
                    axes.axvline(alarm["step"], color=RED, linewidth=0.8, linestyle=":")
        for axes in places[len(panels) :]:
            axes.remove()
    return figure


def _draw_series(
    axes: "Axes", found: Dynamics, series: str, colour: str, label: str, scale: float = 1.0
) -> None:
    step = found.history.step
    axes.plot(step, scale * found.history.values[series], color=colour, alpha=0.25, linewidth=0.7)
    axes.plot(step, scale * found.smooth[series], color=colour, label=label)


def _draw_held_out(axes: "Axes", found: Dynamics, metric: str) -> None:
    measured = [m for m in found.history.held_out if m.metric == metric]
    if measured:
        values = [each.value for each in measured]
        below = [each.value - each.low for each in measured]
        above = [each.high - each.value for each in measured]
        axes.errorbar(
            [each.step for each in measured],
            values,
            [below, above],
            fmt="o",
            color=RED,
            markersize=4,
            linewidth=1.1,
            capsize=2,
            label="held out, 95 %",
        )


def _draw_accuracy(axes: "Axes", found: Dynamics) -> None:
    _draw_series(axes, found, "implicit_accuracy", BLUE, "training")
    _draw_held_out(axes, found, "implicit_accuracy")
    axes.axhline(0.5, color=GREY, linewidth=0.8)
    axes.set(title="Implicit accuracy")
    if found.history.held_out:
        axes.legend(loc="lower right")


def _draw_displacement(axes: "Axes", found: Dynamics) -> None:
    reference = float(np.nanmean(found.history.values["reference_w"]))
    relative = reference > 0  # D3PO's errors are log-likelihoods, of which a share says nothing
    for side, colour, label in (("w", BLUE, "winners"), ("l", RED, "losers")):
        if f"displacement_{side}" in found.smooth:
            usual = float(np.nanmean(found.history.values[f"reference_{side}"]))
            scale = 100 / usual if relative else 1.0
            _draw_series(axes, found, f"displacement_{side}", colour, label, scale)
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set(title="Policy's error over the reference's" + (", %" if relative else ""))
    axes.legend(loc="upper left")


def _draw_run_margin(axes: "Axes", found: Dynamics) -> None:
    _draw_series(axes, found, "margin", GREEN, "margin")
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set(title="Margin")


def _draw_gradient_norm(axes: "Axes", found: Dynamics) -> None:
    _draw_series(axes, found, "gradient_norm", PURPLE, "norm")
    norms = found.history.values["gradient_norm"]
    wide = np.nanmax(norms) > WIDE * np.nanmin(norms)
    axes.set(title="Gradient norm", **({"yscale": "log"} if wide else {"ylim": (0, None)}))


def _draw_shares(axes: "Axes", found: Dynamics) -> None:
    for series, colour, label in (
        ("kept_fraction", BLUE, "with a gradient"),
        ("saturated", RED, "saturated, p outside [0.01, 0.99]"),
    ):
        if series in found.smooth:
            _draw_series(axes, found, series, colour, label)
    axes.set(title="Share of pairs", ylim=(-0.03, 1.03))
    axes.legend()


def _draw_pictures(axes: "Axes", found: Dynamics) -> None:
    """Draw how samples differ from the base's: shares in points, others in per cent of it."""
    measured = found.history.pictures
    step = [each.step for each in measured]
    for name, colour in zip(measured[-1].changes, COLOURS, strict=False):
        changes = [each.changes[name] for each in measured]
        usual = 1.0 if name == "dark_share" else max(changes[-1].base, LEAST[name])
        values = [100 * change.change / usual for change in changes]
        axes.plot(step, values, "o-", color=colour, markersize=3, label=name.replace("_", " "))
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.set(title="Samples against the base's, %")
    axes.legend(ncols=2)


def _draw_loss(axes: "Axes", found: Dynamics) -> None:
    _draw_series(axes, found, "loss", BLACK, "training")
    _draw_held_out(axes, found, "error")
    axes.set(title="Loss")
    if axes.containers:  # held-out errors are there too
        axes.legend()


def _style() -> Any:
    from matplotlib import rc_context

    return rc_context(STYLE)


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save(figure: "Figure", folder: Path, name: str) -> dict[str, Path]:
    """Write a figure as SVG and PNG, each whole or not at all, and return their paths by kind."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the places are found, once for both files
    files = {}
    for kind in ("svg", "png"):
        target = folder / f"{name}.{kind}"
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        with _style(), writing(target) as temporary:
            figure.savefig(temporary, format=kind, metadata=metadata)
        files[kind] = target
    return files
