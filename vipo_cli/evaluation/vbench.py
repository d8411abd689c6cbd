"""VBench and VBench-2.0 from end to end: make clips, judge them, add up.

clips/  clips.jsonl                      what was made, if the target is a model
native/DIMENSION_eval_results.json       what vipo judged, in the official layout
native/DIMENSION.jsonl                   the same, clip by clip, as far as it has come
official/DIMENSION/...                   what the official package judged
manifest.json  results.json
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np

from vipo_cli.benchmarks.vbench_files import (
    ENDING,
    NATIVELY,
    OFFICIAL,
    OFFICIAL_DEPTH,
    Results,
    backends_apart,
    read_judged,
    read_results,
    write_results,
)
from vipo_cli.benchmarks.vbench_native import Scorer, frames_of
from vipo_cli.benchmarks.vbench_prompts import differences, find_info, read_info
from vipo_cli.benchmarks.vbench_suite import Suite
from vipo_cli.clips import MP4
from vipo_cli.errors import DataError, MissingWeights, VipoError
from vipo_cli.evaluation.clips import CLIPS, generate_clips
from vipo_cli.evaluation.generate import Sampling
from vipo_cli.evaluation.plan import file_name, first_of_each_tag
from vipo_cli.evaluation.target import Target, find_target, target_fingerprint
from vipo_cli.evaluation.vbench_models import NATIVE, load_scorer
from vipo_cli.evaluation.vbench_runner import (
    Official,
    find_python,
    folder_of,
    packaged_info,
    run_official,
)
from vipo_cli.evaluation.vbench_totals import aggregate
from vipo_cli.media import content_hash
from vipo_cli.run import (
    ALONE,
    Progress,
    Team,
    Work,
    append_line,
    end_last_line,
    environment,
    fingerprint,
    read_lines,
    write_json,
)

Prompts = Sequence[Mapping[str, Any]]
Backend = Literal["native", "official", "none"]

SUFFIXES = (".mp4", ".gif")
"""Of clips that the public packages read."""
UNFILTERED = (
    "temporal_flickering was measured on clips that no filter for standing ones chose; "
    "put those that one chose into a folder `temporal_flickering` beside the others"
)


@dataclass(frozen=True, slots=True)
class Options:
    """What a user may choose; None leaves it to the model or the benchmark.

    Attributes:
        info: the info file that says what the prompts are.
        dimensions: only these; none: all that the backend can judge.
        prompts: only so many prompts of each kind.
        backend: who judges; `none` only makes clips.
        python: the interpreter of the official package, instead of that of its set-up.
        weights: folder of the judging models, laid out as whoever judges has it.
        device: where clips are judged.
        seed, steps, guidance, batch_size, precision: how clips are drawn.
        frames_per_second: of the clips that are made.
        official_quirks: take missing dimensions for zeros.
    """

    info: Path | None = None
    dimensions: tuple[str, ...] = ()
    prompts: int | None = None
    backend: Backend = "native"
    python: str | None = None
    weights: Path | None = None
    device: str = "auto"
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    batch_size: int | None = None
    precision: str = "fp32"
    frames_per_second: float | None = None
    official_quirks: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an evaluation found.

    Attributes:
        results: as in results.json.
        out: the folder that holds them; None where nothing was written.
        failed: dimensions that could not be judged, and why.
    """

    results: dict[str, Any]
    out: Path | None
    failed: Mapping[str, str]


def from_results(
    suite: Suite, places: Sequence[Path], *, official_quirks: bool = False, out: Path | None = None
) -> Outcome:
    """Add official result files up, and write results.json where a folder is named.

    Raises:
        DataError: there are none, or they contradict each other.
    """
    depth = OFFICIAL_DEPTH if official_quirks else None
    found = read_results(suite, places, depth=depth)
    label = places[0].resolve().name if len(places) == 1 else f"{len(places)} files"
    results = aggregate(suite, found, model=label, official_quirks=official_quirks)
    results["environment"] = environment()
    if out is not None:
        _keep(suite, found, label, out)
        write_json(out / "results.json", results)
    return Outcome(results, out, {})


