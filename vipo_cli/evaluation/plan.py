"""What an evaluation will do, settled before it starts."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from vipo_cli.benchmarks import Detector, detectors, prompt_sets
from vipo_cli.benchmarks.geneval import task_version
from vipo_cli.errors import DataError, VipoError
from vipo_cli.evaluation.generate import PRECISIONS, Sampling
from vipo_cli.evaluation.score import find_pictures
from vipo_cli.evaluation.target import Target, picture_folders, target_fingerprint
from vipo_cli.run import cache_home, fingerprint, write_json

Metadata = Mapping[int, dict[str, Any]]
"""GenEval's description of each prompt, by its number in the full prompt set."""

IMAGES_PER_PROMPT = 2
DETECTORS = {"geneval": "mask2former"}
"""Which detector judges a prompt set, where it does not have the prompt set's own name."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a user may choose; None leaves it to the model or the prompt set.

    Attributes:
        images_per_prompt: pictures for each prompt.
        prompts: only so many prompts of each task.
        seed: base seed of all pictures.
        steps: denoising steps.
        guidance: classifier-free guidance scale.
        batch_size: pictures drawn at once.
        precision: floating-point type of the weights.
    """

    images_per_prompt: int | None = None
    prompts: int | None = None
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    batch_size: int | None = None
    precision: str = "fp32"


@dataclass(frozen=True, slots=True)
class Plan:
    """One evaluation, settled.

    Attributes:
        target: what is evaluated.
        out: where everything goes.
        metadata: what the prompts ask for.
        all_prompts: number of prompts in the full set.
        images_per_prompt: pictures for each prompt.
        sampling: how pictures are drawn; None where they are finished already.
        detector: who judges them.
        manifest: all of this as it is written to `manifest.json`.
    """

    target: Target
    out: Path
    metadata: Metadata
    all_prompts: int
    images_per_prompt: int
    sampling: Sampling | None
    detector: Detector
    manifest: dict[str, Any]

    @property
    def pictures(self) -> Path:
        """The folder in which the pictures lie."""
        return self.target.pictures or self.out


def plan_geneval(
    target: Target,
    options: Options,
    *,
    detector: str | None = None,
    prompt_set: str | None = None,
    out: Path | None = None,
) -> Plan:
    """Settle an evaluation of GenEval.

    Raises:
        UnknownName: no such prompt set or detector.
        VipoError: pictures of unknown prompts and no detector named.
    """
    if options.precision not in PRECISIONS:
        raise VipoError(f"unknown precision `{options.precision}`", hint=", ".join(PRECISIONS))
    if target.spec is None:
        own = _read_metadata(target)
        prompt_set = prompt_set or _prompt_set_of(own)
        metadata = _full(prompt_set) if prompt_set else own
    else:
        prompt_set = prompt_set or target.spec.prompts
        metadata = _full(prompt_set)
    judge = _detector(target, detector, prompt_set)
    chosen = first_of_each_task(metadata, options.prompts)
    sampling, images_per_prompt = _sampling(target, options)
    comparable = {
        "task": "geneval",
        "task_version": task_version,
        "prompts": fingerprint(sorted(chosen.items())),
        "detector": [judge.name, judge.fingerprint],
        "images_per_prompt": images_per_prompt,
        "sampling": _what_matters(sampling),
    }
    weights = target_fingerprint(target)
    manifest = {
        "schema_version": 1,
        "model": target.label,
        "base": target.base,
        "run": str(target.run) if target.run else None,
        "step": target.step,
        "pictures": str(target.pictures.resolve()) if target.pictures else None,
        "weights": weights,
        "prompt_set": prompt_set,
        "prompts_per_task": options.prompts,
        "comparable": comparable,
        "fingerprint": fingerprint(comparable),
    }
    if out is None:
        names = _other_than_default(target, options, detector, prompt_set)
        out = _default_out(target, manifest, names)
    all_prompts = len(metadata)
    return Plan(target, out, chosen, all_prompts, images_per_prompt, sampling, judge, manifest)


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


def first_of_each_task(metadata: Metadata, limit: int | None) -> Metadata:
    """Keep the first prompts of each task; their numbers stay those of the full set."""
    if limit is None:
        return metadata
    taken: dict[str, int] = {}
    kept = {}
    for index, record in metadata.items():
        taken[record["tag"]] = taken.get(record["tag"], 0) + 1
        if taken[record["tag"]] <= limit:
            kept[index] = record
    return kept


