"""What is trained of a model: LoRA or DoRA adapters, alone or going on from a LoRA, or all weights.

A LoRA to start from is not put under a second one: training goes on with its own weights, and a
frozen copy of them is the reference. Rank and cost stay those of one LoRA, the policy equals the
reference bit for bit in any precision and for DoRA too, and a checkpoint is an ordinary LoRA file
that holds both. Where all weights are trained it is merged into them first; they are in float32
then, in which nothing of it is lost.
"""

import json
import re
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vipo_cli import __version__
from vipo_cli.errors import RecipeError, did_you_mean
from vipo_cli.models.family import Family
from vipo_cli.models.lora_files import (
    LORA_FILE,
    METADATA,
    START_FILE,
    Lora,
    check_lora,
    common_rank_and_alpha,
    file_fingerprint,
    find_lora,
    read_lora,
)
from vipo_cli.models.parts import fingerprint_parts
from vipo_cli.recipe import Recipe
from vipo_cli.run import writing
from vipo_cli.training.reference import Snapshot, adapter_off, frozen_copy
from vipo_cli.training.step import Reference

ADAPTER = "default"


def check_adapters(recipe: Recipe, family: Family, run: Path | None = None) -> Lora | None:
    """Check what a recipe says of adapters against a model; return the LoRA to start from, if any.

    A copy of it is kept in the run's directory, so that the run can be resumed whatever becomes of
    the file.

    Raises:
        RecipeError: targets that are no layers of this model.
        ModelError: the LoRA is damaged or belongs to another model.
        VipoError: there is no such LoRA.
    """
    if recipe.model.targets is not None:
        _refuse_unknown_targets(recipe.model.targets, _adaptable(family))
    if recipe.model.start_from is None:
        return None
    kept = run / START_FILE if run is not None else None
    if kept is not None and kept.is_file():
        return read_lora(kept, family.pipeline)
    file = find_lora(recipe.model.start_from)
    lora = read_lora(file, family.pipeline)
    if kept is not None:
        with writing(kept) as temporary:
            shutil.copyfile(file, temporary)
    return lora


def _adaptable(family: Family) -> list[str]:
    return [
        name
        for name, module in family.denoiser.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d)
    ]


def _matched(targets: Sequence[str], layers: Sequence[str]) -> list[str]:
    """Return the layers that targets name, as peft understands them: by the end of their names."""
    ends = tuple(f".{target}" for target in targets)
    return [layer for layer in layers if layer in targets or layer.endswith(ends)]


def _refuse_unknown_targets(targets: list[str], layers: list[str]) -> None:
    unknown = [target for target in targets if not _matched([target], layers)]
    if not unknown:
        return
    parts = {".".join(layer.split(".")[-depth:]) for layer in layers for depth in (1, 2, 3)}
    named = sorted(part for part in parts if not part.split(".")[0].isdigit())
    raise RecipeError(
        f"model.targets: the model has no linear layers called "
        f"{', '.join(f'`{target}`' for target in unknown)}",
        hint=did_you_mean(unknown[0], named).strip()
        or "leave model.targets out to adapt what is usual for the model",
    )


def make_trainable(
    family: Family, recipe: Recipe, start: Lora | None, *, copied: bool
) -> Reference | None:
    """Choose the weights that are trained, and give the base they started from.

    Args:
        family: the model.
        recipe: says which weights.
        start: the LoRA that belongs to the base.
        copied: whether full fine-tuning keeps a copy of the base; LoRA has it for next to nothing.
    """
    if recipe.model.train == "full":
        if start is not None:
            merge(family.denoiser, start)
        base = frozen_copy(family) if copied else None
        family.denoiser.requires_grad_(True)
        return base
    if start is not None:
        put_on(family, start)
        return Snapshot(family).in_place
    add_adapter(family, recipe)
    return adapter_off(family, family.denoiser)


@torch.no_grad()
def merge(denoiser: nn.Module, lora: Lora) -> None:
    """Change a denoiser's weights to what they are under a LoRA."""
    for name, layer in lora.items():
        weight: Any = denoiser.get_submodule(name).weight
        moved = {
            key: value.to(weight.device)
            for key in ("down", "up", "magnitude")
            if (value := getattr(layer, key)) is not None
        }
        weight.copy_(type(layer)(alpha=layer.alpha, **moved).merged(weight.float()))


def add_adapter(family: Family, recipe: Recipe) -> None:
    """Put fresh adapters on the denoiser, which change nothing yet."""
    model = recipe.model
    with torch.random.fork_rng():  # peft draws LoRA's start from the global generator
        torch.manual_seed(recipe.run.seed)
        _inject(
            family.denoiser,
            r=model.rank,
            lora_alpha=model.rank if model.lora_alpha is None else model.lora_alpha,
            target_modules=list(model.targets or family.lora_targets),
            use_dora=model.adapter == "dora",
        )


@torch.no_grad()
def put_on(family: Family, lora: Lora) -> None:
    """Put a LoRA on the denoiser, as trainable as a fresh one."""
    if lora.keys() == set(_matched(family.lora_targets, _adaptable(family))):
        targets: Any = list(family.lora_targets)
    else:  # a header with every name would be large; without alpha none is needed
        targets = "|".join(map(re.escape, lora))
        lora = {name: layer.folded() for name, layer in lora.items()}
    rank, alpha = common_rank_and_alpha(lora)
    others = {f"^{re.escape(name)}": v.rank for name, v in lora.items() if v.rank != rank}
    _inject(
        family.denoiser,
        r=rank,
        lora_alpha=alpha,
        rank_pattern=others,
        alpha_pattern=others,  # where ranks differ, the strength is part of `up`
        target_modules=targets,
        use_dora=any(layer.magnitude is not None for layer in lora.values()),
    )
    for name, layer in lora.items():
        adapted: Any = family.denoiser.get_submodule(name)
        adapted.lora_A[ADAPTER].weight.copy_(layer.down)
        adapted.lora_B[ADAPTER].weight.copy_(layer.up)
        if layer.magnitude is not None:
            magnitude = adapted.lora_magnitude_vector[ADAPTER].weight
            magnitude.copy_(layer.magnitude.reshape(magnitude.shape))


