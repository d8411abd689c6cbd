"""The models behind VBench's native dimensions, loaded from official checkpoints."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from vipo_cli.benchmarks.vbench_native import (
    PREPROCESSING,
    AestheticQuality,
    AppearanceStyle,
    ClipEmbedder,
    Consistency,
    DinoEmbedder,
    Scorer,
    TemporalFlickering,
    dino_positions,
)
from vipo_cli.errors import ModelError, VipoError
from vipo_cli.rewards.clip import WEIGHTS, OpenaiClip, openai_clip
from vipo_cli.rewards.options import torch_device
from vipo_cli.rewards.words import read_clip_words
from vipo_cli.run import fingerprint
from vipo_cli.weights import SOURCES, File, Source, content, find, is_here, read_tensors

DINO = SOURCES["dino-b16"]
DINO_PICKLE = Source(
    "dino-b16",
    "facebook/dino-vitb16",
    (File("config.json", 500), File("pytorch_model.bin", 343_000_000)),
    "Apache-2.0",
)
HEAD = "aesthetic-linear"


def load_scorer(dimension: str, weights: Path | None = None, device: str = "auto") -> Scorer:
    """Load what judges a dimension.

    Args:
        dimension: one of `NATIVE`.
        weights: a folder with a folder for each model by the name that vipo gives it (dino-b16,
            clip-b, clip-l, aesthetic-linear); by default the hub's cache, or the hub.
        device: where to run; auto: on a GPU if there is one.

    Raises:
        MissingWeights: they are neither here nor to be had.
        ModelError: they are damaged, or another model's.
        VipoError: the dimension is not judged natively.
    """
    if dimension not in NATIVE:
        raise VipoError(
            f"`{dimension}` is not judged without the official package",
            hint=f"natively: {', '.join(NATIVE)}",
        )
    return NATIVE[dimension](weights, device)


def _flickering(weights: Path | None, device: str) -> Scorer:  # noqa: ARG001
    return TemporalFlickering()


def _subject(weights: Path | None, device: str) -> Scorer:
    file, model = _dino(_place(weights, DINO.name), device)
    identity = _identity("subject_consistency", file)
    return Consistency("subject_consistency", identity, DinoEmbedder(model))


def _background(weights: Path | None, device: str) -> Scorer:
    clip = _clip("clip-b", weights, device)
    identity = _identity("background_consistency", clip.files[WEIGHTS])
    return Consistency("background_consistency", identity, ClipEmbedder(clip.model))


def _style(weights: Path | None, device: str) -> Scorer:
    clip = _clip("clip-b", weights, device)
    words = read_clip_words(clip.vocabulary, clip.length)
    embed = ClipEmbedder(clip.model, words, pillow=True)
    identity = _identity("appearance_style", clip.files[WEIGHTS])
    scale = float(clip.model.logit_scale.float().exp())
    return AppearanceStyle(identity, embed, embed.text, scale)


def _aesthetic(weights: Path | None, device: str) -> Scorer:
    clip = _clip("clip-l", weights, device)
    [file] = find(SOURCES[HEAD], _place(weights, HEAD)).values()
    identity = _identity("aesthetic_quality", clip.files[WEIGHTS], file)
    width = clip.model.config.projection_dim
    return AestheticQuality(identity, ClipEmbedder(clip.model), _head(file, width))


NATIVE: dict[str, Callable[[Path | None, str], Scorer]] = {
    "subject_consistency": _subject,
    "background_consistency": _background,
    "temporal_flickering": _flickering,
    "aesthetic_quality": _aesthetic,
    "appearance_style": _style,
}
"""Dimensions that are judged without the official package, and who loads them."""


def _place(weights: Path | None, name: str) -> str | None:
    return None if weights is None else str(weights / name)


def _clip(name: str, weights: Path | None, device: str) -> OpenaiClip:
    return openai_clip(name, _place(weights, name), device, "fp32")


def _identity(dimension: str, *files: Path) -> str:
    return fingerprint([dimension, [content(file) for file in files], PREPROCESSING, "float32"])


def _dino(place: str | None, device: str) -> tuple[Path, Any]:
    """Load DINO ViT-B/16 in float32, from safetensors or the pickle that some mirrors hold."""
    import torch
    from transformers import ViTConfig, ViTModel

    source = DINO_PICKLE if is_here(DINO_PICKLE, place) and not is_here(DINO, place) else DINO
    files = find(source, place)
    (file,) = (place for name, place in files.items() if name != "config.json")
    try:
        config = ViTConfig.from_json_file(str(files["config.json"]))
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"cannot read `{files['config.json']}`: {error}") from error
    model: Any = ViTModel(config, add_pooling_layer=False)
    model, report = _filled(model, file)
    if report:
        raise ModelError(
            f"`{file}` holds other weights than DINO's",
            details=report[:5],
            hint=f"give the files of {DINO.repository}",
        )
    placed = model.to(torch_device(device), torch.float32).eval().requires_grad_(False)
    return file, with_dino_positions(placed)


def with_dino_positions(model: Any) -> Any:
    """Let a model of transformers scale its embeddings of positions as DINO's own code does."""
    model.embeddings.interpolate_pos_encoding = partial(dino_positions, model.embeddings)
    return model


def _filled(model: Any, file: Path) -> tuple[Any, list[str]]:
    """Load a model of transformers by its own conversion of names; say what is missing."""
    tensors = read_tensors(file)
    loaded, report = type(model).from_pretrained(
        None,
        config=model.config,
        state_dict=tensors,
        add_pooling_layer=False,
        output_loading_info=True,
    )
    return loaded, [f"missing: {name}" for name in sorted(report["missing_keys"])]


def _head(file: Path, width: int) -> Any:
    """Load LAION's linear head for embeddings of a width."""
    import torch

    head = torch.nn.Linear(width, 1)
    try:
        head.load_state_dict(read_tensors(file))
    except RuntimeError as error:
        raise ModelError(
            f"`{file}` is not LAION's linear head for CLIP ViT-L/14",
            hint="its file is sa_0_4_vit_l_14_linear.pth",
        ) from error
    return head.float().eval().requires_grad_(False)
