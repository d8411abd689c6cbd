"""What is wrong with a set of pairs: one pass over all prompts and media."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from vipo_cli.data.pair import PreferencePair
from vipo_cli.data.prompts import LONGEST
from vipo_cli.errors import DataError
from vipo_cli.media import content_hash, decode, media_bytes
from vipo_cli.run import Progress, Work

EXAMPLES = 5
SHORT_PROMPT = 300
"""Characters beyond which a text encoder of 77 tokens reads only the beginning."""

PROBLEMS: dict[str, tuple[str, float]] = {
    "broken media": ("cannot be decoded", 0.0),
    "winner equals loser": ("the same bytes on both sides: nothing to learn", 0.0),
    "contradicting labels": ("the same two media and prompt, with either one winning", 0.01),
    "empty prompt": ("nothing that the media could have been made for", 0.0),
    "endless prompt": (f"{LONGEST:,} characters or more", 0.0),
    "duplicate pair": ("seen before, with the same winner: counts twice in training", 1.0),
    "long prompt": (f"over {SHORT_PROMPT} characters: CLIP reads 77 tokens", 1.0),
    "different sizes": ("winner and loser differ in resolution, which a model can learn", 1.0),
}
"""Each problem with what it means and the share of pairs above which it is serious (1: never)."""


@dataclass(slots=True)
class Finding:
    """One kind of problem.

    Attributes:
        problem: a key of PROBLEMS.
        count: how many pairs have it.
        examples: the first few of them.
        serious: whether the set should not be trained on as it is.
    """

    problem: str
    count: int = 0
    examples: list[str] = field(default_factory=list)
    serious: bool = False

    @property
    def meaning(self) -> str:
        """What the problem means."""
        return PROBLEMS[self.problem][0]

    def add(self, example: str) -> None:
        """Count one more pair."""
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(example)


@dataclass(frozen=True, slots=True)
class Findings:
    """All that was found, problems that no pair has left out."""

    pairs: int
    found: tuple[Finding, ...]

    @property
    def serious(self) -> bool:
        """Whether any problem is."""
        return any(finding.serious for finding in self.found)


def check(pairs: Sequence[PreferencePair]) -> Work[Findings]:
    """Look at every prompt and decode every medium once.

    Raises:
        DataError: the data set has no pairs.
    """
    if not len(pairs):
        raise DataError("the data set has no pairs")
    findings = {problem: Finding(problem) for problem in PROBLEMS}
    seen: dict[tuple[str, ...], tuple[int, str]] = {}
    for index in range(len(pairs)):
        pair, name = pairs[index], f"pair {index}"
        _check_prompt(findings, pair.prompt, name)
        digests = _check_media(findings, pair, name)
        if len(digests) == 2 and digests[0] == digests[1]:
            findings["winner equals loser"].add(name)
        elif digests:
            key = (pair.prompt, *sorted(digests))
            first, winner = seen.setdefault(key, (index, digests[0]))
            if first != index:
                kind = "duplicate pair" if winner == digests[0] else "contradicting labels"
                findings[kind].add(f"{name} and pair {first}")
        yield Progress("check pairs", index + 1, len(pairs))
    for finding in findings.values():
        finding.serious = finding.count > PROBLEMS[finding.problem][1] * len(pairs)
    return Findings(len(pairs), tuple(each for each in findings.values() if each.count))


def _check_prompt(findings: dict[str, Finding], prompt: str, name: str) -> None:
    if not prompt.strip():
        findings["empty prompt"].add(name)
    elif len(prompt) >= LONGEST:
        findings["endless prompt"].add(f"{name} ({len(prompt):,} characters)")
    elif len(prompt) > SHORT_PROMPT:
        findings["long prompt"].add(f"{name} ({len(prompt):,} characters)")


def _check_media(findings: dict[str, Finding], pair: PreferencePair, name: str) -> list[str]:
    """Return the content hashes of winner and loser; none if either is broken."""
    digests, sizes = [], []
    for side, media in (("winner", pair.winner), ("loser", pair.loser)):
        if media is None:
            continue
        try:
            data = media_bytes(media)
            sizes.append(decode(data).size)
        except DataError as error:
            findings["broken media"].add(f"{name}, {side}: {error.message}")
            return []
        digests.append(content_hash(data))
    if len(set(sizes)) > 1:
        (w, h), (v, g) = sizes
        findings["different sizes"].add(f"{name} ({w}x{h} against {v}x{g})")
    return digests
