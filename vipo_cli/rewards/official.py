"""Official backends of rewards: the upstream package itself, in an environment of its own.

They are what the native rewards are compared with (`vipo eval parity`), and who wants a number just
as the package gives it gets it here. `vipo eval setup NAME` makes an environment.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from vipo_cli.errors import VipoError
from vipo_cli.registry import Registry
from vipo_cli.rewards import Reward, rewards
from vipo_cli.rewards.environments import find_environment, start
from vipo_cli.rewards.options import Device, Place
from vipo_cli.rewards.worker import Worker
from vipo_cli.run import fingerprint, write_json
from vipo_cli.weights import SOURCES, content, find, find_all

Seconds = Annotated[
    float, Field(gt=0, description="How long the package may take for one picture.")
]
Reread = Annotated[
    bool,
    Field(
        description="Read the checkpoint anew for every prompt, as the package does; far slower."
    ),
]

PATIENCE = 900.0
"""Seconds that loading may take: gigabytes from a slow disk."""
AT_ONCE = 16
"""Pictures sent together."""

DIMENSIONS = {
    "aesthetic": "aesthetic",
    "aesthetic-linear": "aesthetic",
    "clip": "alignment",
    "clipscore": "alignment",
}
"""What rewards judge, where that is not the whole."""

MED_CONFIG = {
    "add_cross_attention": True,
    "add_type_embeddings": False,
    "architectures": ["BertModel"],
    "attention_probs_dropout_prob": 0.1,
    "encoder_width": 768,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "model_type": "bert",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 0,
    "type_vocab_size": 2,
    "vocab_size": 30524,
}
"""The sizes of ImageReward's text encoder, where no `med_config.json` lies beside its weights."""

officials: Registry[Callable[..., Reward]] = Registry(
    "official backend",
    "vipo.official",
    {
        "aesthetic": "vipo_cli.rewards.official:aesthetic",
        "aesthetic-linear": "vipo_cli.rewards.official:aesthetic_linear",
        "clip": "vipo_cli.rewards.official:clip",
        "clipscore": "vipo_cli.rewards.official:clipscore",
        "hpsv2.0": "vipo_cli.rewards.official:hpsv2_0",
        "hpsv2.1": "vipo_cli.rewards.official:hpsv2_1",
        "imagereward": "vipo_cli.rewards.official:imagereward",
        "pickscore": "vipo_cli.rewards.official:pickscore",
    },
)
"""Rewards by the names that they have in `rewards`."""


def with_backend(name: str, backend: str = "native") -> Callable[..., Reward]:
    """Return the factory of a reward: vipo's own, or the one around the upstream package.

    Raises:
        UnknownName: there is no reward of that name.
        VipoError: there is no such backend of it.
    """
    if backend == "native":
        return rewards[name]
    if backend != "official":
        raise VipoError(f"unknown backend `{backend}`", hint="known: native, official")
    if name not in officials:
        rewards[name]  # complains about a name that does not exist
        raise VipoError(
            f"`{name}` has no official backend",
            hint=f"these have: {', '.join(officials.names())}",
        )
    return officials[name]


def pickscore(*, path: Place = None, device: Device = "auto", seconds: Seconds = 120) -> Reward:
    """PickScore by transformers as on its card; exp(scale) * cosine, mostly 15 to 25."""
    model, words = find_all(("pickscore", "clip-h-tokenizer"), path)
    checkpoint = model["model.safetensors"]
    files = {"checkpoint": checkpoint, "vocabulary": words["tokenizer.json"].parent}
    return _started("pickscore", files, [checkpoint], device, seconds)


def clip(*, path: Place = None, device: Device = "auto", seconds: Seconds = 120) -> Reward:
    """CLIP ViT-L/14 by open_clip: the cosine of picture and prompt, mostly 0.1 to 0.35."""
    checkpoint = find(SOURCES["clip-l"], path)["model.safetensors"]
    return _started("clip", {"checkpoint": checkpoint}, [checkpoint], device, seconds)


def clipscore(*, path: Place = None, device: Device = "auto", seconds: Seconds = 120) -> Reward:
    """CLIPScore by OpenAI's package: 2.5 * max(cosine, 0) for `A photo depicts ...`, 0 to 2.5."""
    checkpoint = find(SOURCES["clip-b"], path)["model.safetensors"]
    return _started("clipscore", {"checkpoint": checkpoint}, [checkpoint], device, seconds)


def aesthetic(*, path: Place = None, device: Device = "auto", seconds: Seconds = 120) -> Reward:
    """Aesthetic score, improved predictor on OpenAI's package; mostly 4 to 7."""
    return _predictor("aesthetic", path, device, seconds)


def aesthetic_linear(
    *, path: Place = None, device: Device = "auto", seconds: Seconds = 120
) -> Reward:
    """Aesthetic score, LAION's linear predictor on open_clip; mostly 4 to 7."""
    return _predictor("aesthetic-linear", path, device, seconds)


def _predictor(name: str, path: str | None, device: str, seconds: float) -> Reward:
    heads, model = find_all((name, "clip-l"), path)
    (head,), checkpoint = heads.values(), model["model.safetensors"]
    files = {"checkpoint": checkpoint, "head": head}
    return _started(name, files, [head, checkpoint], device, seconds)


