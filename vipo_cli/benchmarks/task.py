"""What a benchmark is: a judge of media made for prompts, and what is reported of its verdicts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

Asked = Mapping[str, Any]
"""One prompt of a prompt set: `prompt`, `tag` (its subtask), and what a judge needs to know.

A judge is also told `image_index`, the medium's number among those of its prompt.
"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge says about one medium.

    Attributes:
        scores: a number for each metric that the medium says something about; 1 and 0 for right
            and wrong.
        weights: how much a score counts in its metric's mean where that is not 1, such as the
            number of words that it is the mean over.
        reason: what is wrong, for people.
        details: whatever else is worth keeping; it can be written as JSON.
    """

    scores: Mapping[str, float]
    weights: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Metric:
    """A number that a benchmark reports.

    Attributes:
        name: how results call it.
        score: the key of the scores that it is made of; its own name where that is empty.
        over: `samples` is their weighted mean; `tags` the unweighted mean of the means by tag.
        tags: the tags without which there is no mean over tags.
        lowest, highest: what it ranges over; None where it is not bounded.
        higher_is_better: which way is up.
        by_tag: whether it is also reported for each tag.
    """

    name: str
    score: str = ""
    over: Literal["samples", "tags"] = "samples"
    tags: tuple[str, ...] = ()
    lowest: float | None = None
    highest: float | None = None
    higher_is_better: bool = True
    by_tag: bool = True

    @property
    def key(self) -> str:
        """Return the key of the scores that it is made of."""
        return self.score or self.name


@runtime_checkable
class Task(Protocol):
    """A benchmark. Its factory's docstring says what it measures and where it comes from.

    The first metric is the headline. A factory's keyword-only arguments are the user's options.
    """

    @property
    def name(self) -> str:
        """Return the name in the registry."""
        ...

    @property
    def title(self) -> str:
        """Return how reports call it, such as `GenEval`."""
        ...

    @property
    def version(self) -> str:
        """Return what is raised whenever the same judgements may add up to something else."""
        ...

    @property
    def judge_fingerprint(self) -> Any:
        """Return what changes whenever the same medium may be judged differently."""
        ...

    @property
    def metrics(self) -> Sequence[Metric]:
        """Return what is reported, the headline first."""
        ...

    @property
    def prompt_set(self) -> str:
        """Return the registered prompt set that the benchmark is defined on."""
        ...

    @property
    def needs(self) -> Sequence[str]:
        """Return the keys that a prompt must have beside `prompt` and `tag`."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """Return what a reader of the results must know, such as what they do not compare with."""
        ...

    @property
    def images_per_prompt(self) -> int:
        """Return how many media are made for each prompt where the user does not say."""
        ...

    @property
    def batch_size(self) -> int:
        """Return how many media are judged at once."""
        ...

    def judge(self, media: Sequence[bytes], asked: Sequence[Asked]) -> Sequence[Verdict]:
        """Judge media, each with its prompt.

        An exception fails the media: a batch that raises is judged again one by one, and a medium
        that raises alone is marked failed. So is one with a score that is not a number.
        """
        ...
