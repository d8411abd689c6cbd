"""Validation samples: what the policy draws for the same prompts from the same noise as it learns.

    samples/step-000000/00.png     the base's, before the first step; clips are animated WebP
    samples/step-000250/00.png     the policy's, at each measurement
    samples.jsonl                  prompt, seed, file and statistics of each
    samples.png                    the base's and the latest, one prompt a column

Sample i starts from the noise of `torch.Generator().manual_seed(i)` on the CPU, as it would in the
pipeline itself. Where a run keeps a moving average of the weights, that is what draws, as it is
what its checkpoints hold.
"""

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from vipo_cli.analysis.pictures import Change, compare_pictures, picture_statistics
from vipo_cli.media import Pixels, encode_png, enlarge, stills
from vipo_cli.models.sample import decode_latents, sample_latents, size_of
from vipo_cli.run import Work, read_lines, writing
from vipo_cli.training.devices import is_main, shared_out
from vipo_cli.training.prompts import Prompts, Sampler, sampler_of
from vipo_cli.training.sampling import FRAME_RATE, told_of
from vipo_cli.training.setup import Setup

Rows = NDArray[np.int64]

STAGE = "drawing samples"
TOGETHER = 2**18
"""Pixels that are drawn at once, one sample at least: training leaves little room."""
ROWS, COLUMNS = 4, 12
"""Measurements that the sheet shows below the base, the latest last, and prompts."""
CELL, GAP, LABEL, HEADER = 160, 6, 72, 52
"""Of the sheet, in pixels: side of a picture, space between, width of labels, height of prompts."""
INK = "#1c1c22"


@dataclass(frozen=True, slots=True)
class Drawn:
    """The samples of a step.

    Attributes:
        pictures: what was drawn, in the order of the prompts.
        changes: how their statistics differ from the base's; None for the base itself.
    """

    pictures: tuple[Pixels, ...]
    changes: dict[str, Change] | None

    def document(self) -> dict[str, Any]:
        """Return what is recorded of them."""
        assert self.changes is not None
        statistics = {name: change.document() for name, change in self.changes.items()}
        return {"n": len(self.pictures), "statistics": statistics}


def draw_samples(setup: Setup, run: Path, step: int) -> Work[Drawn]:
    """Draw the samples of a step, write them down and set them against the base's.

    What was there of this step or a later one is replaced.
    """
    prompts, sampler = setup.prompts, sampler_of(setup.recipe)
    assert prompts is not None
    blocks = list(_blocks(setup, prompts))
    drawn = yield from shared_out(STAGE, blocks, partial(_draw, setup, prompts, sampler))
    pictures: dict[int, Pixels] = {}
    for numbers, found in zip(blocks, drawn, strict=True):
        pictures.update(zip(numbers, found, strict=True))
    ordered = tuple(pictures[number] for number in range(len(prompts)))
    statistics = [picture_statistics(picture) for picture in ordered]
    known = [line for line in read_lines(run / "samples.jsonl") if line["step"] < step]
    base = [line for line in known if line["step"] == 0]
    changes = None
    if [line["prompt"] for line in base] == list(prompts.texts):
        changes = compare_pictures([line["statistics"] for line in base], statistics)
    if is_main():
        lines = _write(run, step, prompts.texts, ordered, statistics)
        _write_lines(run, [*known, *lines])
        write_sheet(run)
    return Drawn(ordered, changes)


