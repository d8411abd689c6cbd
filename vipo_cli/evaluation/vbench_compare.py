"""Two evaluations on VBench or VBench-2.0 side by side, paired clip by clip."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vipo_cli.analysis.combined import Part, combined, combined_p_value, resample
from vipo_cli.benchmarks.vbench_files import NATIVELY, Measured, read_judged
from vipo_cli.benchmarks.vbench_suite import Suite, coefficients
from vipo_cli.errors import VipoError
from vipo_cli.evaluation.aggregate import bounds
from vipo_cli.run import read_lines

SAME = ("task", "prompts", "sampling", "frames_per_second", "encoding")
"""Of a manifest, what must be the same where both sides know it."""
WON_BY = "the mean of its dimensions"


@dataclass(frozen=True, slots=True)
class PairedClip:
    """What a dimension says of two clips that were made for the same prompt in the same way.

    Attributes:
        prompt: what they were made for.
        margin: how much better A's is, on the scale of the dimension's value.
        weight: how much it counts, such as the number of frames.
    """

    prompt: str
    margin: float
    weight: float


@dataclass(frozen=True, slots=True)
class PairedSuite:
    """Two evaluations on a suite.

    Attributes:
        suite: the benchmark.
        clips: by dimension, of those that both have.
        unpaired: how many results have no partner.
    """

    suite: Suite
    clips: Mapping[str, Sequence[PairedClip]]
    unpaired: int

    def differences(self) -> dict[str, dict[str, Any]]:
        """Return how much better A is: the total and the categories that are whole, dimensions."""
        resampled = resample(
            {
                name: Part(
                    [clip.margin for clip in clips],
                    [clip.prompt for clip in clips],
                    [clip.weight for clip in clips],
                )
                for name, clips in self.clips.items()
            }
        )
        found = {}
        for name in ("total", *(each.name for each in self.suite.categories), *self.clips):
            own = {name: 1.0} if name in self.clips else coefficients(self.suite, name)
            if own.keys() <= self.clips.keys():
                interval = combined(resampled, own)
                found[name] = {
                    "value": interval.value,
                    "ci95": bounds(interval),
                    "p_value": combined_p_value(resampled, own),
                    "n": interval.n,
                    "n_clusters": interval.n_clusters,
                }
        return found

    def outcomes(self) -> dict[str, int]:
        """Return for each prompt whether A's clips are better, 1, worse, -1, or alike, 0.

        Dimensions count alike, each on the scale that it has in the totals.
        """
        margins: dict[str, list[float]] = {}
        for name, clips in self.clips.items():
            dimension = self.suite.dimension(name)
            of_prompt: dict[str, list[float]] = {}
            for clip in clips:
                of_prompt.setdefault(clip.prompt, []).append(clip.margin)
            for prompt, own in of_prompt.items():
                scaled = float(np.mean(own)) / (dimension.high - dimension.low)
                margins.setdefault(prompt, []).append(scaled)
        return {prompt: int(np.sign(np.mean(own))) for prompt, own in margins.items()}


def paired_suite(suite: Suite, a: Path, b: Path) -> PairedSuite:
    """Pair the clips of two evaluations by their names.

    Raises:
        VipoError: the two are not comparable, or have no clip in common.
    """
    _refuse_unlike(suite, a, b)
    ours, theirs = (read_judged(suite, folder)[0].measured for folder in (a, b))
    clips, unpaired = {}, 0
    for name in suite.names:
        if name in ours and name in theirs:
            clips[name], alone = _paired(ours[name], theirs[name])
            unpaired += alone
        else:
            unpaired += sum(len(side[name].results) for side in (ours, theirs) if name in side)
    clips = {name: own for name, own in clips.items() if own}
    if not clips:
        raise VipoError(f"`{a}` and `{b}` have no judged clip in common")
    return PairedSuite(suite, clips, unpaired)


def _paired(ours: Measured, theirs: Measured) -> tuple[list[PairedClip], int]:
    """Return the clips that both have, and how many have no partner."""
    of_b = {_stem(each.clip): each for each in theirs.results}
    pairs = [
        PairedClip(one.prompt, one.value - other.value, (one.weight + other.weight) / 2)
        for one in ours.results
        if (other := of_b.get(_stem(one.clip))) is not None
    ]
    return pairs, len(ours.results) + len(theirs.results) - 2 * len(pairs)


def _stem(clip: str) -> str:
    """Return a clip's name without its suffix; prompts may hold dots themselves."""
    stem, dot, suffix = clip.rpartition(".")
    return stem if dot and suffix.isalnum() else clip


def _refuse_unlike(suite: Suite, a: Path, b: Path) -> None:
    """Refuse evaluations that are known to differ in anything but the model.

    Raises:
        VipoError: they do; tells in what.
    """
    one, other = (_settings(suite, folder) for folder in (a, b))
    names = [
        name
        for name in one.keys() & other.keys()
        if None not in (one[name], other[name]) and one[name] != other[name]
    ]
    if names:
        raise VipoError(
            f"`{a}` and `{b}` cannot be compared: they differ in {', '.join(sorted(names))}",
            details=[f"{name}: {one[name]} and {other[name]}" for name in sorted(names)],
            hint="evaluate both with the same version, options and judges",
        )


def _settings(suite: Suite, folder: Path) -> dict[str, Any]:
    """Return how clips were made, and who judged each dimension; None where it is not known."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        results = json.loads((folder / "results.json").read_text())
    except FileNotFoundError as error:
        raise VipoError(
            f"`{folder}` keeps no verdict on each clip",
            hint=f"add its results up again: vipo eval {suite.name} --from-results FOLDER "
            f"--out {folder}",
        ) from error
    judges = {
        f"judge of {name}": _judge(folder, name, one.get("backend"))
        for name, one in results["subtasks"].items()
    }
    return {name: manifest.get(name) for name in SAME} | judges


def _judge(folder: Path, dimension: str, backend: str | None) -> str | None:
    """Return who judged a dimension; vipo's own judges have fingerprints."""
    lines = read_lines(folder / NATIVELY / f"{dimension}.jsonl")
    return str(lines[-1]["scorer"]) if backend == NATIVELY and lines else backend
