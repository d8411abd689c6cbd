"""Media that models draw for prompts, each kept as a file of its own until a data set holds it.

    pairs.drawn/about.json               what is drawn; another drawing has another folder
    pairs.drawn/00/0001/0001234.png      of the first model; clips are animated PNG

Each medium starts from noise that `torch.Generator().manual_seed(seed)` gives on the CPU, whatever
stands beside it. Batches are cut the same way every time and by any number of processes, and one
that lacks a medium is drawn again whole, so that what was interrupted equals what was not.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vipo_cli.building.team import is_mine, wait_for_team
from vipo_cli.errors import DataError
from vipo_cli.evaluation.generate import is_whole, load_target
from vipo_cli.evaluation.target import Target, find_target, target_fingerprint
from vipo_cli.media import Pixels
from vipo_cli.models import Family, family_of
from vipo_cli.models.draw import drawer
from vipo_cli.models.sample import fitting_batch_size
from vipo_cli.run import Progress, Work, write_json, writing
from vipo_cli.training.sampling import encoded

ABOUT = "about.json"


@dataclass(frozen=True, slots=True)
class Sampling:
    """How media are drawn.

    Attributes:
        seed: base seed; each medium's own derives from it.
        steps: denoising steps; None: as the model wants.
        guidance: guidance scale; likewise.
        precision: floating-point type of the weights.
        batch_size: media drawn at once; None fits it to their size.
    """

    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    precision: str = "fp32"
    batch_size: int | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """One medium to draw: for which prompt, from which seed."""

    prompt: str
    seed: int


@dataclass(frozen=True, slots=True)
class Artist:
    """A model that draws.

    Attributes:
        target: the model.
        identity: fingerprint of its weights.
        steps, guidance: how it samples.
    """

    target: Target
    identity: str
    steps: int
    guidance: float

    @property
    def label(self) -> str:
        """How data sets call it."""
        return self.target.label

    def document(self) -> dict[str, Any]:
        """Return what a manifest says of it."""
        return {
            "model": self.label,
            "fingerprint": self.identity,
            "steps": self.steps,
            "guidance": self.guidance,
        }


def find_artists(names: Sequence[str], sampling: Sampling) -> list[Artist]:
    """Return the models of some names.

    Raises:
        DataError: none, the same twice, or a folder of pictures.
        ModelError, UnknownName, VipoError: no such model, or a damaged one.
    """
    if not names:
        raise DataError("no model to draw with", hint="--model NAME, once for each")
    found = []
    for name in names:
        target = find_target(name)
        if target.spec is None:
            raise DataError(f"`{name}` is a folder of pictures, and draws nothing")
        steps = sampling.steps or target.spec.sampling_steps
        guidance = target.spec.guidance if sampling.guidance is None else sampling.guidance
        found.append(Artist(target, target_fingerprint(target), steps, guidance))
    labels = [artist.label for artist in found]
    if twice := {label for label in labels if labels.count(label) > 1}:
        raise DataError(
            f"the model `{twice.pop()}` is named twice",
            hint="several media of one model: --per-prompt N",
        )
    return found


def drawn_folder(out: Path) -> Path:
    """Return where media lie that are drawn for a data set that is not there yet."""
    return out.with_name(f"{out.name}.drawn")


def medium_file(folder: Path, artist: int, number: int) -> Path:
    """Return the file of a model's medium, by the number of its job."""
    return folder / f"{artist:02d}" / f"{number // 1000:04d}" / f"{number:07d}.png"


def draw_all(
    artists: Sequence[Artist],
    jobs: Sequence[Sequence[Job]],
    sampling: Sampling,
    folder: Path,
    about: Any,
) -> Work[None]:
    """Draw what is missing; every process its share.

    Args:
        artists: the models.
        jobs: what each of them is to draw.
        sampling: how.
        folder: where to.
        about: what changes whenever another medium would be drawn, as JSON.

    Raises:
        DataError: the folder holds other media.
    """
    _claim(folder, about)
    for number, (artist, own) in enumerate(zip(artists, jobs, strict=True)):
        missing = {
            place for place in range(len(own)) if not is_whole(medium_file(folder, number, place))
        }
        if missing:
            yield from _draw(artist, own, missing, sampling, folder, number)
    wait_for_team()


def forget_drawn(folder: Path) -> None:
    """Remove drawn media that a data set holds by now."""
    shutil.rmtree(folder, ignore_errors=True)


def _claim(folder: Path, about: Any) -> None:
    file = folder / ABOUT
    if not file.is_file():
        write_json(file, about)
    elif json.loads(file.read_text()) != json.loads(json.dumps(about)):
        raise DataError(
            f"`{folder}` holds media that were drawn for something else",
            hint=f"choose another --out, or remove it: rm -r {folder}",
        )


def _draw(
    artist: Artist,
    jobs: Sequence[Job],
    missing: set[int],
    sampling: Sampling,
    folder: Path,
    number: int,
) -> Work[None]:
    """Draw the missing media of one model."""
    stage = f"drawing with {artist.label}"
    yield Progress(stage, 0, len(jobs))
    pipeline = load_target(artist.target, sampling.precision)
    family = family_of(pipeline)
    size = sampling.batch_size or (1 if family is None else fitting_batch_size(family.size))
    draw = _by_pipeline(pipeline, artist) if family is None else _by_family(family, artist)
    # the same cut for any number of processes
    batches = [range(first, min(first + size, len(jobs))) for first in range(0, len(jobs), size)]
    own = [batch for index, batch in enumerate(batches) if is_mine(index)]
    todo = [batch for batch in own if not missing.isdisjoint(batch)]
    total = sum(map(len, own))
    done = total - sum(map(len, todo))
    for batch in todo:
        for place, pixels in zip(batch, draw([jobs[place] for place in batch]), strict=True):
            if place in missing:
                with writing(medium_file(folder, number, place)) as temporary:
                    temporary.write_bytes(encoded(pixels))
        done += len(batch)
        yield Progress(stage, done, total)
    del pipeline, family, draw
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # the next model needs the room


Draw = Callable[[Sequence[Job]], list[Pixels]]


def _by_family(family: Family, artist: Artist) -> Draw:
    """Draw from noise that training can make again from the seed alone."""
    draw = drawer(family, steps=artist.steps, guidance=artist.guidance)
    return lambda jobs: draw([job.prompt for job in jobs], [job.seed for job in jobs])


def _by_pipeline(pipeline: Any, artist: Artist) -> Draw:
    """Draw with a pipeline of a kind that is not known better; pictures only."""

    @torch.inference_mode()
    def draw(jobs: Sequence[Job]) -> list[Pixels]:
        found = pipeline(
            prompt=[job.prompt for job in jobs],
            num_inference_steps=artist.steps,
            guidance_scale=artist.guidance,
            generator=[torch.Generator().manual_seed(job.seed) for job in jobs],
        )
        return [np.asarray(picture.convert("RGB")) for picture in found.images]

    return draw
