"""Result files of VBench and VBench-2.0: what the public packages write, alone or as submitted.

A file maps dimensions to [value, results of the clips]; it may hold one dimension or all of them.
Folders are searched to any depth, and so are the zip archives that the leaderboard takes. The
public script for totals looks one folder deep only, so that results further down count as zeros.
"""

import json
import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from vipo_cli.benchmarks.vbench_suite import Dimension, Suite
from vipo_cli.errors import DataError
from vipo_cli.run import write_json

ENDING = "_eval_results.json"
LEFT_OUT = -1
"""The result of a clip that a dimension leaves out."""
NATIVELY, OFFICIAL = "native", "official"
"""Folders of an evaluation that hold what vipo judged, and what the official package judged."""
OFFICIAL_DEPTH = 1
"""Folders down to which the public script finds result files."""
AGREEMENT = 1e-4
"""How far a value may be from the mean of its clips' results before it is worth a warning."""


@dataclass(frozen=True, slots=True)
class ClipResult:
    """What a dimension says of one clip.

    Attributes:
        clip: name of its file.
        prompt: what it was made for, as far as its name tells.
        value: on the scale of the dimension's value.
        weight: how much it counts, such as its number of frames.
    """

    clip: str
    prompt: str
    value: float
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Measured:
    """A dimension's value.

    Attributes:
        value: as it was written.
        results: of the clips that count.
        left_out: how many clips the dimension could not judge.
        source: the file that it comes from.
    """

    value: float
    results: tuple[ClipResult, ...]
    left_out: int
    source: str


@dataclass(frozen=True, slots=True)
class Results:
    """What result files hold.

    Attributes:
        measured: by dimension, in the suite's order.
        warnings: what is odd about them.
    """

    measured: Mapping[str, Measured]
    warnings: tuple[str, ...]

    @property
    def values(self) -> dict[str, float]:
        """Return the raw value of each dimension."""
        return {name: found.value for name, found in self.measured.items()}


def read_results(suite: Suite, places: Sequence[Path], *, depth: int | None = None) -> Results:
    """Read all result files in some files, folders and zip archives.

    Args:
        suite: whose dimensions are looked for.
        places: where.
        depth: only so many folders down; None: all of them.

    Raises:
        DataError: there are none, one is damaged, or a dimension has two values.
    """
    by_key = {_key(name): name for name in suite.names}
    found: dict[str, Measured] = {}
    warnings, others, below = [], set[str](), 0
    for source, folders, text in _texts(places):
        content = _parse(source, text)
        if not isinstance(content, dict):
            continue  # lists of prompts lie beside the results
        own = {by_key[_key(key)]: entry for key, entry in content.items() if _key(key) in by_key}
        others |= {key for key in content if _key(key) not in by_key}
        if own and depth is not None and folders > depth:
            below += 1
            continue
        for name, entry in own.items():
            one = _measured(suite.dimension(name), entry, source)
            if math.isnan(one.value):
                warnings.append(f"{name} is not a number in `{source}`, and so missing")
            elif name not in found:
                found[name] = one
            elif found[name] != replace(one, source=found[name].source):
                raise DataError(
                    f"{name} has several results",
                    details=[each.source for each in (found[name], one)],
                    hint="name the files that belong together",
                )
    if below:
        warnings.append(f"{below} result files lie more than {depth} folder down and do not count")
    if not found and not below:
        raise _nothing(suite, places, others)
    ordered = {name: found[name] for name in suite.names if name in found}
    warnings += [text for name, one in ordered.items() for text in _odd(name, one)]
    return Results(ordered, tuple(warnings))


def read_judged(suite: Suite, folder: Path) -> tuple[Results, dict[str, str]]:
    """Read what was judged in an evaluation's folder, and who judged each dimension.

    The official package's word goes before vipo's own.

    Raises:
        DataError: a file is damaged.
    """
    backends: dict[str, str] = {}
    measured: dict[str, Measured] = {}
    warnings: list[str] = []
    for backend in (NATIVELY, OFFICIAL):
        found = _by_backend(suite, folder, backend)
        measured |= found.measured
        warnings += found.warnings
        backends |= dict.fromkeys(found.measured, backend)
    ordered = {name: measured[name] for name in suite.names if name in measured}
    return Results(ordered, tuple(warnings)), backends


def backends_apart(suite: Suite, folder: Path) -> dict[str, dict[str, Any]]:
    """Return how far the two backends are apart in the dimensions that both of them judged."""
    ours, theirs = (_by_backend(suite, folder, each).measured for each in (NATIVELY, OFFICIAL))
    return {name: _apart(one, theirs[name]) for name, one in ours.items() if name in theirs}


def _by_backend(suite: Suite, folder: Path, backend: str) -> Results:
    """Read what one backend judged in an evaluation's folder, which may be nothing."""
    place = folder / backend
    files = [*sorted(place.glob(f"*{ENDING}")), *sorted(place.glob(f"*/*{ENDING}"))]
    files = [file for file in files if not _hidden(file.relative_to(place))]  # unfinished
    return read_results(suite, files) if files else Results({}, ())