def _blocks(setup: Setup, prompts: Prompts) -> Iterator[list[int]]:
    """Yield the numbers of prompts whose samples are of one size, few enough to draw at once."""
    for shape in dict.fromkeys(prompts.shapes):
        size = size_of(setup.family, shape)
        together = max(1, TOGETHER // (size.width * size.height * size.frames))
        numbers = [number for number, own in enumerate(prompts.shapes) if own == shape]
        for first in range(0, len(numbers), together):
            yield numbers[first : first + together]


@torch.no_grad()
def _draw(setup: Setup, prompts: Prompts, sampler: Sampler, numbers: list[int]) -> list[Pixels]:
    """Draw some samples at once, and decode them one by one."""
    shape, device = prompts.shapes[numbers[0]], setup.accelerator.device
    generators = [torch.Generator().manual_seed(number) for number in numbers]
    noise = torch.stack([torch.randn(shape, generator=each) for each in generators]).to(device)
    rows = prompts.rows[numbers]
    told = told_of(setup, shape, len(numbers))
    condition = {name: values.read(rows).to(device) for name, values in prompts.conditions.items()}
    nothing = setup.encoded.condition(np.full(len(numbers), -1))
    empty = {name: values.to(device) for name, values in nothing.items()}
    with ExitStack() as stack:
        stack.enter_context(setup.accelerator.autocast())
        if setup.average is not None:
            stack.enter_context(setup.average.in_place())
        latents = sample_latents(
            setup.family,
            noise,
            condition | told,
            empty | told,
            generators,
            steps=sampler.steps,
            guidance=sampler.guidance,
        )
    with _in_parts(setup.family.pipeline.vae, clips=len(shape) > 3):
        return [
            picture
            for number in range(len(numbers))
            for picture in decode_latents(setup.family, latents[number : number + 1])
        ]


@contextmanager
def _in_parts(vae: Any, *, clips: bool) -> Iterator[None]:
    """Let an autoencoder decode clips tile by tile where it can, which takes far less memory.

    It is as it was afterwards: tiles blend into each other, and rewards are to see what they saw.
    """
    tile = clips and hasattr(vae, "enable_tiling") and not getattr(vae, "use_tiling", False)
    if tile:
        vae.enable_tiling()
    try:
        yield
    finally:
        if tile:
            vae.disable_tiling()


def _write(
    run: Path,
    step: int,
    texts: Sequence[str],
    pictures: Sequence[Pixels],
    statistics: Sequence[dict[str, float]],
) -> list[dict[str, Any]]:
    """Write the samples of a step to a folder of their own; return what is to be said of them."""
    lines = []
    with writing(run / "samples" / f"step-{step:06d}") as folder:
        folder.mkdir(parents=True)
        for number, (text, picture) in enumerate(zip(texts, pictures, strict=True)):
            name = f"{number:02d}.{'png' if picture.ndim == 3 else 'webp'}"
            (folder / name).write_bytes(encoded(picture))
            lines.append(
                {
                    "step": step,
                    "prompt": text,
                    "seed": number,
                    "file": f"samples/step-{step:06d}/{name}",
                    "statistics": statistics[number],
                }
            )
    return lines


def encoded(pixels: Pixels) -> bytes:
    """Return a picture as PNG, or a clip as animated WebP, which is a tenth of the size."""
    if pixels.ndim == 3:
        return encode_png(pixels)
    first, *rest = (Image.fromarray(frame) for frame in pixels)
    buffer = io.BytesIO()
    duration = round(1000 / FRAME_RATE)
    options: dict[str, Any] = {"quality": 90, "method": 2, "loop": 0, "duration": duration}
    first.save(buffer, format="WEBP", save_all=True, append_images=rest, **options)
    return buffer.getvalue()


def _write_lines(run: Path, lines: Sequence[dict[str, Any]]) -> None:
    with writing(run / "samples.jsonl") as file:
        file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def forget_samples(run: Path, step: int) -> None:
    """Leave the samples of later steps out of what is told of a run that goes on from a step."""
    lines = read_lines(run / "samples.jsonl")
    kept = [line for line in lines if line["step"] <= step]
    if len(kept) == len(lines):
        return
    _write_lines(run, kept)
    if kept:
        write_sheet(run)
    else:
        (run / "samples.png").unlink(missing_ok=True)


def write_sheet(run: Path) -> None:
    """Write `samples.png`: a prompt a column, the base's sample above those measured last."""
    lines = read_lines(run / "samples.jsonl")
    steps = sorted({line["step"] for line in lines})
    shown = [step for step in steps if step in (steps[0], *steps[-ROWS:])]
    rows = [[line for line in lines if line["step"] == step][:COLUMNS] for step in shown]
    width = LABEL + len(rows[-1]) * (CELL + GAP)
    sheet = Image.new("RGB", (width, HEADER + len(rows) * (CELL + GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, line in enumerate(rows[-1]):
        place = (LABEL + column * (CELL + GAP), GAP)
        draw.multiline_text(place, _wrapped(line["prompt"]), INK, _font(), spacing=2)
    for number, row in enumerate(rows):
        top = HEADER + number * (CELL + GAP)
        step = row[0]["step"]
        draw.text((GAP, top + CELL // 2), f"step {step}" if step else "base", INK, _font())
        for column, line in enumerate(row):
            sheet.paste(_cell(run, line), (LABEL + column * (CELL + GAP), top))
    with writing(run / "samples.png") as temporary:
        sheet.save(temporary, format="PNG", compress_level=3)


def _cell(run: Path, line: dict[str, Any]) -> Image.Image:
    """Return a sample, or the middle of one that moves, in a cell of its own."""
    frames = stills((run / line["file"]).read_bytes())
    picture = enlarge(frames[len(frames) // 2], CELL)
    picture.thumbnail((CELL, CELL))
    cell = Image.new("RGB", (CELL, CELL), "white")
    cell.paste(picture, ((CELL - picture.width) // 2, (CELL - picture.height) // 2))
    return cell


def _wrapped(text: str) -> str:
    """Break a prompt into lines as wide as a cell, three at most."""
    font, lines = _font(), [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= CELL or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines[:3]) + (" ..." if len(lines) > 3 else "")


def _font() -> Any:
    return ImageFont.load_default(11.5)