def _keep(suite: Suite, found: Results, label: str, out: Path) -> None:
    """Keep what result files say of each clip, so that it can be compared and shown."""
    unknown = ("step", "weights", "clips", "prompts", "sampling", "frames_per_second", "encoding")
    manifest = {"schema_version": 2, "task": suite.name, "model": label}
    _claim(out, manifest | dict.fromkeys(unknown))
    for name in suite.names:
        if name not in found.measured:  # of other files that were added up here before
            (out / OFFICIAL / f"{name}{ENDING}").unlink(missing_ok=True)
    for name, one in found.measured.items():
        unit = suite.dimension(name).unit
        results = [
            {"video_path": each.clip, "video_results": each.value / unit}
            | ({"cnt_per_video": each.weight} if each.weight != 1 else {})
            for each in one.results
        ]
        write_results(out / OFFICIAL / f"{name}{ENDING}", name, one.value, results)


def evaluate(
    suite: Suite,
    target: str,
    options: Options,
    *,
    model: str | None = None,
    out: Path | None = None,
    team: Team = ALONE,
) -> Work[Outcome | None]:
    """Evaluate a model, or clips that are finished, continuing what was begun in the same folder.

    A team draws together; who leads it judges, and the others return None.

    Raises:
        DataError, MissingWeights: the info file is not what it should be, or not here.
        VipoError: the folder holds another evaluation, or nothing can be judged.
    """
    prompts, partly = _prompts(suite, options)
    dimensions = _dimensions(suite, options)
    python = find_python(suite, options.python) if options.backend == "official" else None
    finished = _finished_clips(Path(target))
    found = None if finished else find_target(target, base=model)
    if found is not None and found.spec is None:
        raise VipoError(f"`{target}` holds pictures, and {suite.title} judges clips")
    sampling = None if found is None else _sampling(found, options)
    label = found.label if found is not None else Path(target).resolve().name
    out = out or _default_out(suite, found, label)
    if team.leads:
        _claim(out, _manifest(suite, label, found, finished, prompts, sampling, options))
    team.wait()
    started, drawn = perf_counter(), 0
    if found is not None and sampling is not None:
        drawn = yield from generate_clips(
            found,
            suite,
            prompts,
            sampling,
            out,
            frames_per_second=options.frames_per_second,
            team=team,
        )
    team.wait()
    if not team.leads:
        return None
    generated = perf_counter()
    videos = finished or out / CLIPS
    failed: dict[str, str] = {}
    if python is not None:
        official = Official(python, options.info, options.weights, options.device)
        failed |= yield from run_official(suite, official, videos, dimensions, out)
    elif options.backend == "native":
        failed |= yield from judge(suite, prompts, videos, dimensions, out, options)
    results = _collect(suite, out, label, options.official_quirks)
    results["n_samples"]["failed"] = failures = _failures(out)
    if lacks := _lacks(results, videos, partly, failed, failures):
        results["warnings"] += lacks
        results["status"] = "partial" if results["subtasks"] else "error"
    results["environment"] = environment()
    results["timing"] = {
        "generate_seconds": round(generated - started, 3),
        "score_seconds": round(perf_counter() - generated, 3),
        "drawn": drawn,
    }
    write_json(out / "results.json", results)
    return Outcome(results, out, failed)


def judge(
    suite: Suite,
    prompts: Prompts,
    videos: Path,
    dimensions: Sequence[str],
    out: Path,
    options: Options,
) -> Work[dict[str, str]]:
    """Judge clips natively; return the dimensions that could not be judged, and why."""
    failed = {}
    for name in dimensions:
        asked = list(_clips_of(suite, prompts, videos, name))
        if not asked:
            failed[name] = f"no clips for it in `{folder_of(videos, name)}`"
            continue
        try:
            scorer = load_scorer(name, options.weights, options.device)
        except MissingWeights as error:
            failed[name] = f"{error.message}; {error.hint}" if error.hint else error.message
            continue
        yield from _judge(scorer, asked, out)
    return failed


