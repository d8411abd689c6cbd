"""Native and official backend of a reward on the same pictures: how far are they apart?"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vipo_cli.errors import DataError
from vipo_cli.media import media_bytes
from vipo_cli.rewards import rewards
from vipo_cli.rewards.environments import find_environment, start
from vipo_cli.rewards.official import MED_CONFIG, PATIENCE, OfficialReward, with_backend
from vipo_cli.run import Progress, Work, write_json
from vipo_cli.weights import converted_file

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")

PROMPTS = (
    "a red apple on a wooden table",
    "two dogs, and a cat with two horns on its head",
    "A photo of a COFFEE cup; 35 mm, f/1.8",
    "caf\u00e9 na\u00efve \u2014 \u201cquoted\u201d words",
    "an oil painting of " + "a very long winding road between green hills, " * 12,
    "",
)
"""Short and long ones, and characters that tokenizers trip over."""

SIZES = ((320, 320), (448, 299), (300, 481), (64, 64), (224, 224), (480, 270), (97, 33))


@dataclass(frozen=True, slots=True)
class Sample:
    """A picture and its prompt."""

    name: str
    picture: bytes
    prompt: str


def drawn_samples(prompts: Sequence[str] = PROMPTS, seed: int = 0) -> list[Sample]:
    """Draw pictures of several sizes and kinds, with prompts in turn; the same for a seed."""
    rng = np.random.default_rng(seed)
    samples: list[Sample] = []
    for number, size in enumerate(SIZES):
        picture = _drawn(rng, size)
        kinds: list[tuple[str, Image.Image, str]] = [("rgb", picture, "PNG")]
        if number == 0:
            kinds += [
                ("grey", picture.convert("L"), "PNG"),
                ("palette", picture.quantize(64), "PNG"),
                ("jpeg", picture, "JPEG"),
            ]
        for kind, shown, layout in kinds:
            data = BytesIO()
            shown.save(data, layout, **({"compress_level": 1} if layout == "PNG" else {}))
            prompt = prompts[len(samples) % len(prompts)]
            samples.append(Sample(f"{size[0]}x{size[1]} {kind}", data.getvalue(), prompt))
    return samples


def _drawn(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Draw soft clouds of colour with some grain: neither flat nor mere noise."""
    coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8))
    smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), np.int16)
    grainy = smooth + rng.integers(-24, 25, smooth.shape, np.int16)
    return Image.fromarray(grainy.clip(0, 255).astype(np.uint8))


def read_samples(images: Path, prompts: Sequence[str]) -> list[Sample]:
    """Read the pictures of a folder by name; prompts are used in turn, over and over.

    Raises:
        DataError: there is no picture.
    """
    files = sorted(
        file for file in images.glob("*") if file.suffix.lower() in SUFFIXES and file.is_file()
    )
    if not files:
        raise DataError(f"`{images}` holds no pictures", hint=f"looked for {', '.join(SUFFIXES)}")
    return [
        Sample(file.name, media_bytes(file), prompts[number % len(prompts)])
        for number, file in enumerate(files)
    ]


def read_prompts(file: Path) -> list[str]:
    """Read a prompt from each line that is not empty.

    Raises:
        DataError: it cannot be read, or holds none.
    """
    lines = media_bytes(file).decode(errors="replace").splitlines()
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise DataError(f"`{file}` holds no prompts", hint="write one in each line")
    return prompts


def write_random_weights(name: str, folder: Path, seed: int) -> Path:
    """Let the upstream package write a checkpoint of its own shape with random weights.

    Names and layout are those of the published files, and the vocabulary lies beside them, so both
    backends read the folder as they read the real one. Returns the checkpoint.

    Raises:
        VipoError: the environment is not set up.
    """
    if name == "imagereward":
        write_json(folder / "med_config.json", MED_CONFIG)
        _write_bert_vocabulary(folder)
    request = {"do": "random", "folder": str(folder.absolute()), "seed": seed, "reward": name}
    with start(find_environment(name)) as worker:
        return Path(worker.ask(request, PATIENCE))


def _write_bert_vocabulary(folder: Path) -> None:
    """Write a vocabulary of BERT's size: letters, digits and signs, the rest is never met.

    The real one is not needed for random weights; special pieces have their published places.
    """
    special = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}
    letters = [chr(code) for code in range(33, 127)]
    pairs = [first + second for first in "etaoinshr" for second in "etaoinshr"]
    met = [*letters, *(f"##{piece}" for piece in [*letters, *pairs])]
    vocabulary = {place: f"[unused{place}]" for place in range(30_522)}
    vocabulary |= {1000 + place: piece for place, piece in enumerate(met)} | special
    added = [
        {"id": place, "content": word, "special": True, "normalized": False}
        | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
        for place, word in special.items()
    ]
    ends = {word: {"id": word, "ids": [place], "tokens": [word]} for place, word in
            ((101, "[CLS]"), (102, "[SEP]"))}  # fmt: skip
    pieces = [_special("[CLS]", 0), _sequence("A", 0), _special("[SEP]", 0)]
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": pieces,
            "pair": [*pieces, _sequence("B", 1), _special("[SEP]", 1)],
            "special_tokens": ends,
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {word: place for place, word in vocabulary.items()},
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(document))
    lines = [vocabulary[place] for place in sorted(vocabulary)]
    (folder / "vocab.txt").write_text("\n".join(lines) + "\n")
    write_json(
        folder / "tokenizer_config.json",
        {"do_lower_case": True, "model_max_length": 512, "tokenizer_class": "BertTokenizer"},
    )


