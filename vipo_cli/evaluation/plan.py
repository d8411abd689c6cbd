"""What an evaluation will do, settled before it starts."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from os.path import relpath
from pathlib import Path
from typing import Any

from vipo_cli.benchmarks import Task, prompt_sets
from vipo_cli.benchmarks.prompt_files import read_prompt_file
from vipo_cli.errors import DataError, MissingWeights, VipoError
from vipo_cli.evaluation.generate import PRECISIONS, Sampling
from vipo_cli.evaluation.score import find_pictures
from vipo_cli.evaluation.target import Target, picture_folders, target_fingerprint
from vipo_cli.evaluation.tasks import find_task
from vipo_cli.models import ModelSpec
from vipo_cli.run import cache_home, fingerprint, write_json
from vipo_cli.weights import without_fetching

Metadata = Mapping[int, dict[str, Any]]
"""What each prompt asks for, by its number in the full prompt set."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a user may choose; None leaves it to the model or the benchmark.

    Attributes:
        prompt_set: which prompts: a registered set, or a file of the user's.
        images_per_prompt: pictures for each prompt.
        prompts: only so many prompts of each tag.
        seed: base seed of all pictures.
        steps: denoising steps.
        guidance: classifier-free guidance scale.
        batch_size: pictures drawn at once.
        precision: floating-point type of the weights.
        task: options of the benchmark itself.
    """

    prompt_set: str | None = None
    images_per_prompt: int | None = None
    prompts: int | None = None
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    batch_size: int | None = None
    precision: str = "fp32"
    task: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """One evaluation, settled.

    Attributes:
        task: the benchmark.
        target: what is evaluated.
        out: where verdicts and results go.
        pictures: where the pictures lie; other benchmarks on the same prompts share them.
        metadata: what the prompts ask for.
        all_prompts: number of prompts in the full set.
        images_per_prompt: pictures for each prompt.
        sampling: how pictures are drawn; None where they are finished already.
        manifest: all of this as it is written to `manifest.json`.
    """

    task: Task
    target: Target
    out: Path
    pictures: Path
    metadata: Metadata
    all_prompts: int
    images_per_prompt: int
    sampling: Sampling | None
    manifest: dict[str, Any]


def make_plan(name: str, target: Target, options: Options, out: Path | None = None) -> Plan:
    """Settle an evaluation.

    Args:
        name: of the benchmark.
        target: what is evaluated.
        options: what the user chose.
        out: where everything goes; None is into the run, the cache, or `eval-NAME`.

    Raises:
        UnknownName: no such benchmark or prompt set.
        VipoError: options that do not fit, or prompts that the benchmark cannot judge.
    """
    if options.precision not in PRECISIONS:
        raise VipoError(f"unknown precision `{options.precision}`", hint=", ".join(PRECISIONS))
    prompt_set = options.prompt_set
    own: Metadata = {}
    if target.spec is None:
        own = _read_metadata(target)
        prompt_set = prompt_set or _prompt_set_of(own)
        task = find_task(name, options.task, prompt_set or "")
    else:
        prompt_set = prompt_set or _world_of(target.spec)
        task = find_task(name, options.task, prompt_set)
        prompt_set = prompt_set or task.prompt_set
    metadata = _full(prompt_set) if prompt_set else own
    _refuse_unfit(task, prompt_set, metadata)
    chosen = first_of_each_tag(metadata, options.prompts)
    sampling, images_per_prompt = _sampling(target, options, task, prompt_set is not None)
    comparable = {
        "task": task.name,
        "task_version": task.version,
        "prompts": fingerprint(sorted(chosen.items())),
        "judge": task.judge_fingerprint,
        "images_per_prompt": images_per_prompt,
        "sampling": _what_matters(sampling),
    }
    manifest = {
        "schema_version": 2,
        "title": task.title,
        "notes": list(task.notes),
        "metrics": [asdict(metric) for metric in task.metrics],
        "model": target.label,
        "base": target.base,
        "run": str(target.run) if target.run else None,
        "step": target.step,
        "weights": target_fingerprint(target),
        "prompt_set": prompt_set,
        "prompts_per_tag": options.prompts,
        "comparable": comparable,
        "fingerprint": fingerprint(comparable),
    }
    out, pictures = _places(target, task, options, manifest, out)
    manifest["pictures"] = str(pictures.resolve()) if target.pictures else relpath(pictures, out)
    return Plan(
        task, target, out, pictures, chosen, len(metadata), images_per_prompt, sampling, manifest
    )


def _world_of(spec: ModelSpec) -> str | None:
    """Return the prompts of a model that knows a world of its own, and no other."""
    return None if spec.prompts == "geneval" else spec.prompts


def _refuse_unfit(task: Task, prompt_set: str | None, metadata: Metadata) -> None:
    """Refuse prompts that a benchmark cannot judge.

    Raises:
        VipoError: they lack what it needs to know.
    """
    for record in metadata.values():
        if missing := [key for key in task.needs if key not in record]:
            which = f"the prompts `{prompt_set}`" if prompt_set else "these prompts"
            raise VipoError(
                f"{task.title} cannot judge {which}: they do not say {', '.join(missing)}",
                hint=f"its own prompts are --prompt-set {task.prompt_set}",
            )


def write_manifest(plan: Plan) -> None:
    """Write down what is done in a folder, or find that just this was begun there before.

    Raises:
        VipoError: the folder holds an evaluation of something else.
    """
    file = plan.out / "manifest.json"
    if not file.is_file():
        write_json(file, plan.manifest)
        return
    there = json.loads(file.read_text())
    same = ("weights", "fingerprint")
    if any(there.get(key) != plan.manifest[key] for key in same):
        changed = differing(there.get("comparable", {}), plan.manifest["comparable"])
        what = ", ".join(changed) if changed else "weights"
        raise VipoError(
            f"`{plan.out}` holds another evaluation, with other {what}",
            hint=f"choose another folder with --out, or remove it first: rm -r {plan.out}",
        )


def differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Name what differs between two records, the nested ones by their own keys."""
    names = []
    for key in sorted(a.keys() | b.keys()):
        one, other = a.get(key), b.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            names += differing(one, other)
        elif one != other:
            names.append(key)
    return names


