"""GenEval's rules (arXiv 2310.11513): does a picture show what its prompt asks for?

Metadata holds a `tag` (the task), the `prompt`, `include` clauses (class, count, perhaps color and
position: a relation and the index of the clause it refers to) and `exclude` clauses (class, count).
The rules are those of the public implementation, in its float32, except that detections of equal
score keep the detector's order: there it depends on the processor.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from vipo_cli.benchmarks import detectors
from vipo_cli.benchmarks.detection import BatchDetector, Detection, Detector
from vipo_cli.benchmarks.task import Asked, Metric, Task, Verdict
from vipo_cli.errors import VipoError
from vipo_cli.media import decode

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
task_version = "geneval-rules-1"

SCORE_THRESHOLD = 0.3
COUNTING_SCORE_THRESHOLD = 0.9
MOST_OF_A_CLASS = 16
SHRINK = 0.1
"""Share of both sizes that the offset between two objects loses before it counts."""
DIRECTION_THRESHOLD = 0.5

GEN_EVAL_METRICS = (
    Metric("overall", score="correct", over="tags", tags=TASKS, lowest=0, highest=1),
)
"""The unweighted mean of the tasks' shares of right pictures, not the share of all pictures."""

ColourOf = Callable[[Detection], str]

DETECTORS = {"geneval": "mask2former"}
"""Which detector judges a prompt set, where it does not have the prompt set's own name."""


def geneval(
    *,
    detector: Annotated[
        str | None, Field(description="Who judges; by default who belongs to the prompts.")
    ] = None,
    prompts: Annotated[str, Field(description="The prompt set that is judged.")] = "geneval",
    weights: Annotated[str | None, Field(description="The detector's checkpoint.")] = None,
    clip: Annotated[
        str | None, Field(description="Folder with the CLIP that names colours.")
    ] = None,
    device: Annotated[str | None, Field(description="Where the detector runs.")] = None,
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"] | None, Field(description="What it computes in.")
    ] = None,
) -> Task:
    """GenEval (arXiv 2310.11513): are the objects there, as many, of the colour, where asked for?

    Raises:
        VipoError: nobody is known who judges these prompts, and nobody is named; or who judges
            does not take these options.
    """
    who = detector or DETECTORS.get(prompts, prompts)
    if detector is None and who not in detectors:
        raise VipoError(
            f"GenEval knows no detector for the prompts `{prompts}`"
            if prompts
            else "the pictures' prompts belong to no known prompt set",
            hint=f"name who judges them: --detector, one of {', '.join(detectors.names())}",
        )
    given = {"weights": weights, "clip": clip, "device": device, "precision": precision}
    options = {name: value for name, value in given.items() if value is not None}
    taken = detectors.parameters(who).model_fields
    if unknown := [name for name in options if name not in taken]:
        raise VipoError(
            f"the detector `{who}` has no {', '.join(unknown)}",
            hint=f"its options: {', '.join(taken) or 'none'}",
        )
    published = prompts == "geneval"
    return GenEval(detectors[who](**options), images_per_prompt=4 if published else 2)


@dataclass(frozen=True, slots=True)
class GenEval:
    """The unweighted mean over six tasks of the share of right pictures."""

    detector: Detector
    name: str = "geneval"
    title: str = "GenEval"
    version: str = task_version
    metrics: tuple[Metric, ...] = GEN_EVAL_METRICS
    prompt_set: str = "geneval"
    needs: tuple[str, ...] = ("include",)
    notes: tuple[str, ...] = ()
    images_per_prompt: int = 2

    @property
    def batch_size(self) -> int:
        """Return how many pictures the detector likes to look at together."""
        return self.detector.batch_size if isinstance(self.detector, BatchDetector) else 1

    @property
    def judge_fingerprint(self) -> list[str]:
        """Return the detector's name and fingerprint."""
        return [self.detector.name, self.detector.fingerprint]

    def judge(self, media: Sequence[bytes], asked: Sequence[Asked]) -> list[Verdict]:
        """Judge pictures by what is detected in them."""
        pictures = [decode(data) for data in media]
        if isinstance(self.detector, BatchDetector):
            found = self.detector.detect_batch(pictures)
        else:
            found = [self.detector.detect(picture) for picture in pictures]
        return [self._one(*each) for each in zip(pictures, found, asked, strict=True)]

    def _one(self, picture: Image.Image, found: Sequence[Detection], asked: Asked) -> Verdict:
        reason = wrong(asked, found, lambda detection: self.detector.colour(picture, detection))
        return Verdict({"correct": float(not reason)}, reason=reason)