def _special(word: str, segment: int) -> dict[str, Any]:
    return {"SpecialToken": {"id": word, "type_id": segment}}


def _sequence(name: str, segment: int) -> dict[str, Any]:
    return {"Sequence": {"id": name, "type_id": segment}}


def parity_of(
    name: str,
    samples: Sequence[Sample],
    *,
    path: str | None = None,
    seed: int | None = None,
    device: str = "auto",
    dtype: str = "fp32",
) -> Work[dict[str, Any]]:
    """Score pictures with both backends, one after the other, and return how far they are apart.

    Args:
        name: of the reward.
        samples: what is scored.
        path: the weights; by default those in the hub's cache.
        seed: of random weights that are used instead, and removed at the end.
        device: where both run.
        dtype: how precise the native one is.

    Raises:
        VipoError: the reward has no official backend, or one of the two cannot be loaded.
    """
    with_backend(name, "official")  # complains at once
    if seed is None:
        return (yield from _compared(name, samples, path, device, dtype))
    with TemporaryDirectory(prefix="vipo-random-weights-") as place:
        yield Progress("drawing weights", 0, 1)
        checkpoint = write_random_weights(name, Path(place), seed)
        converted = converted_file(checkpoint)
        try:
            found = yield from _compared(name, samples, place, device, dtype)
        finally:
            converted.unlink(missing_ok=True)
    return found | {"weights": f"random, seed {seed}"}


def _compared(
    name: str, samples: Sequence[Sample], path: str | None, device: str, dtype: str
) -> Work[dict[str, Any]]:
    yield Progress("loading the official backend", 0, 1)
    official = with_backend(name, "official")(path=path, device=device)
    assert isinstance(official, OfficialReward)
    media = [sample.picture for sample in samples]
    prompts = [sample.prompt for sample in samples]
    judged: list[tuple[float, str]] = []
    with official.worker:
        for number in range(len(samples)):
            yield Progress("scoring (official)", number, len(samples))
            judged += official.judge(media[number : number + 1], prompts[number : number + 1])
        yield Progress("scoring (official)", len(samples), len(samples))
    yield Progress("loading the native backend", 0, 1)
    native = rewards[name](path=path, device=official.about["device"], dtype=dtype)
    yield Progress("scoring (native)", 0, len(samples))
    ours = native.score(media, prompts)
    yield Progress("scoring (native)", len(samples), len(samples))
    theirs = np.array([score for score, _ in judged])
    rows = [
        {
            "picture": sample.name,
            "prompt": sample.prompt,
            "official": _number(theirs[row]),
            "native": _number(ours[row]),
            "difference": _number(ours[row] - theirs[row]),
            "failure": judged[row][1],
        }
        for row, sample in enumerate(samples)
    ]
    return {
        "reward": name,
        "weights": path or "in the hub's cache",
        "official": dict(official.about),
        "native": {
            "torch": version("torch"),
            "transformers": version("transformers"),
            "device": official.about["device"],
            "dtype": dtype,
        },
        **agreement(ours, theirs),
        "pictures": rows,
    }


def agreement(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> dict[str, Any]:
    """Return how far scores are apart where both backends gave one, and how much they vary."""
    both = np.isfinite(ours) & np.isfinite(theirs)
    apart = np.abs(ours - theirs)[both]
    scale = np.abs(theirs[both]).max(initial=0)
    return {
        "n": len(ours),
        "compared": int(both.sum()),
        "only_native": int((np.isfinite(ours) & ~np.isfinite(theirs)).sum()),
        "only_official": int((~np.isfinite(ours) & np.isfinite(theirs)).sum()),
        "largest_difference": _number(apart.max()) if both.any() else None,
        "mean_difference": _number(apart.mean()) if both.any() else None,
        "relative_difference": _number(apart.max() / scale) if scale else None,
        "standard_deviation": _number(theirs[both].std()) if both.any() else None,
        "smallest_score": _number(theirs[both].min()) if both.any() else None,
        "largest_score": _number(theirs[both].max()) if both.any() else None,
    }


def agrees(found: Mapping[str, Any], tolerance: float) -> bool:
    """Tell whether two backends agree: nothing is further apart, and native alone failed on none.

    A picture that only the native backend can judge is no disagreement: packages fail on some.
    Scores that vary by no more than the tolerance agree whatever the pictures, and prove nothing.
    """
    largest = found["largest_difference"]
    if largest is None or found["only_official"]:
        return False
    flat = found["compared"] > 1 and found["standard_deviation"] <= allowed(found, tolerance)
    return bool(largest <= allowed(found, tolerance) and not flat)


def allowed(found: Mapping[str, Any], tolerance: float) -> float:
    """Return how far scores may be apart: the tolerance, times the largest score where above 1."""
    scores = found["smallest_score"] or 0.0, found["largest_score"] or 0.0
    return tolerance * max(1.0, *map(abs, scores))


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


__all__ = [
    "Sample",
    "agreement",
    "agrees",
    "allowed",
    "drawn_samples",
    "parity_of",
    "read_prompts",
    "read_samples",
    "write_random_weights",
]