def first_of_each_tag(metadata: Metadata, limit: int | None) -> Metadata:
    """Keep the first prompts of each tag; their numbers stay those of the full set."""
    if limit is None:
        return metadata
    taken: Counter[str] = Counter()
    kept = {}
    for index, record in metadata.items():
        taken[record["tag"]] += 1
        if taken[record["tag"]] <= limit:
            kept[index] = record
    return kept


def in_cache(plan: Plan) -> Plan:
    """Return the same plan with its place in the cache, where several runs find it."""
    home = cache_home() / "eval" / _slug(plan.target)
    out = home / f"{plan.task.name}-{_key(plan.manifest)}"
    pictures = plan.target.pictures or home / _pictures_name(plan.manifest, plan.target)
    manifest = plan.manifest | {
        "pictures": str(pictures.resolve()) if plan.target.pictures else relpath(pictures, out)
    }
    return replace(plan, out=out, pictures=pictures, manifest=manifest)


def _places(
    target: Target, task: Task, options: Options, manifest: Mapping[str, Any], out: Path | None
) -> tuple[Path, Path]:
    """Return where results and pictures go: into the run, the cache, or a folder beside.

    The pictures of one model with the same settings lie together whatever judges them.
    """
    by_name = target.spec is not None and target.lora is None and not Path(target.label).exists()
    drawn = _pictures_name(manifest, target)
    if out is not None:
        home, name = out, "."
    elif target.run is not None:
        name = f"{task.name}-step-{target.step:06d}{_other_than_default(target, task, options)}"
        home = target.run / "eval"
    elif by_name:
        home, name = cache_home() / "eval" / _slug(target), f"{task.name}-{_key(manifest)}"
    else:
        name = f"{task.name}{_other_than_default(target, task, options)}"
        home = Path(f"eval-{_slug(target)}")
    return home / name, target.pictures or home / drawn


def _key(manifest: Mapping[str, Any]) -> str:
    return fingerprint([manifest["comparable"], manifest["weights"], manifest["schema_version"]])


def _pictures_name(manifest: Mapping[str, Any], target: Target) -> str:
    """Name a folder by all that pictures depend on but the number of prompts and of pictures."""
    step = "" if target.step is None else f"-step-{target.step:06d}"
    prompts = file_name(Path(str(manifest["prompt_set"])).stem)
    key = fingerprint([manifest["weights"], manifest["comparable"]["sampling"], prompts])
    return f"pictures{step}-{prompts}-{key[:8]}"


def _slug(target: Target) -> str:
    """Turn a label into a name for a folder."""
    label = str(Path(target.label).with_suffix("")) if target.lora else target.label
    return file_name(label)