def wrong(metadata: Mapping[str, Any], detections: Sequence[Detection], colour_of: ColourOf) -> str:
    """Say all that is wrong with a picture by what was detected in it; nothing where it is right.

    `colour_of` is asked where a colour matters.
    """
    counting = metadata.get("tag") == "counting"
    found = confident(detections, COUNTING_SCORE_THRESHOLD if counting else SCORE_THRESHOLD)
    problems: list[str] = []
    groups: list[list[Detection] | None] = []  # None stands for a clause that was not met
    for clause in metadata.get("include", ()):
        taken = found.get(clause["class"], [])[: clause["count"]]
        problem = _problem(clause, taken, groups, colour_of)
        groups.append(None if problem else taken)
        if problem:
            problems.append(problem)
    for clause in metadata.get("exclude", ()):
        number = len(found.get(clause["class"], []))
        if number >= clause["count"]:
            problems.append(
                f"expected fewer than {clause['count']} of {clause['class']}, found {number}"
            )
    return "; ".join(problems)


def confident(detections: Sequence[Detection], threshold: float) -> dict[str, list[Detection]]:
    """Return by class what scores above a threshold, best first, no more than sixteen of each."""
    scores = np.array([detection.score for detection in detections], np.float32)
    found: dict[str, list[Detection]] = {}
    for index in np.argsort(-scores, kind="stable"):
        group = found.setdefault(detections[index].label, [])
        if scores[index] > np.float32(threshold) and len(group) < MOST_OF_A_CLASS:
            group.append(detections[index])
    return found


def _problem(
    clause: Mapping[str, Any],
    taken: Sequence[Detection],
    groups: Sequence[Sequence[Detection] | None],
    colour_of: ColourOf,
) -> str | None:
    """Return what keeps the detections from meeting an `include` clause, or None."""
    name, count = clause["class"], clause["count"]
    if len(taken) < count:
        return f"expected {count} of {name}, found {len(taken)}"
    problems = []
    if "color" in clause:
        colours = [colour_of(detection) for detection in taken]
        if (hits := colours.count(clause["color"])) < count:
            seen = ", ".join(colours)
            problems.append(f"expected {count} {clause['color']} {name}, found {hits} ({seen})")
    if "position" in clause and not problems:
        relation, index = clause["position"]
        others = groups[index]
        if others is None:
            problems.append(f"no object for {name} to be {relation}")
        elif not all(relation in relations(one, other) for one in taken for other in others):
            problems.append(f"expected {name} {relation} {others[0].label}")
    return "; ".join(problems) or None


def relations(one: Detection, other: Detection) -> set[str]:
    """Return how one object stands to another: by the direction between their centres, y downwards.

    The offset shrinks towards zero by a share of both sizes, but is divided by the distance before
    shrinking: objects that overlap a lot stand in no relation.
    """
    centre, size = _centre_and_size(one)
    other_centre, other_size = _centre_and_size(other)
    offset = centre - other_centre
    beyond = np.maximum(np.abs(offset) - np.float32(SHRINK) * (size + other_size), np.float32(0))
    if (beyond < 1e-3).all():
        return set()
    x, y = np.sign(offset) * beyond / np.linalg.norm(offset)
    holds = {
        "left of": x < -DIRECTION_THRESHOLD,
        "right of": x > DIRECTION_THRESHOLD,
        "above": y < -DIRECTION_THRESHOLD,
        "below": y > DIRECTION_THRESHOLD,
    }
    return {relation for relation, true in holds.items() if true}


def _centre_and_size(detection: Detection) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    low, high = np.array(detection.box, np.float32).reshape(2, 2)
    return (low + high) / np.float32(2), np.abs(high - low)
