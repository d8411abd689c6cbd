"""The embedded world's rewards: five measures of a picture that can disagree."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vipo_cli.benchmarks.detection import Detection
from vipo_cli.benchmarks.geneval import relations
from vipo_cli.errors import DataError
from vipo_cli.media import Pixels, decode
from vipo_cli.rewards import Reward
from vipo_cli.run import fingerprint
from vipo_cli.shapes.captions import Caption, Noun, parse_caption
from vipo_cli.shapes.detector import ShapesDetector
from vipo_cli.shapes.regions import Region, find_regions, ground, grown, nearest_hues
from vipo_cli.shapes.scene import BACKGROUNDS, COLOURS

VERSION = 2
"""Raised whenever the same picture may score differently."""

Measure = Callable[[Pixels, str], float]


@dataclass(frozen=True, slots=True)
class PictureReward:
    """A measure of one picture and its prompt, as a reward."""

    name: str
    dimension: str
    measure: Measure

    @property
    def fingerprint(self) -> str:
        """Name the measure, its version and the detector that it may look through."""
        detector = ShapesDetector().fingerprint
        return fingerprint({"reward": self.name, "version": VERSION, "detector": detector})

    def score(self, media: Sequence[bytes], prompts: Sequence[str]) -> NDArray[np.float64]:
        """Measure each picture; NaN for one that cannot be decoded, or from another world."""
        pairs = zip(media, prompts, strict=True)
        return np.array([self._one(data, prompt) for data, prompt in pairs], np.float64)

    def _one(self, data: bytes, prompt: str) -> float:
        if parse_caption(prompt) is None:  # whatever it shows, it is not for these rewards
            return float("nan")
        try:
            return self.measure(np.asarray(decode(data)), prompt)
        except DataError:
            return float("nan")


def alignment() -> Reward:
    """Share of what the caption asks for that is there, in [0, 1]."""
    return PictureReward("shapes-alignment", "alignment", measure_alignment)


def composition() -> Reward:
    """Shapes balanced about the centre and none cut by the border, in [0, 1]."""
    return PictureReward("shapes-composition", "composition", measure_composition)


def sharpness() -> Reward:
    """Steepness of edges, in [0, 1]; a rendered picture has about 0.7."""
    return PictureReward("shapes-sharpness", "sharpness", measure_sharpness)


def vividness() -> Reward:
    """Colourfulness of shapes relative to the palette, from 0; a rendered picture has about 1."""
    return PictureReward("shapes-vividness", "vividness", measure_vividness)


def cleanliness() -> Reward:
    """Absence of noise in flat areas, in (0, 1]; noise of 10 levels costs a factor e."""
    return PictureReward("shapes-cleanliness", "cleanliness", measure_cleanliness)


def measure_alignment(pixels: Pixels, prompt: str) -> float:
    """Return the share of a caption's requests that a picture meets."""
    caption = parse_caption(prompt)
    assert caption is not None
    met = _met_counting(pixels, caption) if caption.count > 1 else _met_nouns(pixels, caption)
    if caption.background:
        shades = np.array(list(BACKGROUNDS.values()), np.float32)
        distances = np.linalg.norm(shades - ground(pixels.astype(np.float32)), axis=1)
        met.append(float(list(BACKGROUNDS)[distances.argmin()] == caption.background))
    return float(np.mean(met))


def _met_counting(pixels: Pixels, caption: Caption) -> list[float]:
    wanted = caption.nouns[0].shape
    found = ShapesDetector().detect(Image.fromarray(pixels))
    number = sum(_presence(detection) for detection in found if detection.label == wanted)
    return [max(0.0, 1 - abs(number - caption.count) / caption.count)]


def _met_nouns(pixels: Pixels, caption: Caption) -> list[float]:
    detector, picture = ShapesDetector(), Image.fromarray(pixels)
    found = detector.detect(picture)

    def suits(detection: Detection, noun: Noun) -> float:
        coloured = noun.colour is not None and detector.colour(picture, detection) == noun.colour
        return _presence(detection) * (1 + coloured)

    met, chosen = [], []
    for noun in caption.nouns:
        alike = [detection for detection in found if detection.label == noun.shape]
        best = max(alike, key=lambda detection: suits(detection, noun), default=None)
        chosen.append(best)
        met.append(_presence(best) if best else 0.0)
        if noun.colour:
            met.append(max(suits(best, noun) - _presence(best), 0.0) if best else 0.0)
    if caption.relation:
        one, other = chosen
        holds = one and other and caption.relation in relations(one, other)
        met.append(min(met) if holds else 0.0)
    return met


def _presence(detection: Detection) -> float:
    """Return how much an object counts: fully where the detector is more sure than not."""
    return min(1.0, 2 * detection.score)


def measure_composition(pixels: Pixels, _: str) -> float:
    """Return the balance of what is shown times the share of whole shapes; 0 for nothing."""
    regions = find_regions(pixels)
    if not regions:
        return 0.0
    cover = np.sum([region.cover for region in regions], axis=0)
    height, width = cover.shape
    x = cover.sum(axis=0) @ (np.arange(width) + 0.5) / cover.sum() / width
    y = cover.sum(axis=1) @ (np.arange(height) + 0.5) / cover.sum() / height
    balance = max(0.0, 1 - 2 * float(np.hypot(x - 0.5, y - 0.5)))
    return balance * float(np.mean([_whole(region) for region in regions]))


def _whole(region: Region) -> bool:
    height, width = region.cover.shape
    left, top, right, bottom = region.box
    return left > 0 and top > 0 and right < width and bottom < height


def measure_sharpness(pixels: Pixels, _: str) -> float:
    """Return the mean step of cover from just inside an edge to just outside; 0 for no edges."""
    steps = []
    for region in find_regions(pixels):
        for axis in (0, 1):
            step = np.abs(np.diff(region.cover, axis=axis))
            steps.append(step[np.diff(region.cover > 0.5, axis=axis)])
    every = np.concatenate(steps) if steps else np.zeros(1)
    return float(every.mean()) if every.size else 0.0


def measure_vividness(pixels: Pixels, _: str) -> float:
    """Return the chroma of the paint relative to its palette colour's; 0 for nothing."""
    regions = find_regions(pixels)
    if not regions:
        return 0.0
    paints = np.stack([region.paint for region in regions])
    full = np.ptp(np.array(list(COLOURS.values()), np.float32), axis=1)[nearest_hues(paints)]
    areas = [region.cover.sum() for region in regions]
    return float(np.average(np.ptp(paints, axis=1) / full, weights=areas))


def measure_cleanliness(pixels: Pixels, _: str) -> float:
    """Return exp(-noise / 10), noise being the standard deviation of single pixels."""
    edges = np.zeros(pixels.shape[:2], bool)
    for region in find_regions(pixels):
        core = region.cover > 0.5
        edges |= grown(core) & grown(~core)
    flat = ~grown(edges)
    triples = flat[:, :-2] & flat[:, 1:-1] & flat[:, 2:]
    bend = np.diff(pixels.astype(np.float32), n=2, axis=1)[triples]
    if not bend.size:
        return 0.0
    noise = np.sqrt(np.mean(bend**2) / 6)  # the second difference of unit noise has variance 6
    return float(np.exp(-noise / 10))