def hpsv2_0(
    *,
    path: Place = None,
    device: Device = "auto",
    seconds: Seconds = 120,
    reread: Reread = False,
) -> Reward:
    """HPSv2 by the package hpsv2 itself; a cosine, mostly 0.2 to 0.35."""
    return _hpsv2("hpsv2.0", path, device, seconds, reread)


def hpsv2_1(
    *,
    path: Place = None,
    device: Device = "auto",
    seconds: Seconds = 120,
    reread: Reread = False,
) -> Reward:
    """HPSv2.1 by the package hpsv2 itself; not to be compared with HPSv2."""
    return _hpsv2("hpsv2.1", path, device, seconds, reread)


def _hpsv2(name: str, path: str | None, device: str, seconds: float, reread: bool) -> Reward:
    (checkpoint,) = find(SOURCES[name], path).values()
    files = {"checkpoint": checkpoint} | ({"reread": checkpoint} if reread else {})
    return _started(name, files, [checkpoint], device, seconds)


def imagereward(*, path: Place = None, device: Device = "auto", seconds: Seconds = 120) -> Reward:
    """ImageReward by the package image-reward itself, standardised; mostly -2.3 to 2."""
    files, vocabulary = find_all(("imagereward", "bert-tokenizer"), path)
    checkpoint = files["ImageReward.pt"]
    with _bert_folder(vocabulary["tokenizer.json"]) as folder:
        sizes = checkpoint.with_name("med_config.json")
        if not sizes.is_file():
            sizes = folder / "med_config.json"
            write_json(sizes, MED_CONFIG)
        given = {"checkpoint": checkpoint, "med_config": sizes, "vocabulary": folder}
        return _started("imagereward", given, [checkpoint], device, seconds)


@contextmanager
def _bert_folder(file: Path) -> Iterator[Path]:
    """Give a folder with the vocabulary of a `tokenizer.json` as older transformers read it."""
    pieces: Mapping[str, int] = json.loads(file.read_text(encoding="utf-8"))["model"]["vocab"]
    with TemporaryDirectory(prefix="vipo-official-") as place:
        lines = "\n".join(sorted(pieces, key=pieces.__getitem__))
        Path(place, "vocab.txt").write_text(lines + "\n", encoding="utf-8")
        write_json(Path(place, "tokenizer_config.json"), {"do_lower_case": True})
        yield Path(place)


@dataclass(frozen=True, slots=True)
class OfficialReward:
    """A reward whose numbers an upstream package computes in a process of its own.

    Attributes:
        about: the package and its versions, as its worker told them.
        worker: the process.
        seconds: how long it may take for a picture.
    """

    name: str
    dimension: str
    fingerprint: str
    about: Mapping[str, Any]
    worker: Worker
    seconds: float

    def score(self, media: Sequence[bytes], prompts: Sequence[str]) -> NDArray[np.float64]:
        """Score each picture for its prompt; NaN for one that the package fails on.

        Raises:
            VipoError: the worker died, or took too long.
        """
        return np.array([score for score, _ in self.judge(media, prompts)], np.float64)

    def judge(self, media: Sequence[bytes], prompts: Sequence[str]) -> list[tuple[float, str]]:
        """Return for each picture its score, or NaN with what the package said.

        Raises:
            VipoError: the worker died, or took too long.
        """
        found: list[tuple[float, str]] = []
        with TemporaryDirectory(prefix="vipo-official-") as place:
            for start_ in range(0, len(media), AT_ONCE):
                batch = range(start_, min(start_ + AT_ONCE, len(media)))
                files = [Path(place, f"{index}") for index in batch]
                for file, index in zip(files, batch, strict=True):
                    file.write_bytes(media[index])
                request = {
                    "do": "score",
                    "pictures": [str(file) for file in files],
                    "prompts": [prompts[index] for index in batch],
                }
                answers = self.worker.ask(request, self.seconds * len(files))
                found += [
                    (float(answer.get("score", np.nan)), str(answer.get("error", "")))
                    for answer in answers
                ]
                for file in files:
                    file.unlink()
        return found


def _started(
    name: str, files: Mapping[str, Path], weights: Sequence[Path], device: str, seconds: float
) -> OfficialReward:
    """Start a worker and let it load its weights."""
    environment = find_environment(name)
    worker = start(environment)
    try:
        hello = worker.ask({"do": "hello"}, PATIENCE)
        given = {key: str(Path(file).absolute()) for key, file in files.items()}
        request = {"do": "load", "reward": name, "files": given, "device": device}
        loaded = worker.ask(request, PATIENCE)
    except BaseException:
        worker.close()
        raise
    about = hello | loaded
    identity = {
        "reward": name,
        "backend": "official",
        "versions": hello["versions"],
        "weights": [content(file) for file in weights],
        "dtype": loaded["dtype"],
    }
    dimension = DIMENSIONS.get(name, "overall")
    return OfficialReward(name, dimension, fingerprint(identity), about, worker, seconds)
