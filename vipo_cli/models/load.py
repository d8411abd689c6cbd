"""From a registered name, a hub id or a folder to a pipeline and its family."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from vipo_cli.errors import MissingWeights, ModelError, UnknownName
from vipo_cli.models.family import Family
from vipo_cli.registry import Registry


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Where a model lies and how it wants to be used.

    Attributes:
        name: as the user gave it.
        source: a folder in diffusers layout, or a hub id.
        recipe: the recipe that `vipo train` starts from when none is named.
        sampling_steps: denoising steps for samples.
        guidance: classifier-free guidance scale for samples.
        prompts: the prompt set that benchmarks use for it.
        licence: of the weights.
    """

    name: str
    source: str
    recipe: str | None = None
    sampling_steps: int = 50
    guidance: float = 7.5
    prompts: str = "geneval"
    licence: str = "unknown"


models: Registry[Callable[[], ModelSpec]] = Registry(
    "model",
    "vipo.models",
    {
        "shapes-sd": "vipo_cli.shapes.model:shapes_sd",
        "sd15": "vipo_cli.models.sd:sd15",
    },
)

FAMILIES = {"StableDiffusionPipeline": "vipo_cli.models.sd:StableDiffusion"}
"""Pipeline class in `model_index.json` to the adapter that trains it."""

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def find_model(name: str) -> ModelSpec:
    """Resolve a registered name, a folder in diffusers layout, or a hub id.

    Raises:
        UnknownName: none of the three.
        ModelError: a folder that holds no pipeline.
    """
    if name in models:
        return models[name]()
    folder = Path(name)
    if name and folder.is_dir():
        if not (folder / "model_index.json").is_file():
            raise ModelError(
                f"`{name}` holds no diffusers pipeline: `model_index.json` is missing",
                hint="give the folder that `pipeline.save_pretrained` wrote",
            )
        return ModelSpec(name, str(folder))
    if HUB_ID.fullmatch(name):
        return ModelSpec(name, name)
    raise UnknownName("model", name, models.names())


def load_pipeline(spec: ModelSpec) -> Any:
    """Load a pipeline in float32 on the CPU, from safetensors only.

    Raises:
        ModelError: the files are damaged or make no pipeline.
        MissingWeights: a hub id that is neither cached nor to be reached.
    """
    import diffusers
    import torch
    from safetensors import SafetensorError

    _quieten()
    options: dict[str, Any] = {}
    kind = _pipeline_class(spec)
    if kind is not None and not hasattr(diffusers, kind):
        raise ModelError(
            f"`{spec.name}` is a {kind}, which diffusers {diffusers.__version__} does not have"
        )
    if kind == "StableDiffusionPipeline":
        options = {"safety_checker": None, "requires_safety_checker": False}
    try:
        return diffusers.DiffusionPipeline.from_pretrained(
            spec.source, use_safetensors=True, dtype=torch.float32, **options
        )
    except (SafetensorError, OSError, ValueError) as error:
        if kind is None and any(map(_is_hub_failure, _chain(error))):
            raise MissingWeights(
                f"the weights of `{spec.name}` are not on this machine and the hub does not give "
                "them",
                hint=f"on a machine with a network: hf download {spec.source}",
            ) from error
        raise ModelError(
            f"cannot load the model `{spec.name}`: {str(error).splitlines()[0]}",
            hint="the folder may be incomplete: compare it with where it came from",
        ) from error


def load_family(name: str) -> Family:
    """Load a model and wrap it in the adapter of its kind."""
    spec = find_model(name)
    _refuse_unsupported(name, _pipeline_class(spec))
    pipeline = load_pipeline(spec)
    kind = type(pipeline).__name__
    _refuse_unsupported(name, kind)
    module, _, attribute = FAMILIES[kind].partition(":")
    family: Family = getattr(import_module(module), attribute)(pipeline)
    return family


def _refuse_unsupported(name: str, kind: str | None) -> None:
    if kind is not None and kind not in FAMILIES:
        raise ModelError(
            f"`{name}` is a {kind}, which cannot be trained yet",
            hint=f"supported: {', '.join(sorted(FAMILIES))}",
        )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and all that led to it; diffusers wraps what the hub says."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_hub_failure(error: BaseException) -> bool:
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    return isinstance(error, (HfHubHTTPError, LocalEntryNotFoundError, ConnectionError))


def _quieten() -> None:
    """Keep the libraries' own bars and notices off the terminal; errors still come through."""
    import diffusers.utils.logging
    import transformers.utils.logging

    for logging in (diffusers.utils.logging, transformers.utils.logging):
        logging.disable_progress_bar()
        logging.set_verbosity_error()


def _pipeline_class(spec: ModelSpec) -> str | None:
    """Return the class that a local model index names; None for a hub id."""
    index = Path(spec.source) / "model_index.json"
    if not index.is_file():
        return None
    try:
        name = json.loads(index.read_text())["_class_name"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ModelError(
            f"`{index}` is damaged: it names no pipeline",
            hint="compare the folder with where it came from",
        ) from error
    return str(name)
