"""What is wrong with a set of records: one pass over all prompts and media."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from vipo_cli.data.prompts import LONGEST
from vipo_cli.data.record import Kind, LabelledSample, PreferencePair, Record
from vipo_cli.data.usable import kind_of, read_each, read_regions
from vipo_cli.errors import DataError
from vipo_cli.media import content_hash, verify
from vipo_cli.run import Progress, Work

EXAMPLES = 5
SHORT_PROMPT = 300
"""Characters beyond which a text encoder of 77 tokens reads only the beginning."""

PROBLEMS: dict[str, tuple[str, float]] = {
    "broken media": ("cannot be decoded", 0.0),
    "broken region map": ("says nothing about where its picture counts", 0.0),
    "winner equals loser": ("the same bytes on both sides: nothing to learn", 0.0),
    "repeated in a list": ("the same bytes at two ranks of a list: which one is theirs?", 0.0),
    "contradicting labels": ("the same media and prompt, preferred or liked differently", 0.01),
    "improbable winner": ("preferred with a probability below one half: the loser won", 0.0),
    "empty prompt": ("nothing that the media could have been made for", 0.0),
    "endless prompt": (f"{LONGEST:,} characters or more", 0.0),
    "duplicate pair": ("seen before, with the same label: counts twice in training", 1.0),
    "long prompt": (f"over {SHORT_PROMPT} characters: CLIP reads 77 tokens", 1.0),
    "different sizes": ("media of a prompt differ in size or length, which a model can learn", 1.0),
}
"""Each problem with what it means and the share of records above which it is serious (1: never)."""


@dataclass(slots=True)
class Finding:
    """One kind of problem.

    Attributes:
        problem: a key of PROBLEMS.
        count: how many records have it.
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
        """Count one more record."""
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(example)


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


def check(records: Sequence[Record]) -> Work[Findings]:
    """Look at every prompt and decode every medium once.

    Raises:
        DataError: the data set is empty.
    """
    if not len(records):
        raise DataError("the data set has no pairs")
    kind = kind_of(records)
    findings = {problem: Finding(problem) for problem in PROBLEMS}
    seen: dict[tuple[str, ...], tuple[int, list[str]]] = {}
    for index in range(len(records)):
        record, name = records[index], f"{kind} {index}"
        _check_prompt(findings, record.prompt, name)
        digests = _check_media(findings, record, name)
        if len(set(digests)) < len(digests):
            alike = "winner equals loser" if kind == "pair" else "repeated in a list"
            findings[alike].add(name)
        elif digests:
            key = (record.prompt, *sorted(digests))
            label = [*digests, str(isinstance(record, LabelledSample) and record.liked)]
            earlier, known = seen.setdefault(key, (index, label))
            if earlier != index:
                problem = "duplicate pair" if known == label else "contradicting labels"
                findings[problem].add(f"{name} and {kind} {earlier}")
        yield Progress(f"check {kind}s", index + 1, len(records))
    for finding in findings.values():
        finding.serious = finding.count > PROBLEMS[finding.problem][1] * len(records)
    return Findings(len(records), kind, tuple(each for each in findings.values() if each.count))


def _check_prompt(findings: dict[str, Finding], prompt: str, name: str) -> None:
    if not prompt.strip():
        findings["empty prompt"].add(name)
    elif len(prompt) >= LONGEST:
        findings["endless prompt"].add(f"{name} ({len(prompt):,} characters)")
    elif len(prompt) > SHORT_PROMPT:
        findings["long prompt"].add(f"{name} ({len(prompt):,} characters)")


def _check_media(findings: dict[str, Finding], record: Record, name: str) -> list[str]:
    """Return the content hashes of the media of a record; none if any is broken."""
    if isinstance(record, PreferencePair) and record.probability < 0.5:
        findings["improbable winner"].add(f"{name} ({record.probability:g})")
    try:
        read_regions(record)
    except DataError as error:
        findings["broken region map"].add(f"{name}, {error.message}")
    try:
        media = read_each(record, lambda data: (content_hash(data), verify(data)))
    except DataError as error:
        findings["broken media"].add(f"{name}, {error.message}")
        return []
    sizes = dict.fromkeys(str(found) for _, found in media)
    if len(sizes) > 1:
        findings["different sizes"].add(f"{name} ({' against '.join(sizes)})")
    return [digest for digest, _ in media]
