"""Results that the public scripts wrote, brought into an evaluation of ours, with intervals."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vipo_cli.benchmarks import Metric, prompt_sets
from vipo_cli.benchmarks.geneval import GEN_EVAL_METRICS
from vipo_cli.benchmarks.geneval_files import IMAGES_PER_PROMPT, read_official_results
from vipo_cli.errors import VipoError
from vipo_cli.evaluation.aggregate import aggregate
from vipo_cli.evaluation.score import Key
from vipo_cli.run import environment, fingerprint, write_json, writing

Samples = dict[Key, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Read:
    """What stands in a results file.

    Attributes:
        title: of the benchmark.
        metrics: what is reported.
        prompts: all that the benchmark has, by number.
        images_per_prompt: how many pictures it has for each.
        samples: the verdicts.
    """

    title: str
    metrics: tuple[Metric, ...]
    prompts: Mapping[int, Mapping[str, Any]]
    images_per_prompt: int
    samples: Samples


def read_geneval(file: Path) -> Read:
    """Read the `results.jsonl` of GenEval's `evaluate_images.py`."""
    prompts = dict(enumerate(prompt_sets["geneval"]()))
    samples = read_official_results(file, prompts)
    return Read("GenEval", GEN_EVAL_METRICS, prompts, IMAGES_PER_PROMPT, samples)


def read_dpg(file: Path) -> Read:
    """Read the `..._results.txt` of DPG-Bench's script: a score for each part of each picture."""
    from vipo_cli.benchmarks.dpg_results import read_results

    items = sorted(read_results(file).scores.items())
    parts = max(len(scores) for _, scores in items)
    samples = {
        (number, part): {
            "prompt_index": number,
            "image_index": part,
            "seed": None,
            "tag": "all",
            "prompt": item,
            "scores": {"dpg": 100 * score},
            "reason": "",
            "image": None,
        }
        for number, (item, scores) in enumerate(items)
        for part, score in enumerate(scores)
    }
    prompts = {number: {"prompt": item, "tag": "all"} for number, (item, _) in enumerate(items)}
    return Read("DPG-Bench", (Metric("dpg", lowest=0, highest=100),), prompts, parts, samples)


READERS: dict[str, Callable[[Path], Read]] = {"geneval": read_geneval, "dpg": read_dpg}


def evaluate_results(task: str, file: Path, out: Path | None = None) -> tuple[dict[str, Any], Path]:
    """Aggregate what a public script found; return the results and the folder that keeps them.

    Args:
        task: the benchmark.
        file: its results.
        out: where ours go; by default beside, named after the file.

    Raises:
        DataError: the file cannot be read.
        VipoError: the folder holds another evaluation.
    """
    read = READERS[task](file)
    comparable = {
        "task": task,
        "task_version": f"{task}-official-results",
        "prompts": fingerprint(sorted(read.prompts.items())),
        "judge": [f"the public script of {read.title}"],
        "images_per_prompt": read.images_per_prompt,
        "sampling": {},
    }
    folder = out or Path(f"eval-{file.stem}")
    manifest = {
        "schema_version": 2,
        "title": read.title,
        "notes": ["judged elsewhere: how the pictures were made is not known"],
        "metrics": [asdict(metric) for metric in read.metrics],
        "model": str(file),
        "base": None,
        "run": None,
        "step": None,
        "weights": fingerprint(sorted(map(str, read.samples.values()))),
        "prompt_set": task,
        "prompts_per_tag": None,
        "comparable": comparable,
        "fingerprint": fingerprint(comparable),
        "pictures": ".",
    }
    place = folder / "manifest.json"
    if place.is_file() and json.loads(place.read_text())["weights"] != manifest["weights"]:
        raise VipoError(
            f"`{folder}` holds another evaluation", hint="choose another folder with --out"
        )
    results = aggregate(manifest, read.prompts, read.samples, read.samples, len(read.prompts))
    results |= {"environment": environment(), "timing": {}}
    write_json(place, manifest)
    with writing(folder / "samples.jsonl") as temporary:
        lines = (json.dumps(sample) + "\n" for sample in read.samples.values())
        temporary.write_text("".join(lines))
    write_json(folder / "results.json", results)
    return results, folder
