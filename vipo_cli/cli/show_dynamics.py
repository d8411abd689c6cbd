"""How `vipo analyze dynamics` shows what it found."""

from typing import TYPE_CHECKING, Any

from vipo_cli.cli.show_conflict import filled

if TYPE_CHECKING:
    from vipo_cli.analysis.dynamics import Dynamics
    from vipo_cli.analysis.findings import About, Finding
    from vipo_cli.analysis.history import Level, Measurement, Pictures

ROWS = {
    "implicit_accuracy": ("implicit accuracy", ".3f"),
    "margin": ("margin", ".3g"),
    "policy_w": ("error on winners", ".4g"),
    "policy_l": ("error on losers", ".4g"),
    "saturated": ("saturated pairs", ".1%"),
    "kept_fraction": ("pairs with a gradient", ".1%"),
    "beta": ("beta", ".4g"),
    "gradient_norm": ("gradient norm", ".3g"),
    "loss": ("loss", ".4g"),
}


def dynamics_text(found: "Dynamics", about: "About") -> str:
    """Lay levels and findings out for people, 80 columns wide."""
    method = f"{about.method}, " if about.method else ""
    early, late = (f"steps {a}-{b}" for a, b in (found.early_steps, found.late_steps))
    lines = [
        f"dynamics of {about.run}: {method}{len(found.history):,} steps",
        "",
        f"{'mean over':24}{early:>16}{late:>16}",
    ]
    for name, (title, form) in ROWS.items():
        if name in found.late:
            lines.append(
                f"{title:24}{_mean(found.early, name, form)}{_mean(found.late, name, form)}"
            )
            if (side := name.removeprefix("policy_")) in ("w", "l"):
                lines += _displaced(found, side)
    lines += [
        "",
        *_held_out(found.history.held_out),
        *_pictures(found.history.pictures),
        *_alarms(found.history.alarms),
    ]
    return "\n".join([*lines, "\n\n".join(map(_finding, found.findings))])


def _mean(levels: "dict[str, Level]", name: str, form: str) -> str:
    return f"{format(levels[name].mean, form) if name in levels else '-':>16}"


def _displaced(found: "Dynamics", side: str) -> list[str]:
    """Tell how far an error is from the reference's, where that is a share of something."""
    cells = []
    for levels in (found.early, found.late):
        moved, reference = levels.get(f"displacement_{side}"), levels.get(f"reference_{side}")
        if moved is None or reference is None or reference.mean <= 0:
            return []
        share = round(moved.mean / reference.mean, 3) + 0.0  # + 0.0: no minus sign before zero
        cells.append(f"{share:>+16.1%}")
    return [f"{'  over the reference':24}{''.join(cells)}"]


def _held_out(measured: "tuple[Measurement, ...]") -> list[str]:
    if not measured:
        return []
    last = measured[-1]
    title = f"held-out {last.metric.replace('_', ' ')}"
    value = f"{last.value:.3g} [{last.low:.3g}, {last.high:.3g}] at step {last.step}"
    return [f"{title}: {value}, {last.n} pairs", ""]


def _pictures(measured: "tuple[Pictures, ...]") -> list[str]:
    if not measured:
        return []
    last = measured[-1]
    title = f"samples of step {last.step} over the base's, {last.n} prompts"
    lines = []
    for name, change in last.changes.items():
        low, high = change.ci95 or (float("nan"), float("nan"))
        value = f"{change.base:.3g} -> {change.value:.3g}"
        sure = f"{change.change:+.2g} [{low:+.2g}, {high:+.2g}]" if change.ci95 else ""
        lines.append(f"  {name.replace('_', ' '):22}{value:>18}   {sure}".rstrip())
    return [title, *lines, ""]


def _alarms(alarms: "tuple[dict[str, Any], ...]") -> list[str]:
    if not alarms:
        return []
    lines = ["alarms while it trained"]
    for alarm in alarms:
        text = f"step {alarm['step']}: {alarm['text']}"
        if "returned_to" in alarm:
            text += f"; returned to step {alarm['returned_to']}"
        lines.append(filled(text, "  "))
    return [*lines, ""]


def _finding(finding: "Finding") -> str:
    marks = {"good": "healthy: ", "note": "note: ", "warning": "WARNING: "}
    lines = [filled(f"{marks[finding.level]}{finding.text}")]
    lines += [f"  {what}: {command}" for what, command in finding.advice]
    return "\n".join(lines)