def _apart(native: Measured, official: Measured) -> dict[str, Any]:
    ours, theirs = ({each.clip: each.value for each in one.results} for one in (native, official))
    both = sorted(ours.keys() & theirs.keys())
    return {
        "clips": len(both),
        "largest": max((abs(ours[clip] - theirs[clip]) for clip in both), default=None),
        "value": abs(native.value - official.value),
        "only_native": sorted(ours.keys() - theirs.keys()),
        "only_official": sorted(theirs.keys() - ours.keys()),
    }


def write_results(
    file: Path, name: str, value: float, results: Sequence[Mapping[str, Any]]
) -> None:
    """Write one dimension's result file as the public package does."""
    write_json(file, {name: [value, list(results)]})


def _key(name: str) -> str:
    """Return how a dimension is recognised: some write it with spaces."""
    return name.strip().replace(" ", "_").lower()


def _texts(places: Sequence[Path]) -> Iterator[tuple[str, int, bytes]]:
    """Iterate over JSON files: where each is, how many folders down, what it holds."""
    for place in places:
        if place.is_dir():
            for file in sorted(place.rglob("*.json")):
                inner = PurePosixPath(file.relative_to(place).as_posix())
                if not _hidden(inner):
                    yield str(file), len(inner.parts) - 1, file.read_bytes()
        elif not place.is_file():
            raise DataError(f"no such file or folder: `{place}`")
        elif zipfile.is_zipfile(place):
            yield from _zipped(place)
        else:
            yield str(place), 0, place.read_bytes()


def _zipped(place: Path) -> Iterator[tuple[str, int, bytes]]:
    try:
        with zipfile.ZipFile(place) as archive:
            for name in sorted(archive.namelist()):
                inner = PurePosixPath(name)
                if inner.suffix == ".json" and not _hidden(inner):
                    yield f"{place}:{name}", len(inner.parts) - 1, archive.read(name)
    except (zipfile.BadZipFile, RuntimeError, OSError) as error:
        raise DataError(f"`{place}` is damaged: {error}") from error


def _hidden(path: PurePath) -> bool:
    """Tell what a Mac leaves in archives, and what is not finished."""
    return any(part.startswith((".", "__")) for part in path.parts)


def _parse(source: str, text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"`{source}` is damaged: {error}") from error


def _measured(dimension: Dimension, entry: Any, source: str) -> Measured:
    """Read [value, results], whose results may be missing."""
    value, *rest = entry if isinstance(entry, list) and entry else [entry]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(
            f"`{source}` has no value for {dimension.name}",
            hint='as VBench writes it: {"' + dimension.name + '": [0.93, [...]]}',
        )
    listed = rest[0] if rest and isinstance(rest[0], list) else []
    results, left_out = [], 0
    for item in listed:
        if not isinstance(item, dict) or "video_path" not in item or "video_results" not in item:
            continue
        own = item["video_results"]
        if not isinstance(own, int | float) or own == LEFT_OUT or math.isnan(own):
            left_out += 1
            continue
        clip = PurePosixPath(str(item["video_path"]).replace("\\", "/")).name
        results.append(
            ClipResult(clip, prompt_of(clip), float(own) * dimension.unit, _weight(item))
        )
    return Measured(float(value), tuple(results), left_out, source)


def prompt_of(clip: str) -> str:
    """Return the prompt that a clip's name begins with: PROMPT-INDEX.mp4."""
    stem, _, suffix = clip.rpartition(".")
    name = stem if suffix.isalnum() and len(suffix) < 5 and stem else clip
    prompt, dash, index = name.rpartition("-")
    return prompt if dash and index.isdigit() else name


def _weight(item: Mapping[str, Any]) -> float:
    """Return how many frames a clip's result is the mean of, where its dimension pools frames."""
    for key in ("frame_count", "cnt_per_video"):
        if isinstance(item.get(key), int | float) and item[key] > 0:
            return float(item[key])
    frames = item.get("frame_results")
    return float(len(frames)) if isinstance(frames, list) and frames else 1.0


def _odd(name: str, one: Measured) -> Iterator[str]:
    """Say where a value and its clips disagree, or there are no clips."""
    if not one.results:
        yield f"{name} comes without the results of its clips, and so without an interval"
        return
    weights = [each.weight for each in one.results]
    mean = sum(each.value * each.weight for each in one.results) / sum(weights)
    if abs(mean - one.value) > AGREEMENT:
        yield (
            f"{name} is {one.value:.4f}, but the results of its clips average to {mean:.4f}; "
            "the interval is laid around the former"
        )


def _nothing(suite: Suite, places: Sequence[Path], others: set[str]) -> DataError:
    where = ", ".join(f"`{place}`" for place in places)
    return DataError(
        f"no results of {suite.title} in {where}",
        details=[f"found {', '.join(sorted(others)[:8])}"] if others else [],
        hint=f"it writes them to *{ENDING}, one dimension or several in a file",
    )
