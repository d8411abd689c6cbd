"""What every reward and benchmark needs, what of it is on this machine, and the next command."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from shutil import which
from typing import Any

from vipo_cli.benchmarks import prompt_sets, tasks
from vipo_cli.errors import UnknownName, VipoError
from vipo_cli.rewards import rewards
from vipo_cli.rewards.environments import ENVIRONMENTS, Environment, find_environment, ready
from vipo_cli.weights import SOURCES, Source, command, is_here, without_fetching


@dataclass(frozen=True, slots=True)
class Package:
    """Something installed beside vipo, one of several that would do.

    Attributes:
        modules: Python modules, each of which would do.
        programs: programs that would do as well.
        install: the command that helps.
    """

    modules: tuple[str, ...]
    install: str
    programs: tuple[str, ...] = ()

    @property
    def here(self) -> bool:
        """Tell whether any of them is installed."""
        return any(find_spec(name) is not None for name in self.modules) or any(
            which(name) is not None for name in self.programs
        )


@dataclass(frozen=True, slots=True)
class Needs:
    """What a reward or benchmark cannot do without.

    Attributes:
        sources: names in `SOURCES`.
        package: what must be installed.
        prompts: the prompt set that a benchmark is defined on.
        licence: of its rules and prompts, where that is not the weights'.
    """

    sources: tuple[str, ...] = ()
    package: Package | None = None
    prompts: str = ""
    licence: str = ""


READER = Package(("rapidocr_onnxruntime", "pytesseract"), "pip install 'vipo[ocr]'", ("tesseract",))
PADDLE = Package(("paddleocr",), "pip install paddleocr paddlepaddle")
OPENAI_L = ("clip-l", "clip-l-tokenizer")
VIDEOALIGN = ("videoreward", "qwen2-vl-2b", "videoalign-code")
VIDEOSCORE = ("videoscore-v1.1", "videoscore-code")

REWARDS: dict[str, Needs] = {
    "aesthetic": Needs(("aesthetic", *OPENAI_L)),
    "aesthetic-linear": Needs(("aesthetic-linear", *OPENAI_L)),
    "clip": Needs(OPENAI_L),
    "clipscore": Needs(("clip-b", "clip-b-tokenizer")),
    "hpsv2.0": Needs(("hpsv2.0", "clip-h-tokenizer")),
    "hpsv2.1": Needs(("hpsv2.1", "clip-h-tokenizer")),
    "hpsv3": Needs(("hpsv3", "qwen2-vl-7b", "hpsv3-code")),
    "imagereward": Needs(("imagereward", "bert-tokenizer")),
    "mps": Needs(("mps", "clip-h-tokenizer")),
    "ocr-similarity": Needs(package=READER, licence="Apache-2.0"),
    "ocr-words": Needs(package=READER, licence="Apache-2.0"),
    "pickscore": Needs(("pickscore", "clip-h-tokenizer")),
    "shapes-alignment": Needs(),
    "shapes-cleanliness": Needs(),
    "shapes-composition": Needs(),
    "shapes-sharpness": Needs(),
    "shapes-vividness": Needs(),
    "videoalign": Needs(VIDEOALIGN),
    "videoalign-mq": Needs(VIDEOALIGN),
    "videoalign-ta": Needs(VIDEOALIGN),
    "videoalign-vq": Needs(VIDEOALIGN),
    "videoscore": Needs(VIDEOSCORE),
    "videoscore-dynamic": Needs(VIDEOSCORE),
    "videoscore-factual": Needs(VIDEOSCORE),
    "videoscore-temporal": Needs(VIDEOSCORE),
    "videoscore-text": Needs(VIDEOSCORE),
    "videoscore-visual": Needs(VIDEOSCORE),
    "vlm-judge": Needs(),
    "vqascore": Needs(("clip-flant5-xxl",)),
}
BENCHMARKS: dict[str, Needs] = {
    "cvtg-2k": Needs(package=PADDLE, prompts="cvtg-2k", licence="unknown"),
    "dpg": Needs(("blip-vqa",), prompts="dpg", licence="Apache-2.0"),
    "geneval": Needs(("mask2former", *OPENAI_L), licence="MIT"),
    "geneval2": Needs(("qwen3-vl-8b",), prompts="geneval2", licence="CC-BY-NC-4.0"),
    "shapes-motion": Needs(prompts="shapes-motion"),
}
SUITES: dict[str, Needs] = {
    "vbench": Needs(
        ("dino-b16", "clip-b", "clip-b-tokenizer", "clip-l", "aesthetic-linear"),
        prompts="vbench",
        licence="Apache-2.0",
    ),
    "vbench2": Needs(prompts="vbench2", licence="Apache-2.0"),
}
"""Benchmarks with a command of their own; the weights are those of what vipo judges itself."""
OWN = "Apache-2.0"
"""Licence of what vipo brings itself."""


def examine() -> dict[str, Any]:
    """Return the state of every reward, benchmark and prompt set; nothing is fetched or loaded."""
    with without_fetching():
        return {
            "rewards": [_row(name, REWARDS.get(name)) for name in rewards.names()],
            "benchmarks": [
                *(_row(name, BENCHMARKS.get(name)) for name in tasks.names()),
                *(_row(name, needs) for name, needs in SUITES.items()),
            ],
            "prompts": [_prompts(name) for name in prompt_sets.names()],
        }


def is_ready(found: Mapping[str, Any], name: str) -> bool:
    """Tell whether a reward or benchmark can be used, or an environment is set up.

    Raises:
        UnknownName: there is none of that name.
    """
    rows = {row["name"]: row["ready"] for row in [*found["rewards"], *found["benchmarks"]]}
    if name in rows:
        return bool(rows[name])
    try:
        return ready(find_environment(name)) is not None
    except UnknownName as error:
        raise UnknownName("reward or benchmark", name, rows) from error


def _row(name: str, needs: Needs | None) -> dict[str, Any]:
    """Return what there is to say about one; of a plugin's, nothing but its name."""
    missing = [] if needs is None else list(_missing(needs))
    return {
        "name": name,
        "ready": None if needs is None else not missing,
        "licence": "unknown" if needs is None else _licence(needs),
        "sources": [] if needs is None else [_source(SOURCES[each]) for each in needs.sources],
        "to_fetch": sum(each["bytes"] for each in missing),
        "missing": missing,
        "official": next(
            (_official(each) for each in ENVIRONMENTS.values() if name in each.serves), None
        ),
    }


