"""What a benchmark asks of whatever finds objects in pictures."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True, slots=True)
class Detection:
    """One object found in a picture.

    Attributes:
        label: the name of its class.
        score: confidence in [0, 1].
        box: left, top, right and bottom edge in pixels.
        mask: which pixels are its own, by row and column, where the detector knows.
    """

    label: str
    score: float
    box: tuple[float, float, float, float]
    mask: NDArray[np.bool_] | None = field(default=None, compare=False, repr=False)


@runtime_checkable
class Detector(Protocol):
    """Finds objects and names their colours."""

    @property
    def name(self) -> str:
        """Return the name in the registry."""
        ...

    @property
    def fingerprint(self) -> str:
        """Return what changes whenever the same picture may be judged differently."""
        ...

    def detect(self, picture: Image.Image) -> list[Detection]:
        """Return all objects in a picture, of any confidence and in any order."""
        ...

    def colour(self, picture: Image.Image, detection: Detection) -> str:
        """Return the name of the colour that an object has."""
        ...


@runtime_checkable
class BatchDetector(Detector, Protocol):
    """A detector that is faster on many pictures at once."""

    @property
    def batch_size(self) -> int:
        """Return how many pictures are looked at together."""
        ...

    def detect_batch(self, pictures: Sequence[Image.Image]) -> list[list[Detection]]:
        """Return what `detect` returns for each picture."""
        ...