@torch.no_grad()
def _inject(denoiser: Any, **configuration: Any) -> None:
    """Add adapters whose weights are in float32 whatever those of the layers are.

    peft gives them the type of the layers. DoRA's magnitudes are measured again in float32, in
    which its forward pass measures norms too, so that at the start their quotient is 1; that of
    convolutions only without autocast: in bf16 a tiny SD was off by 1.5 % there.
    """
    from peft import LoraConfig
    from peft.tuners.lora import LoraLayer

    denoiser.add_adapter(LoraConfig(**configuration), ADAPTER)
    for layer in denoiser.modules():
        if not isinstance(layer, LoraLayer):
            continue
        down, up = layer.lora_A[ADAPTER].float(), layer.lora_B[ADAPTER].float()
        if ADAPTER in layer.lora_magnitude_vector:
            magnitude: Any = layer.lora_magnitude_vector[ADAPTER]
            magnitude.update_layer(
                base_layer=layer.get_base_layer(),
                lora_A=down.weight,
                lora_B=up.weight,
                scaling=layer.scaling[ADAPTER],
            )
            magnitude.float()
            if magnitude.weight.ndim > 1:
                magnitude.forward = _without_autocast(magnitude.forward)


def _without_autocast(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def exact(x: Tensor, **options: Any) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return forward(x, **options)

    return exact


def provenance_labels(
    recipe: Recipe, family: Family, step: int, data_fingerprint: str, run: Path
) -> dict[str, str]:
    """Return what the header of a LoRA file says of where it comes from.

    Args:
        recipe: of the run.
        family: the model.
        step: updates made.
        data_fingerprint: of what was learnt from.
        run: the run's directory, which holds the LoRA that it started from.
    """
    labels = {
        "vipo.base": recipe.model.name,
        "vipo.base_fingerprint": fingerprint_parts(family, [family.denoiser_name]),
        "vipo.pipeline": type(family.pipeline).__name__,
        "vipo.target": family.target,
        "vipo.resolution": f"{family.size.width}x{family.size.height}",
        "vipo.method": recipe.objective.method,
        "vipo.objective": _compact(recipe.objective.model_dump()),
        "vipo.data": recipe.data.name,
        "vipo.data_fingerprint": data_fingerprint,
        "vipo.step": str(step),
        "vipo.recipe": _compact(recipe.model_dump()),
    }
    config = getattr(family.pipeline, family.denoiser_name).config
    if "layers_per_block" in config:  # UNets are numbered by it in other programs' names
        labels["vipo.layers_per_block"] = str(config.layers_per_block)
    return labels | {f"vipo.{key}": value for key, value in named_start(recipe, run).items()}


def named_start(recipe: Recipe, run: Path) -> dict[str, str]:
    """Return by which name and with which content a run's start_from was given, if it was."""
    if recipe.model.start_from is None:
        return {}
    return {
        "start_from": recipe.model.start_from,
        "start_from_fingerprint": file_fingerprint(run / START_FILE),
    }


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), default=str)


def load_adapter(family: Family, file: Path, name: str) -> None:
    """Load a LoRA into a pipeline as plain diffusers does, after checking that it fits.

    Raises:
        ModelError: it is damaged, or not for this model.
    """
    check_lora(file, family.pipeline)
    with warnings.catch_warnings():
        # a second adapter is meant: what training started from
        warnings.filterwarnings("ignore", "Already found a `peft_config` attribute")
        family.pipeline.load_lora_weights(
            str(file.parent), weight_name=file.name, adapter_name=name
        )


def adapter_tensors(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return trained adapter weights under the names that diffusers reads after the denoiser's."""
    magnitude = ".lora_magnitude_vector"
    return {
        name.replace(f"{magnitude}.{ADAPTER}.weight", magnitude).replace(f".{ADAPTER}.", "."): value
        for name, value in weights.items()
    }


def save_lora(
    folder: Path, family: Family, weights: Mapping[str, Tensor], labels: Mapping[str, str]
) -> None:
    """Write trained adapters so that plain diffusers loads them, with their provenance.

    Args:
        folder: where the file goes.
        family: the model, which knows rank, alpha and targets.
        weights: the trained ones, by their names in the denoiser.
        labels: provenance for the header.
    """
    from safetensors.torch import save_file

    part = family.denoiser_name
    config = getattr(family.pipeline, part).peft_config[ADAPTER]
    tensors = {
        f"{part}.{name}": value.detach().cpu().contiguous()
        for name, value in adapter_tensors(weights).items()
    }
    header = {"format": "pt", "vipo.version": __version__, **labels}
    if config.lora_alpha != config.r:  # where they are the same, the shapes say all
        said = {
            "r": config.r,
            "lora_alpha": config.lora_alpha,
            "target_modules": sorted(config.target_modules),
            "use_dora": config.use_dora,
        }
        header[METADATA] = json.dumps({f"{part}.{key}": value for key, value in said.items()})
    save_file(tensors, folder / LORA_FILE, metadata=header)