def _judge(
    scorer: Scorer, asked: Sequence[tuple[Path, Mapping[str, Any]]], out: Path
) -> Work[None]:
    """Judge the clips that have no line yet, and write the dimension's result file."""
    file = out / NATIVELY / f"{scorer.dimension}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    known = {(line["clip"], line["content"], line["scorer"]): line for line in read_lines(file)}
    end_last_line(file)
    lines = []
    for number, (clip, prompt) in enumerate(asked):
        yield Progress(scorer.dimension, number, len(asked))
        data = clip.read_bytes()
        key = (clip.name, content_hash(data), scorer.fingerprint)
        line = known.get(key)
        if line is None or line["value"] is None:
            line = dict(zip(("clip", "content", "scorer"), key, strict=True)) | _verdict(
                scorer, data, prompt
            )
            append_line(file, line)
        lines.append((clip, line))
    yield Progress(scorer.dimension, len(asked), len(asked))
    good = [(clip, line) for clip, line in lines if line["value"] is not None]
    target = out / NATIVELY / f"{scorer.dimension}{ENDING}"
    if not good:
        target.unlink(missing_ok=True)
        return
    weights = [line["frames"] if scorer.pooled else 1 for _, line in good]
    value = float(np.average([line["value"] for _, line in good], weights=weights))
    results = [
        {"video_path": str(clip), "video_results": line["value"]}
        | ({"cnt_per_video": line["frames"]} if scorer.pooled else {})
        for clip, line in good
    ]
    write_results(target, scorer.dimension, value, results)