def cache_folder(target: Target, manifest: Mapping[str, Any]) -> Path:
    """Return where evaluations lie that several runs compare themselves with."""
    key = fingerprint([manifest["comparable"], manifest["weights"]])
    return cache_home() / "eval" / "geneval" / f"{_slug(target)}-{key}"


def _default_out(target: Target, manifest: Mapping[str, Any], other_than_default: str) -> Path:
    """Return where results go: into the run, for models by name into the cache, else beside."""
    if target.run is not None:
        return target.run / "eval" / f"geneval-step-{target.step:06d}{other_than_default}"
    by_name = target.spec is not None and target.lora is None and not Path(target.label).exists()
    if by_name:
        return cache_folder(target, manifest)
    return Path(f"eval-{_slug(target)}{other_than_default}")


def _slug(target: Target) -> str:
    """Turn a label into a name for a folder."""
    label = str(Path(target.label).with_suffix("")) if target.lora else target.label
    return re.sub(r"[^A-Za-z0-9._]+", "-", label).strip("-.")


def _other_than_default(
    target: Target, options: Options, detector: str | None, prompt_set: str | None
) -> str:
    """Spell out the settings that differ from their defaults, for a folder's name."""
    parts = []
    if options.images_per_prompt not in (None, IMAGES_PER_PROMPT):
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
    if spec and prompt_set not in (None, spec.prompts):
        parts.append(str(prompt_set))
    if detector is not None and detector != DETECTORS.get(prompt_set or "", prompt_set):
        parts.append(detector)
    return "".join(f"-{part}" for part in parts)


def _sampling(target: Target, options: Options) -> tuple[Sampling | None, int]:
    """Return how pictures are drawn, and how many there are for each prompt."""
    if target.spec is None:
        assert target.pictures is not None
        found = find_pictures(target.pictures)
        return None, options.images_per_prompt or max(image for _, image in found) + 1
    sampling = Sampling(
        steps=options.steps or target.spec.sampling_steps,
        guidance=target.spec.guidance if options.guidance is None else options.guidance,
        seed=options.seed,
        images_per_prompt=options.images_per_prompt or IMAGES_PER_PROMPT,
        precision=options.precision,
        batch_size=options.batch_size,
    )
    return sampling, sampling.images_per_prompt


def settled(options: Options, plan: Plan) -> Options:
    """Fill in what a plan settled, so that another model is evaluated with the very same."""
    if plan.sampling is None:
        return replace(options, images_per_prompt=plan.images_per_prompt)
    return replace(
        options,
        steps=plan.sampling.steps,
        guidance=plan.sampling.guidance,
        images_per_prompt=plan.images_per_prompt,
    )


def _what_matters(sampling: Sampling | None) -> dict[str, Any]:
    if sampling is None:
        return {}
    kept = asdict(sampling)
    del kept["batch_size"], kept["images_per_prompt"]
    return kept


@cache
def _full(prompt_set: str) -> Metadata:
    return dict(enumerate(prompt_sets[prompt_set]()))


def _detector(target: Target, name: str | None, prompt_set: str | None) -> Detector:
    """Load the detector that was named, or the one that belongs to the prompt set."""
    if name is None and prompt_set is None:
        raise VipoError(
            f"the prompts of `{target.label}` belong to no known prompt set",
            hint=f"name who judges them: --detector, one of {', '.join(detectors.names())}",
        )
    return detectors[name or DETECTORS.get(prompt_set or "", prompt_set or "")]()


def _read_metadata(target: Target) -> Metadata:
    """Read what finished pictures were asked to show."""
    assert target.pictures is not None
    metadata, problems = {}, []
    for folder in picture_folders(target.pictures):
        file = folder / "metadata.jsonl"
        try:
            record = json.loads(file.read_text().splitlines()[0])
            missing = [key for key in ("tag", "include", "prompt") if key not in record]
        except (ValueError, IndexError):
            problems.append(f"{file}: not a JSON line")
            continue
        if missing:
            problems.append(f"{file}: no {', '.join(missing)}")
        metadata[int(folder.name)] = record
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
        full = _full(name)
        if all(full.get(index) == record for index, record in metadata.items()):
            return name
    return None
