"""An evaluation as its folder holds it: results, verdicts, media, and the baseline's."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

from PIL import Image

from vipo_cli.benchmarks import Metric
from vipo_cli.benchmarks.suites import SUITES
from vipo_cli.benchmarks.vbench_files import read_judged
from vipo_cli.benchmarks.vbench_suite import Suite
from vipo_cli.errors import DataError, VipoError
from vipo_cli.media import media_bytes, stills
from vipo_cli.reporting.pages import data_uri, medium_uri
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
        manifest: what was asked for.
        results: as in results.json.
        samples: the verdicts; what is said beside a medium may stand there as `said`.
        media: the files that are still there.
        headline: the metric by which prompts and media are shown as good or bad.
    """

    folder: Path
    manifest: dict[str, Any]
    results: dict[str, Any]
    samples: dict[Key, dict[str, Any]]
    media: dict[Key, Path]
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
        if score is None:
            return "not judged"
        return "" if self.is_share else str(self.samples[key].get("said") or f"{score:.4g}")

    def stills(self, key: Key) -> list[Image.Image]:
        """Return what shows a medium on paper; a grey picture where it is gone or broken."""
        try:
            return stills(media_bytes(self.media[key]))
        except (KeyError, DataError):
            return [Image.new("RGB", (32, 32), "#999")]

    def source(self, key: Key) -> str:
        """Return a medium as a page holds it; a grey picture where it is gone or broken."""
        try:
            return medium_uri(media_bytes(self.media[key]))
        except (KeyError, DataError):
            return data_uri(Image.new("RGB", (32, 32), "#999"))

    def of_tag(self, tag: str) -> list[Key]:
        """Return the media of a kind of prompt that have a verdict, in order."""
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
    if (suite := SUITES.get(manifest["task"] if "metrics" not in manifest else "")) is not None:
        return read_suite(suite, folder, manifest, results)
    if manifest["schema_version"] < OLDEST:
        raise VipoError(
            f"the evaluation in `{folder}` was made by an older version", hint="make it again"
        )
    samples = {(line["prompt_index"], line["image_index"]): line for line in lines}
    media = {
        (int(file.parent.parent.name), int(file.stem)): file
        for file in sorted((folder / manifest["pictures"]).glob("*/samples/[0-9]*.*"))
        if file.parent.parent.name.isdigit() and file.stem.isdigit()
    }
    return Found(folder, manifest, results, samples, media, Metric(**manifest["metrics"][0]))


def read_suite(
    suite: Suite, folder: Path, manifest: dict[str, Any], results: dict[str, Any]
) -> Found:
    """Read an evaluation on VBench or VBench-2.0.

    A clip that several dimensions judge appears once for each. Dimensions have scales of their own:
    clips are good or bad by how many standard deviations they are from their dimension's mean.
    """
    judged, judges = read_judged(suite, folder)
    clips = Path(manifest["clips"] or folder / "clips")
    samples: dict[Key, dict[str, Any]] = {}
    media: dict[Key, Path] = {}
    prompts = 0
    taken: Counter[int] = Counter()
    for name, measured in judged.measured.items():
        values = [each.value for each in measured.results]
        middle, spread = (mean(values), pstdev(values) or 1.0) if values else (0.0, 1.0)
        numbers: dict[str, int] = {}
        for each in measured.results:
            prompt = prompts + numbers.setdefault(each.prompt, len(numbers))
            key = prompt, taken[prompt]
            taken[prompt] += 1
            scores = {"deviation": (each.value - middle) / spread}
            about = {"tag": name, "prompt": each.prompt, "reason": "", "scores": scores}
            samples[key] = about | {"said": f"{each.value:.4g}"}
            for place in (clips / name / each.clip, clips / each.clip):
                if place.is_file():
                    media[key] = place
                    break
        prompts += len(numbers)
    settings = {name: manifest[name] for name in ("sampling", "frames_per_second", "encoding")}
    shown = {
        "title": suite.title,
        "prompt_set": None,
        "model": manifest["model"],
        "weights": manifest["weights"],
        "run": None,
        "comparable": settings
        | {"prompts": manifest["prompts"], "images_per_prompt": None, "judges": judges},
    }
    headline = Metric("total", "deviation", lowest=0, highest=1)
    return Found(folder, shown, {"notes": [], "timing": None} | results, samples, media, headline)


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
