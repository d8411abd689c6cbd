"""Pictures or clips for prompts, each from a seed of its own, in GenEval's official layout."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from vipo_cli.clips import encode_clip, encode_mp4
from vipo_cli.evaluation.target import Target
from vipo_cli.media import encode_png
from vipo_cli.models import Family, family_of, load_pipeline
from vipo_cli.models.draw import drawer, frame_rate
from vipo_cli.models.family import Condition
from vipo_cli.models.lora_files import check_lora
from vipo_cli.models.sample import fitting_batch_size, spatial_factor
from vipo_cli.run import ALONE, Progress, Team, Work, writing

T = TypeVar("T")

PNG_START, PNG_END = b"\x89PNG", b"IEND\xaeB`\x82"
LOSSLESS = 2**20
"""Pixels of all frames up to which a clip is kept without loss, as animated PNG; larger ones are
H.264."""
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class Sampling:
    """How pictures are drawn; all of it but the batch size changes what they show.

    Attributes:
        steps: denoising steps.
        guidance: classifier-free guidance scale.
        seed: base seed; each picture's own seed derives from it.
        images_per_prompt: pictures for each prompt.
        precision: floating-point type of the weights.
        batch_size: pictures drawn at once; None fits it to the picture size.
    """

    steps: int
    guidance: float
    seed: int = 0
    images_per_prompt: int = 2
    precision: str = "fp32"
    batch_size: int | None = None


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture to draw: for which prompt, which of its pictures, from which seed."""

    prompt_index: int
    image_index: int
    prompt: str
    seed: int

    def path(self, folder: Path) -> Path:
        """Return where the picture lies below a folder; a clip as MP4 under the same name."""
        return folder / f"{self.prompt_index:05d}" / "samples" / f"{self.image_index:04d}.png"

    def is_there(self, folder: Path) -> bool:
        """Tell whether it lies below a folder, whole."""
        file = self.path(folder)
        return is_whole(file) or file.with_suffix(".mp4").is_file()


def picture_seed(seed: int, prompt: str, image_index: int) -> int:
    """Return the seed of one picture.

    It depends on the prompt's text and not on its place, so that a subset of a benchmark, another
    batch size and a resumed evaluation all draw the same picture.
    """
    text = json.dumps([seed, prompt, image_index])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def list_pictures(prompts: Mapping[int, str], sampling: Sampling) -> list[Picture]:
    """List all pictures of a benchmark; a text that occurs again gets pictures of its own."""
    seen: dict[str, int] = {}
    pictures = []
    for prompt_index, prompt in prompts.items():
        first = seen.get(prompt, 0)
        seen[prompt] = first + sampling.images_per_prompt
        for image_index in range(sampling.images_per_prompt):
            seed = picture_seed(sampling.seed, prompt, first + image_index)
            pictures.append(Picture(prompt_index, image_index, prompt, seed))
    return pictures


def is_whole(file: Path) -> bool:
    """Tell whether a PNG is there and ends as a PNG must."""
    try:
        with file.open("rb") as stream:
            stream.seek(-len(PNG_END), 2)
            return stream.read() == PNG_END
    except OSError:
        return False


def generate(
    target: Target,
    metadata: Mapping[int, dict[str, Any]],
    sampling: Sampling,
    out: Path,
    team: Team = ALONE,
) -> Work[int]:
    """Draw the pictures that are missing, of a team's this process's share; return how many.

    Whole pictures that are there already are kept. Batches are cut the same way every time and one
    that lacks a picture is drawn again whole, so that an evaluation that was interrupted equals one
    that was not, to the bit. Another batch size starts from the same noise and differs by the
    rounding of floating-point sums alone.
    """
    prompts = {index: str(record["prompt"]) for index, record in metadata.items()}
    for index, record in metadata.items():
        _write_metadata(out / f"{index:05d}" / "metadata.jsonl", record)
    pictures = list_pictures(prompts, sampling)
    missing = {picture for picture in pictures if not picture.is_there(out)}
    if not missing:
        return 0
    done = len(pictures) - len(missing)
    yield Progress("load model", 0, 1)
    pipeline = load_target(target, sampling.precision)
    family = family_of(pipeline)
    draw = _drawer(pipeline, family, sampling)
    yield Progress("generate", done, len(pictures))
    drawn = 0
    cut = batches(pictures, sampling.batch_size or _fitting(family))
    for batch in (batch for number, batch in enumerate(cut) if team.mine(number)):
        if missing.isdisjoint(batch):
            continue
        for picture, data in zip(batch, draw(batch), strict=True):
            if picture in missing:
                file = picture.path(out)
                file = file if data.startswith(PNG_START) else file.with_suffix(".mp4")
                with writing(file) as temporary:
                    temporary.write_bytes(data)
                drawn += 1
        yield Progress("generate", min(done + drawn * team.count, len(pictures)), len(pictures))
    return drawn