def _missing(needs: Needs) -> Iterator[dict[str, Any]]:
    """Yield what is not here, each with the command that helps."""
    for name in needs.sources:
        source = SOURCES[name]
        if not is_here(source):
            yield {"what": name, "bytes": source.bytes, "next": command(source)}
    if needs.package is not None and not needs.package.here:
        modules = " or ".join(needs.package.modules)
        yield {"what": modules, "bytes": 0, "next": needs.package.install}
    if needs.prompts and not (prompts := _prompts(needs.prompts))["ready"]:
        yield {"what": f"prompts of {needs.prompts}", "bytes": 0, "next": prompts["next"]}


def _source(source: Source) -> dict[str, Any]:
    return {
        "name": source.name,
        "page": source.page,
        "files": [file.name for file in source.files],
        "bytes": source.bytes,
        "licence": source.licence,
        "here": is_here(source),
    }


def _official(environment: Environment) -> dict[str, Any]:
    known = ready(environment)
    return {
        "environment": environment.name,
        "ready": known is not None,
        "licence": environment.licence,
        "terms": environment.terms,
        "bytes": known["bytes"] if known else environment.bytes,
        "version": known["version"] if known else None,
        "next": f"vipo eval setup {environment.name}",
    }


def _licence(needs: Needs) -> str:
    """Return the licence of a benchmark's rules, else of the weights, the strictest first."""
    if needs.licence or not needs.sources:
        return needs.licence or OWN
    return SOURCES[needs.sources[0]].licence


def _prompts(name: str) -> dict[str, Any]:
    """Tell whether the prompts of a set can be read without a network."""
    try:
        count = len(prompt_sets[name]())
    except VipoError as error:
        return {"name": name, "ready": False, "prompts": None, "next": error.hint or error.message}
    return {"name": name, "ready": True, "prompts": count, "next": ""}


__all__ = ["BENCHMARKS", "REWARDS", "SUITES", "Needs", "Package", "examine", "is_ready"]
