"""An evaluation as its folder holds it: results, verdicts, pictures, and the baseline's."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from vipo_cli.benchmarks import Metric
from vipo_cli.errors import DataError, VipoError
from vipo_cli.media import decode, media_bytes
from vipo_cli.run import read_lines

Key = tuple[int, int]
"""Number of the prompt, number of the picture among the prompt's."""
OLDEST = 2
"""The schema of the oldest evaluations that can be read."""


@dataclass(frozen=True, slots=True)
class Found:
    """One evaluation.

    Attributes:
        folder: where it lies.
        pictures: the folder of its pictures.
        manifest: what was asked for.
        results: as in results.json.
        samples: the verdicts.
        headline: the metric by which prompts and media are shown as good or bad.
    """

    folder: Path
    pictures: Path
    manifest: dict[str, Any]
    results: dict[str, Any]
    samples: dict[Key, dict[str, Any]]
    headline: Metric

    @property
    def tags(self) -> list[str]:
        """The kinds of prompts, in order."""
        return list(dict.fromkeys(self.samples[key]["tag"] for key in sorted(self.samples)))

    @property
    def is_share(self) -> bool:
        """Whether a medium is either right or wrong."""
        return self.headline.key == "correct"

    def score(self, key: Key) -> float | None:
        """Return the headline score of a medium, or None where there is none."""
        scores = self.samples.get(key, {}).get("scores") or {}
        value = scores.get(self.headline.key)
        return None if value is None else float(value)

    def verdict(self, key: Key) -> str:
        """Return what is said of a medium beside it: nothing where it is plainly right or wrong."""
        score = self.score(key)
        return "not judged" if score is None else "" if self.is_share else f"{score:.4g}"

    def picture(self, key: Key) -> bytes | None:
        """Return the bytes of a picture, or None where it is gone."""
        for file in sorted((self.pictures / f"{key[0]:05d}" / "samples").glob(f"{key[1]:04d}.*")):
            return media_bytes(file)
        return None

    def image(self, key: Key) -> Image.Image:
        """Return a picture, or a grey one in its place where it is gone or broken."""
        data = self.picture(key)
        try:
            return decode(data) if data is not None else Image.new("RGB", (32, 32), "#999")
        except DataError:
            return Image.new("RGB", (32, 32), "#999")

    def of_tag(self, tag: str) -> list[Key]:
        """Return the pictures of a kind of prompt that have a verdict, in order."""
        return sorted(key for key, sample in self.samples.items() if sample["tag"] == tag)


def read_evaluation(folder: Path) -> Found:
    """Read an evaluation.

    Raises:
        VipoError: the folder holds none, or a damaged one.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        results = json.loads((folder / "results.json").read_text())
        lines = read_lines(folder / "samples.jsonl")
    except FileNotFoundError as error:
        raise VipoError(
            f"`{folder}` holds no finished evaluation", hint="make one: vipo eval geneval TARGET"
        ) from error
    except json.JSONDecodeError as error:
        raise DataError(f"the evaluation in `{folder}` is damaged: {error}") from error
    if "metrics" not in manifest:
        raise VipoError(f"the evaluation in `{folder}` keeps no verdicts to show")
    if manifest["schema_version"] < OLDEST:
        raise VipoError(
            f"the evaluation in `{folder}` was made by an older version", hint="make it again"
        )
    samples = {(line["prompt_index"], line["image_index"]): line for line in lines}
    headline = Metric(**manifest["metrics"][0])
    return Found(folder, folder / manifest["pictures"], manifest, results, samples, headline)


def read_baseline(folder: Path) -> tuple[dict[str, Any], Found | None]:
    """Read what an evaluation was compared with: the comparison, and the baseline where it is."""
    file = folder / "baseline.json"
    if not file.is_file():
        return {}, None
    comparison: dict[str, Any] = json.loads(file.read_text())
    there = Path(comparison["folder"])
    return comparison, read_evaluation(there) if (there / "results.json").is_file() else None


def spread(keys: list[Key], number: int) -> list[Key]:
    """Return the first pictures of so many prompts, evenly spread over all of them."""
    firsts = sorted({prompt: (prompt, image) for prompt, image in reversed(keys)}.values())
    if len(firsts) <= number:
        return firsts
    return [firsts[place * len(firsts) // number] for place in range(number)]


def tag_title(tag: str) -> str:
    """Return a kind of prompt as people read it."""
    return tag.replace("_", " ").replace("attr", "attribution")
