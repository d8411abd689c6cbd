"""GenEval's detector: Mask2Former Swin-S as MMDetection trained it, run by transformers.

The deformable attention is plain PyTorch and so the same on every device, where the compiled one of
MMDetection finds next to nothing on some GPUs. Pictures are prepared as by MMDetection 2, which the
benchmark is published with: padding is grey before normalisation (version 3 pads with the mean).
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from vipo_cli.benchmarks.bilinear import fitting, resize
from vipo_cli.benchmarks.clip_colours import ColourNamer, load_namer
from vipo_cli.benchmarks.detection import Detection
from vipo_cli.benchmarks.instances import Side, instances
from vipo_cli.benchmarks.mask2former_names import (
    HEADS,
    converted,
    respelled,
    shape_of,
)
from vipo_cli.errors import ModelError
from vipo_cli.run import fingerprint
from vipo_cli.vocabulary import OBJECTS
from vipo_cli.weights import (
    SOURCES,
    content,
    find,
    find_all,
    is_here,
    may_fetch,
    missing,
    read_tensors,
)

VERSION = 1
"""Raised whenever the same picture may be judged differently."""

LONGEST, SHORTEST = 1333, 800
DIVISOR = 32
PADDING = 128
MEAN = np.array([123.675, 116.28, 103.53], np.float32).astype(np.float64)
SPREAD = np.array([58.395, 57.12, 57.375], np.float32).astype(np.float64)

Precision = Literal["fp32", "bf16", "fp16"]


def mask2former(
    *,
    weights: Annotated[
        str | None, Field(description="MMDetection's checkpoint; by default vipo's cache.")
    ] = None,
    clip: Annotated[
        str | None, Field(description="Folder with CLIP ViT-L/14; by default the hub's cache.")
    ] = None,
    device: Annotated[
        str, Field(description="Where to run; auto: on a GPU if there is one.")
    ] = "auto",
    precision: Annotated[
        Precision, Field(description="What the detector multiplies in; masks stay in fp32.")
    ] = "fp32",
    batch_size: Annotated[int, Field(ge=1, description="Pictures looked at at once.")] = 4,
    least_score: Annotated[
        float, Field(ge=0, lt=1, description="Classes less likely are no object; GenEval's bound.")
    ] = 0.3,
) -> "Mask2Former":
    """Mask2Former Swin-S on COCO's 80 classes, colours by CLIP ViT-L/14: GenEval's own judge."""
    checkpoint, model, tokenizer = _files(weights, clip)
    if device == "auto":
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
    identity = {
        "detector": "mask2former",
        "version": VERSION,
        "weights": content(checkpoint),
        "clip": content(model / "model.safetensors"),
        "precision": precision,
        "least_score": least_score,
    }
    return Mask2Former(
        fingerprint(identity),
        load_network(checkpoint).to(device),
        load_namer(model, tokenizer, device),
        precision,
        batch_size,
        least_score,
    )


@dataclass(frozen=True, slots=True)
class Mask2Former:
    """Finds what COCO has a name for, and names its colours."""

    fingerprint: str
    network: Any
    namer: ColourNamer
    precision: Precision
    batch_size: int
    least_score: float
    name: str = "mask2former"

    def detect(self, picture: Image.Image) -> list[Detection]:
        """Return the objects in a picture, with their masks."""
        return self.detect_batch([picture])[0]

    def detect_batch(self, pictures: Sequence[Image.Image]) -> list[list[Detection]]:
        """Return the objects in each picture; pictures of one size are looked at together."""
        found: dict[int, list[Detection]] = {}
        sizes = [picture.size for picture in pictures]
        for size in dict.fromkeys(sizes):
            alike = [index for index, other in enumerate(sizes) if other == size]
            for start in range(0, len(alike), self.batch_size):
                batch = alike[start : start + self.batch_size]
                found |= zip(batch, self._detect([pictures[i] for i in batch]), strict=True)
        return [found[index] for index in range(len(pictures))]

    def _detect(self, pictures: Sequence[Image.Image]) -> list[list[Detection]]:
        prepared = [prepare(picture) for picture in pictures]
        pixels, scaled = np.stack([pixels for pixels, _ in prepared]), prepared[0][1]
        classes, masks = predict(self.network, pixels, self.precision)
        padded = (pixels.shape[2], pixels.shape[3])
        original = (pictures[0].height, pictures[0].width)
        return [
            [
                Detection(OBJECTS[found.label], found.score, found.box, found.mask)
                for found in instances(*said, padded, scaled, original, self.least_score)
            ]
            for said in zip(classes, masks, strict=True)
        ]

    def colour(self, picture: Image.Image, detection: Detection) -> str:
        """Return the colour that CLIP gives an object, its surroundings turned grey."""
        return self.namer.colour(picture, detection)


def prepare(picture: Image.Image) -> tuple[NDArray[np.float32], Side]:
    """Return a picture as the network takes it, (3, height, width), and its size without padding.

    It is scaled to fit 1333 by 800, padded at the right and below to whole 32 pixels, normalised.
    """
    width, height = fitting(*picture.size, LONGEST, SHORTEST)
    scaled = resize(np.asarray(picture.convert("RGB")), width, height)
    bottom, right = -height % DIVISOR, -width % DIVISOR
    padded = np.pad(scaled, ((0, bottom), (0, right), (0, 0)), constant_values=PADDING)
    normalised = ((padded - MEAN) * (1 / SPREAD)).astype(np.float32)
    return np.ascontiguousarray(normalised.transpose(2, 0, 1)), (height, width)


def predict(network: Any, pixels: NDArray[np.float32], precision: Precision) -> tuple[Any, Any]:
    """Return for each picture and query the logits of all classes, and those of a mask."""
    import torch

    model, classes = network["model"], network["classes"]
    device = next(network.parameters()).device
    types = {"bf16": torch.bfloat16, "fp16": torch.float16}
    lower = torch.autocast(device.type, types[precision]) if precision in types else nullcontext()
    with torch.inference_mode(), lower:
        said = model(torch.from_numpy(pixels).to(device))
        queries = model.transformer_module.decoder.layernorm(
            said.transformer_decoder_last_hidden_state
        )
        return classes(queries).float(), said.masks_queries_logits[-1].float()


def load_network(checkpoint: Path) -> Any:
    """Build the network that MMDetection's checkpoint is of, in float32 on the CPU.

    Raises:
        ModelError: the checkpoint is damaged, or of something else.
    """
    digits = re.search(r"-([0-9a-f]{8})\.pth$", checkpoint.name)
    if digits and not content(checkpoint).startswith(digits[1]):
        raise ModelError(
            f"`{checkpoint}` is not the file of that name: its SHA-256 does not begin with "
            f"{digits[1]}",
            hint="it may have been cut short: fetch it again",
        )
    tensors = respelled(read_tensors(checkpoint, "state_dict"))
    shape = shape_of(tensors)
    if (classes := shape["classes"]) != len(OBJECTS):
        raise ModelError(
            f"`{checkpoint}` knows {classes} classes, where COCO has {len(OBJECTS)} of things",
            hint="a checkpoint for panoptic segmentation does not do",
        )
    network = blank_network(shape)
    try:
        network.load_state_dict(converted(tensors, network.state_dict()), strict=False)
    except RuntimeError as error:
        raise ModelError(
            f"`{checkpoint}` does not fit the detector", details=str(error).splitlines()[1:6]
        ) from error
    return network.eval().requires_grad_(False)


def blank_network(shape: Mapping[str, Any]) -> Any:
    """Build the network without its weights: masks are the model's own, classes a layer after it.

    Args:
        shape: as `shape_of` reads it off a checkpoint.
    """
    import torch
    from transformers import Mask2FormerConfig, Mask2FormerModel, SwinConfig

    sizes = {name: size for name, size in shape.items() if name not in ("swin", "classes")}
    swin = SwinConfig(**shape["swin"], out_features=[f"stage{stage}" for stage in (1, 2, 3, 4)])
    config = Mask2FormerConfig(backbone_config=swin, num_attention_heads=HEADS, **sizes)
    classes = torch.nn.Linear(config.hidden_dim, shape["classes"] + 1)
    return torch.nn.ModuleDict({"model": Mask2FormerModel(config), "classes": classes})


def _files(weights: str | None, clip: str | None) -> tuple[Path, Path, Path]:
    """Return the detector's checkpoint and the folders of CLIP's model and tokenizer.

    Raises:
        MissingWeights: something is not here and not to be had; all of that is named at once.
    """
    if weights is not None:
        find(SOURCES["mask2former"], weights)  # a wrong path is told before what else is not here
    colours = ("clip-l", "clip-l-tokenizer")
    wanted = {"mask2former": weights} | dict.fromkeys(colours, clip)
    absent = [
        SOURCES[name] for name, path in wanted.items() if not (path or is_here(SOURCES[name]))
    ]
    if absent and not may_fetch():
        raise missing(*absent)
    (checkpoint,) = find(SOURCES["mask2former"], weights).values()
    model, tokenizer = find_all(colours, clip)
    return checkpoint, model["model.safetensors"].parent, tokenizer["tokenizer.json"].parent