def _verdict(scorer: Scorer, data: bytes, prompt: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is said of a clip; one that cannot be judged has no value, and is tried again."""
    try:
        judged = scorer.score(frames_of(data, bt601=scorer.bt601), prompt)
    except (DataError, ValueError, RuntimeError) as error:
        return {"value": None, "reason": f"{type(error).__name__}: {error}"}
    if not np.isfinite(judged.value):
        return {"value": None, "reason": "not a number"}
    return {"value": judged.value, "frames": judged.weight}


def _collect(suite: Suite, out: Path, label: str, official_quirks: bool) -> dict[str, Any]:
    """Add up what both backends judged in a folder."""
    found, backends = read_judged(suite, out)
    results = aggregate(
        suite, found, model=label, backends=backends, official_quirks=official_quirks
    )
    results["backends_apart"] = backends_apart(suite, out)
    if not found.measured:
        results["status"] = "error"
    return results


def _clips_of(
    suite: Suite, prompts: Prompts, videos: Path, dimension: str
) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Iterate over a dimension's clips with their prompts, as the public package finds them."""
    folder = folder_of(videos, dimension)
    wanted = suite.dimension(dimension)
    for prompt in prompts:
        if dimension not in prompt["dimensions"]:
            continue
        for index in range(wanted.results):
            for suffix in SUFFIXES:
                file = folder / suite.clip_name(prompt["prompt"], index, suffix)
                if file.is_file():
                    yield file, prompt
                    break


def _prompts(suite: Suite, options: Options) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the prompts, and in what they are less than the benchmark's."""
    file = find_info(suite, options.info or packaged_info(suite))
    prompts = read_info(suite, file)
    others = differences(suite, prompts)[:1]
    partly = [f"these are not the prompts of {suite.title}: {text}" for text in others]
    kept = list(first_of_each_tag(dict(enumerate(prompts)), options.prompts).values())
    if len(kept) < len(prompts):
        partly.append(f"only {len(kept)} of {len(prompts)} prompts were asked for")
    return kept, partly


def _dimensions(suite: Suite, options: Options) -> tuple[str, ...]:
    unknown = [name for name in options.dimensions if name not in suite.names]
    if unknown:
        raise VipoError(
            f"{suite.title} has no dimension `{unknown[0]}`",
            hint=f"it has {', '.join(suite.names)}",
        )
    if options.backend == "official":
        return options.dimensions or suite.names
    own = tuple(name for name in suite.names if name in NATIVE)
    if options.backend == "none":
        return ()
    if not own:
        raise VipoError(
            f"no dimension of {suite.title} is judged without its package",
            hint="let the package judge: --backend official --python PYTHON; or only make the "
            "clips: --backend none; or add its results up: --from-results FOLDER",
        )
    if foreign := [name for name in options.dimensions if name not in own]:
        raise VipoError(
            f"`{foreign[0]}` is not judged without the official package",
            hint=f"natively: {', '.join(own)}; all others: --backend official",
        )
    return options.dimensions or own


def _finished_clips(folder: Path) -> Path | None:
    """Return a folder if it holds clips, or folders by dimension that do."""
    if not folder.is_dir():
        return None
    held = any(file.suffix in SUFFIXES for file in folder.iterdir()) or any(
        file.suffix in SUFFIXES for file in folder.glob("*/*") if file.parent.name != CLIPS
    )
    return folder if held else None


def _sampling(target: Target, options: Options) -> Sampling:
    assert target.spec is not None
    guidance = target.spec.guidance if options.guidance is None else options.guidance
    return Sampling(
        steps=options.steps or target.spec.sampling_steps,
        guidance=guidance,
        seed=options.seed,
        precision=options.precision,
        batch_size=options.batch_size,
    )


def _default_out(suite: Suite, target: Target | None, label: str) -> Path:
    if target is not None and target.run is not None:
        return target.run / "eval" / f"{suite.name}-step-{target.step:06d}"
    return Path(f"eval-{suite.name}-{file_name(label)}")


def _manifest(
    suite: Suite,
    label: str,
    target: Target | None,
    finished: Path | None,
    prompts: Prompts,
    sampling: Sampling | None,
    options: Options,
) -> dict[str, Any]:
    """Return what must be the same when an evaluation is continued."""
    drawing = None if sampling is None else asdict(replace(sampling, batch_size=None))
    return {
        "schema_version": 2,
        "task": suite.name,
        "model": label,
        "step": None if target is None else target.step,
        "weights": None if target is None else target_fingerprint(target),
        "clips": None if finished is None else str(finished.resolve()),
        "prompts": fingerprint(list(prompts)),
        "sampling": drawing,
        "frames_per_second": options.frames_per_second,
        "encoding": None if target is None else MP4,
    }


def _claim(out: Path, manifest: dict[str, Any]) -> None:
    """Write down what is done in a folder, or find that just this was begun there before.

    Raises:
        VipoError: it holds an evaluation of something else.
    """
    file = out / "manifest.json"
    if not file.is_file():
        write_json(file, manifest)
        return
    there = json.loads(file.read_text())
    changed = [key for key, value in manifest.items() if there.get(key) != value]
    if changed:
        raise VipoError(
            f"`{out}` holds another evaluation, with other {', '.join(changed)}",
            hint=f"choose another folder with --out, or remove it first: rm -r {out}",
        )


def _lacks(
    results: Mapping[str, Any],
    videos: Path,
    partly: Sequence[str],
    failed: Mapping[str, str],
    failures: int,
) -> list[str]:
    """Say what makes these results less than the benchmark's."""
    found = [*partly, *(f"{name} was not judged: {why}" for name, why in failed.items())]
    if failures:
        found.append(f"{failures} clips could not be judged; see {NATIVELY}/*.jsonl")
    if (
        "temporal_flickering" in results["subtasks"]
        and not (videos / "temporal_flickering").is_dir()
    ):
        found.append(UNFILTERED)
    return found


def _failures(out: Path) -> int:
    """Count the clips whose last word in a dimension is that they could not be judged."""
    last = {
        (file.name, line["clip"]): line["value"]
        for file in (out / NATIVELY).glob("*.jsonl")
        for line in read_lines(file)
    }
    return sum(value is None for value in last.values())