def file_name(text: str) -> str:
    """Return what of a text can be part of a file's name anywhere."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.")


def _other_than_default(target: Target, task: Task, options: Options) -> str:
    """Spell out the settings that differ from their defaults, for a folder's name."""
    parts = []
    if options.images_per_prompt not in (None, task.images_per_prompt):
        parts.append(f"images{options.images_per_prompt}")
    if options.prompts is not None:
        parts.append(f"prompts{options.prompts}")
    if options.seed:
        parts.append(f"seed{options.seed}")
    spec = target.spec
    if spec and options.steps not in (None, spec.sampling_steps):
        parts.append(f"steps{options.steps}")
    if spec and options.guidance not in (None, spec.guidance):
        parts.append(f"guidance{options.guidance:g}")
    if options.precision != "fp32":
        parts.append(options.precision)
    if spec and options.prompt_set not in (None, _world_of(spec) or task.prompt_set):
        parts.append(Path(str(options.prompt_set)).stem)
    parts += [file_name(str(value).rpartition("/")[2]) for value in options.task.values()]
    return "".join(f"-{part}" for part in parts)


def _sampling(
    target: Target, options: Options, task: Task, known: bool
) -> tuple[Sampling | None, int]:
    """Return how pictures are drawn, and how many there must be for each prompt.

    Of finished pictures for a known prompt set no fewer than the benchmark's own number will do.
    """
    if target.spec is None:
        assert target.pictures is not None
        found = find_pictures(target.pictures)
        there = max(image for _, image in found) + 1
        asked = task.images_per_prompt if known else 1
        return None, options.images_per_prompt or max(there, asked)
    sampling = Sampling(
        steps=options.steps or target.spec.sampling_steps,
        guidance=target.spec.guidance if options.guidance is None else options.guidance,
        seed=options.seed,
        images_per_prompt=options.images_per_prompt or task.images_per_prompt,
        precision=options.precision,
        batch_size=options.batch_size,
    )
    return sampling, sampling.images_per_prompt


def settled(options: Options, plan: Plan) -> Options:
    """Fill in what a plan settled, so that another model is evaluated with the very same."""
    prompt_set = plan.manifest["prompt_set"]
    options = replace(options, prompt_set=prompt_set, images_per_prompt=plan.images_per_prompt)
    if plan.sampling is None:
        return options
    return replace(
        options,
        steps=plan.sampling.steps,
        guidance=plan.sampling.guidance,
    )


def _what_matters(sampling: Sampling | None) -> dict[str, Any]:
    if sampling is None:
        return {}
    kept = asdict(sampling)
    del kept["batch_size"], kept["images_per_prompt"]
    return kept


@cache
def _full(prompt_set: str) -> Metadata:
    """Return a prompt set by name, or the prompts of a file."""
    if Path(prompt_set).suffix and Path(prompt_set).is_file():
        return dict(enumerate(read_prompt_file(Path(prompt_set))))
    return dict(enumerate(prompt_sets[prompt_set]()))


def _read_metadata(target: Target) -> Metadata:
    """Read what finished pictures were asked to show."""
    assert target.pictures is not None
    metadata, problems = {}, []
    for folder in picture_folders(target.pictures):
        file = folder / "metadata.jsonl"
        try:
            record = json.loads(file.read_text().splitlines()[0])
            missing = [key for key in ("prompt",) if key not in record]
        except (ValueError, IndexError):
            problems.append(f"{file}: not a JSON line")
            continue
        if missing:
            problems.append(f"{file}: no {', '.join(missing)}")
        metadata[int(folder.name)] = {"tag": "all", **record}
    if problems:
        raise DataError(
            f"`{target.pictures}` is not in GenEval's layout",
            details=problems[:10],
            hint="each folder needs a metadata.jsonl as the GenEval generation script writes it",
        )
    if not find_pictures(target.pictures):
        raise DataError(f"`{target.pictures}` holds no pictures (00000/samples/0000.png ...)")
    return metadata


def _prompt_set_of(metadata: Metadata) -> str | None:
    """Find the prompt set that these prompts, with these numbers, come from."""
    for name in prompt_sets.names():
        try:
            with without_fetching():
                full = _full(name)
        except MissingWeights:  # prompts that are not on this machine
            continue
        if all(full.get(index) == record for index, record in metadata.items()):
            return name
    return None
