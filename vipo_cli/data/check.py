"""What is wrong with a set of records, and what mends it: one pass over all prompts and media."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vipo_cli.data.bias import Bias, find_biases, find_imbalance
from vipo_cli.data.census import Census, take_census
from vipo_cli.data.entries import entries_of, entry_at
from vipo_cli.data.entry import Entry
from vipo_cli.data.problems import PROBLEMS, SILENT, Flags, option_of
from vipo_cli.data.record import Kind, Record
from vipo_cli.errors import DataError
from vipo_cli.run import Progress, Work

EXAMPLES = 5
MOSTLY = 0.5
"""Share of pairs that differ above which leaving them out is no help."""
NOTHING: Mapping[str, int] = {}
PROMPT_SHOWN = 60
"""Characters of a prompt in an example."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of problem.

    Attributes:
        problem: its name.
        count: how many records have it.
        examples: the first few of them, or what was found.
        serious: whether the set should not be trained on as it is.
        meaning: what the problem means.
        mend: arguments of `vipo data filter` after which it is gone; none where nothing has to be
            mended, or filtering does not help.
        measured: numbers with intervals, where any were estimated.
        advice: what to do where filtering does not help.
    """

    problem: str
    count: int
    examples: list[str]
    serious: bool
    meaning: str
    mend: list[str] = field(default_factory=list)
    measured: dict[str, Any] = field(default_factory=dict)
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Findings:
    """All that was found, problems that no record has left out."""

    pairs: int
    kind: Kind
    found: tuple[Finding, ...]

    @property
    def serious(self) -> bool:
        """Whether any problem is."""
        return any(finding.serious for finding in self.found)


def check(
    records: Sequence[Record],
    against: frozenset[str] = frozenset(),
    left_out: Mapping[str, int] = NOTHING,
) -> Work[Findings]:
    """Look at every prompt and decode every medium once.

    Args:
        records: of any kind.
        against: normalised prompts that must not be trained on.
        left_out: what was left out when the data set was made, by reason.

    Raises:
        DataError: the data set is empty.
    """
    if not len(records):
        raise DataError("the data set has no pairs")
    entries = entries_of(records)
    census = yield from take_census(entries, against=against)
    found = []
    everything = np.ones(len(census), bool)
    names = [name for name in PROBLEMS if name not in SILENT]
    for done, name in enumerate(names):
        yield Progress("compare", done, len(names))
        flags = PROBLEMS[name].find(census, everything)
        if len(flags.rows):
            found.append(_finding(name, flags, census, records))
    found += [_of_bias(bias, len(census)) for bias in find_biases(census)]
    found += _of_the_whole(census, {**entries.left_out, **left_out})
    yield Progress("compare", len(names), len(names))
    return Findings(len(records), entries.kind, tuple(found))


def mending(data: str, options: Sequence[str], finding_mends: Sequence[Sequence[str]]) -> str:
    """Return the command that mends some findings.

    Args:
        data: how the user names the data set.
        options: that belong to it, and go with the command.
        finding_mends: what mends each finding; those that drop are made one.
    """
    drops = [mend[1] for mend in finding_mends if mend[:1] == ["--drop"]]
    others = [word for mend in finding_mends if mend[:1] != ["--drop"] for word in mend]
    words = ["--drop", ",".join(drops)] if drops else []
    command = ["vipo", "data", "filter", data, *options, *words, *others, "--out", "mended"]
    return shlex.join(command)


def _finding(name: str, flags: Flags, census: Census, records: Sequence[Record]) -> Finding:
    problem = PROBLEMS[name]
    examples = [
        _example(name, flags, place, census, records)
        for place in range(min(EXAMPLES, len(flags.rows)))
    ]
    return Finding(
        name,
        len(flags.rows),
        examples,
        len(flags.rows) > problem.serious_above * len(census),
        problem.meaning,
        ["--drop", option_of(name)],
    )


def _example(name: str, flags: Flags, place: int, census: Census, records: Sequence[Record]) -> str:
    """Say where a problem is, and what it looks like there."""
    row = int(flags.rows[place])
    kind = census.entries.kind
    entry = entry_at(records, row)
    text = f"{kind} {row}" + (f" (id {entry.id})" if entry.id else "")
    if flags.beside is not None:
        return f"{text} and {kind} {flags.beside[place]}"
    if name in ("broken media", "broken region map"):
        return f"{text}, {census.reasons[row]}" if row in census.reasons else text
    shown = "".join(f" ({said})" for said in [_shown(name, entry, census, row)] if said)
    return text + shown


def _shown(name: str, entry: Entry, census: Census, row: int) -> str:
    """Return what is to be seen of a problem in an entry."""
    of = census.rows[row]
    media = census.media[of["start"] : of["start"] + len(entry.media)]
    if name in ("different sizes", "tiny media"):
        return " against ".join(dict.fromkeys(map(_size, media)))
    if name == "improbable winner":
        return f"{of['probability']:g}"
    if name == "endless prompt":
        return f"{of['characters']:,} characters"
    if name == "long prompt":
        return f"about {of['tokens']:,} tokens"
    if name in ("leaked prompt", "GenEval prompt", "GenEval-like prompt", "other script"):
        prompt = " ".join(entry.prompt.split())
        return prompt if len(prompt) <= PROMPT_SHOWN else prompt[: PROMPT_SHOWN - 4] + " ..."
    return ""


def _size(medium: Any) -> str:
    size = f"{medium['width']}x{medium['height']}"
    return size if medium["frames"] == 1 else f"{size}, {medium['frames']} frames"


def _of_bias(bias: Bias, pairs: int) -> Finding:
    too_many = bool(bias.drop) and bias.count > MOSTLY * pairs
    return Finding(
        bias.problem,
        bias.count,
        [bias.words],
        bias.serious,
        "how people looked at the media, which does no harm to training"
        if bias.problem == "position bias"
        else "tells winners from losers without a look at the picture: a model learns that instead",
        ["--drop", option_of(bias.drop)] if bias.drop and not too_many else [],
        bias.share.document(),
        f"nearly all pairs differ: bring both media to one {bias.of} before importing"
        if too_many
        else "",
    )


def _of_the_whole(census: Census, left_out: Mapping[str, int]) -> Iterator[Finding]:
    if imbalance := find_imbalance(census):
        largest, smallest, counted = imbalance
        yield Finding(
            "category imbalance",
            largest,
            counted[:EXAMPLES],
            serious=False,
            meaning=f"the largest category has {largest / smallest:,.0f} times the entries of the "
            "smallest: training is mostly about it",
            mend=["--balance", "category"],
        )
    if left_out:
        yield Finding(
            "left out",
            sum(left_out.values()),
            [f"{count:,}: {reason}" for reason, count in left_out.items()],
            serious=False,
            meaning="rows of the source that are no records, and take no part",
        )
