"""Results of benchmarks, comparisons and rankings, laid out for people."""

from typing import Any

TASK_WIDTH = 14


def results_table(
    title: str,
    results: dict[str, Any],
    comparison: dict[str, Any] | None = None,
    baseline: str | None = None,
) -> str:
    """Lay results out for people, 80 columns wide at most."""
    differences = comparison["differences"] if comparison else {}
    counts = results["n_samples"]
    rows = results["subtasks"] | results["metrics"]
    width = max([TASK_WIDTH, *map(len, rows)])
    head = f"{'':{width}}  value  95 % interval      n"
    lines = [
        f"{title} of {results['model']}, {counts['scored']} of {counts['expected']} pictures",
        "",
        head + ("  vs. base  paired interval" if differences else ""),
    ]
    for name, metric in rows.items():
        line = f"{name:{width}}  {shown(metric['value'])}  {_between(metric['ci95'])}  "
        line += f"{metric['n']:5d}"
        if name in differences:
            line += f"  {_starred(differences[name])}  {_between(differences[name]['ci95'], '+')}"
        lines.append(line)
    if comparison and differences:
        wins = next(iter(comparison["wins"].values()))
        lines += ["", f"base: {baseline}", _STAR, wins_line(wins)]
    return "\n".join(line.rstrip() for line in lines)


def comparison_table(comparison: dict[str, Any]) -> str:
    """Lay a comparison out for people, 80 columns wide at most."""
    width = max([TASK_WIDTH, *map(len, comparison["differences"])])
    lines = [
        f"a: {comparison['a']}",
        f"b: {comparison['b']}",
        "",
        f"{'':{width}}   a - b   paired interval       p   Holm      n",
    ]
    for name, found in comparison["differences"].items():
        lines.append(
            f"{name:{width}}  {_starred(found)}  {_between(found['ci95'], '+')}  "
            f"{found['p_value']:6.4f} {found['p_holm']:6.4f}  {found['n']:5d}"
        )
    wins = [f"{wins_line(found)}" for found in comparison["wins"].values()]
    return "\n".join([*lines, "", _STAR, _HOLM, *wins])


def ranking_table(ranked: dict[str, Any]) -> str:
    """Lay rankings out for people, the strongest model first."""
    lines = []
    for task, found in ranked["ranking"].items():
        lines += [f"{task}, by {found['metric']}: {found['n']} comparisons on a prompt each", ""]
        width = max(len(each["name"]) for each in found["models"])
        lines.append(f"{'':{width}}  strength  95 % interval     Elo")
        for each in found["models"]:
            strength = each["strength"]
            value, between = strength["value"], _between(strength["ci95"], "+")
            lines.append(f"{each['name']:{width}}    {value:+.3f}  {between}  {each['elo']:5.0f}")
        lines.append("")
        for each in found["ahead"]:
            low, high = each["ci95"]
            certain = "ahead of" if low > 0 or high < 0 else "not told from"
            lines.append(
                f"{each['a']} {certain} {each['b']}: {each['value']:+.3f} [{low:+.3f}, {high:+.3f}]"
            )
        lines.append("")
    return "\n".join([*lines, "Strength: log odds of winning a prompt (Bradley and Terry)"])


def wins_line(wins: dict[str, Any]) -> str:
    """Say in how many prompts a wins, ties and loses, and the rate where ties count half."""
    low, high = wins["ci95"]
    return (
        f"prompts by {wins['metric']}: {wins['won']} better, {wins['tied']} alike, {wins['lost']} "
        f"worse; {wins['rate']:.1%} [{low:.1%}, {high:.1%}]"
    )


def shown(value: float) -> str:
    """Return a value in five characters where it has so few digits."""
    return f"{value:5.3f}" if abs(value) < 10 else f"{value:5.2f}"


def overall_difference(comparison: dict[str, Any]) -> float:
    """Return how much better A is in the headline metric; not a number where it is missing."""
    overall = comparison["differences"].get(comparison["headline"])
    return float(overall["value"]) if overall else float("nan")


_STAR = "* the paired 95 % interval excludes 0"
_HOLM = "Holm: p corrected for the number of rows; sign flips of whole prompts"


def _starred(difference: dict[str, Any]) -> str:
    low, high = difference["ci95"] or (0, 0)
    return f"{difference['value']:+.3f}{'*' if low > 0 or high < 0 else ' '} "


def _between(ci95: list[float] | None, sign: str = "") -> str:
    if ci95 is None:
        return "unknown" + 7 * " "
    digits = 3 if max(map(abs, ci95)) < 10 else 2
    return f"{ci95[0]:{sign}.{digits}f} to {ci95[1]:{sign}.{digits}f}"
