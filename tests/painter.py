"""A stand-in for a trained pipeline: draws what a caption of the shapes world asks for, or errs."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from vipo_cli.shapes.captions import draw_scene, parse_caption, perturb
from vipo_cli.shapes.scene import render


class Pictures:
    def __init__(self, images):
        self.images = images


class Painter:
    """Right with the chance `skill`; the same seed and prompt always give the same picture."""

    vae_scale_factor = 4

    def __init__(self, skill):
        self.skill = skill
        self.calls = []

    class unet:  # noqa: N801 - as pipelines name it
        class config:  # noqa: N801
            sample_size = 8

    def __call__(self, prompt, num_inference_steps, guidance_scale, generator):
        self.calls.append(prompt)
        return Pictures([self._paint(*each) for each in zip(prompt, generator, strict=True)])

    def _paint(self, prompt, generator):
        rng = np.random.default_rng(generator.initial_seed())
        caption = parse_caption(prompt)
        if rng.random() >= self.skill:
            caption = perturb(rng, caption)
        return Image.fromarray(render(draw_scene(rng, caption)))


def write_base(folder: Path) -> Path:
    """Write a folder that passes for a pipeline."""
    folder.mkdir(parents=True)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "Painter"}))
    return folder


def write_lora(file: Path, base: str | None = None) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({"a": torch.ones(4, 4)}, file, metadata={"vipo.base": base} if base else None)
    return file


def write_run(folder: Path, base: Path, steps=(500,)) -> Path:
    """Write a run directory with a LoRA checkpoint for each step."""
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(f"model:\n  name: {base}\n  train: lora\n")
    for step in steps:
        checkpoint = folder / "checkpoints" / f"step-{step:06d}"
        write_lora(checkpoint / "pytorch_lora_weights.safetensors", str(base))
    return folder