def load_target(target: Target, precision: str = "fp32") -> Any:
    """Load the target's pipeline, with its LoRA, onto the fastest device there is."""
    assert target.spec is not None
    pipeline = load_pipeline(target.spec)
    if target.lora is not None:
        check_lora(target.lora, pipeline)
        pipeline.load_lora_weights(str(target.lora.parent), weight_name=target.lora.name)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pipeline.to(device)
    if precision != "fp32":
        pipeline.to(PRECISIONS[precision])
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


Draw = Callable[[Sequence[Picture]], list[bytes]]
"""Draws the media of a batch."""


def _drawer(pipeline: Any, family: Family | None, sampling: Sampling) -> Draw:
    if family is not None and family.size.frames > 1:
        return _clip_drawer(family, sampling)
    embed = _embedder(pipeline, family, sampling)

    def draw(batch: Sequence[Picture]) -> list[bytes]:
        images = _draw(pipeline, batch, sampling, embed)
        return [encode_png(np.asarray(image.convert("RGB"))) for image in images]

    return draw


def _clip_drawer(family: Family, sampling: Sampling) -> Draw:
    draw_pixels = drawer(family, steps=sampling.steps, guidance=sampling.guidance)
    rate = frame_rate(family)

    def draw(batch: Sequence[Picture]) -> list[bytes]:
        prompts, seeds = [each.prompt for each in batch], [each.seed for each in batch]
        small = math.prod(family.size.shape) <= LOSSLESS
        encode = encode_clip if small else encode_mp4
        return [encode(pixels, rate) for pixels in draw_pixels(prompts, seeds)]

    return draw


Embed = Callable[[list[str]], dict[str, Any]]
"""Turns the prompts of a batch into the pipeline's keyword arguments."""


def _embedder(pipeline: Any, family: Family | None, sampling: Sampling) -> Embed:
    """Return how prompts reach this kind of pipeline.

    Where it is known, each distinct text is encoded once, and alone, so that its neighbours cannot
    change its bits.
    """
    if family is None:
        return lambda prompts: {"prompt": prompts}
    known: dict[str, Condition] = {}

    def embed(texts: list[str]) -> Condition:
        for text in texts:
            if text not in known:
                known[text] = family.encode_prompts([text])
        parts = [known[text] for text in texts]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    factor = spatial_factor(pipeline)

    def arguments(prompts: list[str]) -> dict[str, Any]:
        width, height = family.size.width // factor, family.size.height // factor
        shaped = torch.empty(len(prompts), 1, height, width, device="meta")
        empty = embed([""] * len(prompts)) if sampling.guidance > 1 else None
        made = family.sampling_arguments(shaped, embed(prompts), empty)
        return {key: value for key, value in made.items() if key != "latents"}

    return torch.inference_mode()(arguments)


def _fitting(family: Family | None) -> int:
    return 1 if family is None else fitting_batch_size(family.size)


@torch.inference_mode()
def _draw(pipeline: Any, batch: Sequence[Picture], sampling: Sampling, embed: Embed) -> list[Any]:
    """Draw one batch; the noise comes from a CPU generator for each picture."""
    images: list[Any] = pipeline(
        **embed([picture.prompt for picture in batch]),
        num_inference_steps=sampling.steps,
        guidance_scale=sampling.guidance,
        generator=[torch.Generator().manual_seed(picture.seed) for picture in batch],
    ).images
    return images


def batches(media: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Cut media into batches, the same way every time."""
    for start in range(0, len(media), size):
        yield media[start : start + size]


def _write_metadata(file: Path, record: dict[str, Any]) -> None:
    line = json.dumps(record) + "\n"
    if not file.is_file() or file.read_text() != line:
        with writing(file) as temporary:
            temporary.write_text(line)
