"""From a registered name, a hub id or a folder to a pipeline and its family."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from logging import CRITICAL
from pathlib import Path
from typing import Any

from vipo_cli.errors import MissingWeights, ModelError, UnknownName
from vipo_cli.models.family import Family
from vipo_cli.models.parts import encoder_parts, load_parts, open_pipeline, read_index
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
        "shapes-flow": "vipo_cli.shapes.model:shapes_flow",
        "shapes-video": "vipo_cli.shapes.model:shapes_video",
        "sd15": "vipo_cli.models.sd:sd15",
        "sd21": "vipo_cli.models.sd:sd21",
        "sdxl": "vipo_cli.models.sdxl:sdxl",
        "sd35-medium": "vipo_cli.models.sd3:sd35_medium",
        "sd35-large": "vipo_cli.models.sd3:sd35_large",
        "flux-dev": "vipo_cli.models.flux:flux_dev",
        "wan-1.3b": "vipo_cli.models.wan:wan_1_3b",
        "wan-14b": "vipo_cli.models.wan:wan_14b",
        "cogvideox-2b": "vipo_cli.models.cogvideox:cogvideox_2b",
        "cogvideox-5b": "vipo_cli.models.cogvideox:cogvideox_5b",
        "hunyuan-video": "vipo_cli.models.hunyuan:hunyuan_video",
    },
)

FAMILIES = {
    "StableDiffusionPipeline": "vipo_cli.models.sd:StableDiffusion",
    "StableDiffusionXLPipeline": "vipo_cli.models.sdxl:StableDiffusionXL",
    "StableDiffusion3Pipeline": "vipo_cli.models.sd3:StableDiffusion3",
    "FluxPipeline": "vipo_cli.models.flux:Flux",
    "WanPipeline": "vipo_cli.models.wan:Wan",
    "CogVideoXPipeline": "vipo_cli.models.cogvideox:CogVideoX",
    "HunyuanVideoPipeline": "vipo_cli.models.hunyuan:HunyuanVideo",
}
"""Pipeline class in `model_index.json` to the adapter that trains it."""

RECIPES = {
    "StableDiffusionPipeline": "families/sd",
    "StableDiffusionXLPipeline": "families/sdxl",
    "StableDiffusion3Pipeline": "families/sd3",
    "FluxPipeline": "families/flux",
    "WanPipeline": "families/wan",
    "CogVideoXPipeline": "families/cogvideox",
    "HunyuanVideoPipeline": "families/hunyuan",
}
"""Pipeline class to the recipe that training a folder or hub id of that kind starts from."""

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
        return ModelSpec(name, str(folder), RECIPES.get(str(read_index(folder)["_class_name"])))
    if HUB_ID.fullmatch(name):
        return ModelSpec(name, name, _cached_recipe(name))
    raise UnknownName("model", name, models.names())


def _cached_recipe(repository: str) -> str | None:
    """Return the recipe to start from for a hub id that is on this machine; None for others."""
    from huggingface_hub import try_to_load_from_cache

    index = try_to_load_from_cache(repository, "model_index.json")
    if not isinstance(index, str):
        return None
    return RECIPES.get(str(read_index(Path(index).parent)["_class_name"]))


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
    if kind == "StableDiffusion3Pipeline":  # diffusers wants to be told which encoders are absent
        index = read_index(Path(spec.source))
        options = {part: None for part, found in index.items() if found == [None, None]}
    try:
        return diffusers.DiffusionPipeline.from_pretrained(
            spec.source, use_safetensors=True, dtype=torch.float32, **options
        )
    except (SafetensorError, OSError, ValueError) as error:
        if kind is None and any(map(_is_hub_failure, _chain(error))):
            raise _missing_weights(spec) from error
        raise ModelError(
            f"cannot load the model `{spec.name}`: {str(error).splitlines()[0]}",
            hint="the folder may be incomplete: compare it with where it came from",
        ) from error


def open_family(name: str) -> Family:
    """Open a model from its configurations: its networks have shapes, but no weights yet.

    Raises:
        ModelError: a folder that is damaged or incomplete, or a pipeline that cannot be trained.
        MissingWeights: a hub id that is neither cached nor to be reached.
    """
    spec = find_model(name)
    _refuse_unsupported(name, _pipeline_class(spec))
    _quieten()
    folder = local_folder(spec)
    kind = str(read_index(folder)["_class_name"])
    _refuse_unsupported(name, kind)
    family = family_of(open_pipeline(folder, name))
    assert family is not None
    family.folder = folder
    return family


def family_of(pipeline: Any) -> Family | None:
    """Wrap a pipeline that is loaded already; None if its kind is not known."""
    kind = type(pipeline).__name__
    if kind not in FAMILIES:
        return None
    module, _, attribute = FAMILIES[kind].partition(":")
    family: Family = getattr(import_module(module), attribute)(pipeline)
    return family


def load_family(name: str, precision: str = "fp32") -> Family:
    """Open a model and load all of it, frozen, onto the CPU."""
    import torch

    family = open_family(name)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    load_parts(family, (family.denoiser_name, *encoder_parts(family)), dtype=dtype, device="cpu")
    return family


def local_folder(spec: ModelSpec) -> Path:
    """Return where a model's files lie on this machine, fetched from the hub if need be.

    Raises:
        MissingWeights: a hub id that is neither cached nor to be reached.
    """
    import diffusers

    if Path(spec.source).is_dir():
        return Path(spec.source)
    try:
        return Path(diffusers.DiffusionPipeline.download(spec.source, use_safetensors=True))
    except (OSError, ValueError) as error:
        if any(map(_is_hub_failure, _chain(error))):
            raise _missing_weights(spec) from error
        raise ModelError(
            f"cannot load the model `{spec.name}`: {str(error).splitlines()[0]}"
        ) from error


def _missing_weights(spec: ModelSpec) -> MissingWeights:
    return MissingWeights(
        f"the weights of `{spec.name}` are not on this machine and the hub does not give them",
        hint=f"on a machine with a network: hf download {spec.source}",
    )


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
    """Keep the libraries' own bars and notices off the terminal."""
    import diffusers.utils.logging
    import transformers.utils.logging

    for logging in (diffusers.utils.logging, transformers.utils.logging):
        logging.disable_progress_bar()
        logging.set_verbosity_error()
    diffusers.utils.logging.set_verbosity(CRITICAL)  # it prints errors that it raises too


def _pipeline_class(spec: ModelSpec) -> str | None:
    """Return the class that a local model index names; None for a hub id."""
    folder = Path(spec.source)
    if not (folder / "model_index.json").is_file():
        return None
    return str(read_index(folder)["_class_name"])
