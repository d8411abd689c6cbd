"""VideoReward of VideoAlign: quality, motion and alignment of a clip, each read off a word."""

import json
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from vipo_cli.errors import ModelError
from vipo_cli.media import content_hash
from vipo_cli.rewards import Reward
from vipo_cli.rewards.hpsv3 import split
from vipo_cli.rewards.options import Batch, Device, Dtype, Place, filled, torch_device, torch_dtype
from vipo_cli.rewards.vlm_pixels import FACTOR, sampled_frames, see_clip
from vipo_cli.rewards.vlm_qwen2 import CLIP, Body, judged_batches, load_body
from vipo_cli.rewards.vlm_words import published_text
from vipo_cli.run import fingerprint
from vipo_cli.weights import content, find_all, read_tensors

Dimension = Literal["VQ", "MQ", "TA"]
DIMENSIONS: tuple[Dimension, ...] = ("VQ", "MQ", "TA")
"""Visual quality, motion quality and text alignment, in the order of their words."""
WORDS = tuple(f"<|{name}_reward|>" for name in DIMENSIONS)
LEAST = 128 * FACTOR**2
"""Fewest pixels of a frame."""
REMEMBERED = 2**16
"""Clips whose numbers are kept, for the other rewards that ask for them."""

WRAPPED = "base_model.model."
"""How names begin in a checkpoint that was saved with its LoRA beside its weights."""
TEXTS = ("DETAILED_PROMPT_WITH_SPECIAL_TOKEN",)
SHA256 = "fdb6309bac618dd0c8b1b589d3a0970a974f7856eecbb355a190b2dce54af700"
EXPECTED = {
    ("data_config", "eval_dim"): list(DIMENSIONS),
    ("data_config", "prompt_template_type"): "detailed_special",
    ("data_config", "sample_type"): "uniform",
    ("data_config", "num_frames"): None,
    ("model_config", "use_special_tokens"): True,
    ("model_config", "reward_token"): "special",
}
"""What the published model_config.json says; for another instruction this is no such reward."""


def videoalign(
    *, path: Place = None, batch_size: Batch = 1, device: Device = "auto", dtype: Dtype = "bf16"
) -> Reward:
    """VideoReward of VideoAlign (arXiv 2501.13918): a clip overall, the sum of VQ, MQ and TA.

    Each of the three is standardised by the constants that come with the checkpoint. Made for a
    GPU: 2 billion parameters and up to 768 frames. Checked with random weights against its own code
    on transformers 4.45.2; the published checkpoint was not at hand.
    """
    return _reward("videoalign", "overall", DIMENSIONS, path, batch_size, device, dtype)


def videoalign_vq(
    *, path: Place = None, batch_size: Batch = 1, device: Device = "auto", dtype: Dtype = "bf16"
) -> Reward:
    """VideoReward's visual quality (VQ) of a clip, standardised; mostly -3 to 3."""
    return _reward("videoalign-vq", "quality", ("VQ",), path, batch_size, device, dtype)


def videoalign_mq(
    *, path: Place = None, batch_size: Batch = 1, device: Device = "auto", dtype: Dtype = "bf16"
) -> Reward:
    """VideoReward's motion quality (MQ) of a clip, standardised; mostly -3 to 3."""
    return _reward("videoalign-mq", "motion", ("MQ",), path, batch_size, device, dtype)


def videoalign_ta(
    *, path: Place = None, batch_size: Batch = 1, device: Device = "auto", dtype: Dtype = "bf16"
) -> Reward:
    """VideoReward's alignment (TA) of a clip with its prompt, standardised; mostly -3 to 3."""
    return _reward("videoalign-ta", "alignment", ("TA",), path, batch_size, device, dtype)


def _reward(
    name: str,
    dimension: str,
    parts: tuple[Dimension, ...],
    path: str | None,
    batch_size: int,
    device: str,
    dtype: str,
) -> Reward:
    judge = load_judge(path, batch_size, device, dtype)
    identity = fingerprint({"reward": name, "judge": judge.fingerprint})
    return VideoalignReward(name, dimension, identity, judge, parts)


@dataclass(frozen=True, slots=True)
class Constants:
    """What comes with a checkpoint beside its tensors.

    Attributes:
        frames_per_second: that are looked at.
        most: pixels of a frame.
        means, spreads: that the three numbers are standardised by.
        scale: of what a LoRA adds.
        base: the model that it was made of.
    """

    frames_per_second: float
    most: int
    means: tuple[float, ...]
    spreads: tuple[float, ...]
    scale: float
    base: str


@dataclass(frozen=True, slots=True, weakref_slot=True)
class ClipJudge:
    """The model behind all four rewards, which gives three numbers in one pass.

    Attributes:
        body: the vision-language model.
        head: what makes numbers of the three words.
        constants: what came with it.
        instructions: what it is told, with `{text_prompt}` for the prompt.
        batch_size: clips judged at once.
        known: the numbers of clips that were judged already, the latest last.
    """

    fingerprint: str
    body: Body
    head: Any
    constants: Constants
    instructions: str
    batch_size: int
    known: OrderedDict[tuple[str, str], NDArray[np.float64]] = field(default_factory=OrderedDict)

    def numbers(self, media: Sequence[bytes], prompts: Sequence[str]) -> NDArray[np.float64]:
        """Return VQ, MQ and TA, standardised, of each clip; NaN for one that cannot be judged."""
        keys = [(content_hash(data), prompt) for data, prompt in zip(media, prompts, strict=True)]
        todo = [place for place, key in enumerate(keys) if key not in self.known]
        new = self._judge([media[place] for place in todo], [prompts[place] for place in todo])
        found = {keys[place]: row for place, row in zip(todo, new, strict=True)}
        rows = [found[key] if key in found else self.known[key] for key in keys]
        self.known.update(found)
        while len(self.known) > REMEMBERED:
            self.known.popitem(last=False)
        return np.array(rows).reshape(-1, len(DIMENSIONS))

    def _judge(self, media: Sequence[bytes], prompts: Sequence[str]) -> NDArray[np.float64]:
        def prepare(place: int) -> Any:
            frames = sampled_frames(media[place], self.constants.frames_per_second)
            seen = see_clip(frames, LEAST, self.constants.most)
            text = self.instructions.replace("{text_prompt}", prompts[place])
            return self.body.encode(text, seen, CLIP, prompts[place]), seen

        found = np.full((len(media), len(DIMENSIONS)), np.nan)
        for places, batch in judged_batches(len(media), prepare, self.batch_size):
            rows, seen = zip(*batch, strict=True)
            found[places] = self._read(rows, seen)
        return (found - self.constants.means) / self.constants.spreads

    def _read(self, rows: Sequence[Any], seen: Sequence[Any]) -> NDArray[np.float64]:
        import torch

        with torch.inference_mode():
            numbers = self.head(self.body.read(rows, seen, CLIP))
            if numbers.shape[-1] == len(DIMENSIONS):
                numbers = numbers.diagonal(dim1=1, dim2=2)[..., None]
        result: NDArray[np.float64] = numbers[..., 0].double().cpu().numpy()
        return result


@dataclass(frozen=True, slots=True)
class VideoalignReward:
    """The sum of some of the numbers that VideoReward gives a clip.

    Attributes:
        judge: what gives them; rewards of the same checkpoint share it.
        parts: which of them.
    """

    name: str
    dimension: str
    fingerprint: str
    judge: ClipJudge
    parts: tuple[Dimension, ...]

    def score(self, media: Sequence[bytes], prompts: Sequence[str]) -> NDArray[np.float64]:
        """Score each clip for its prompt; NaN for a picture and for what cannot be judged."""
        numbers = self.judge.numbers(media, prompts)
        scores: NDArray[np.float64] = numbers[:, [DIMENSIONS.index(each) for each in self.parts]]
        return scores.sum(1)


_JUDGES: WeakValueDictionary[tuple[Any, ...], ClipJudge] = WeakValueDictionary()


def load_judge(path: str | None, batch_size: int, device: str, dtype: str) -> ClipJudge:
    """Return the model of the four rewards; one that is in use already is shared.

    Raises:
        MissingWeights: it is neither here nor to be had from here.
        ModelError: a file is damaged, or the checkpoint is of another kind.
    """
    key = (path, batch_size, device, dtype)
    if (shared := _JUDGES.get(key)) is not None:
        return shared
    files, base, code = find_all(("videoreward", "qwen2-vl-2b", "videoalign-code"), path)
    described, checkpoint = files.values()
    constants = read_constants(described)
    instructions = published_text(next(iter(code.values())), TEXTS, SHA256)
    place, precision = torch_device(device), torch_dtype(dtype)
    where = str(checkpoint)
    whole = merged(read_tensors(checkpoint), constants.scale, precision, where)
    tensors, head = split(whole)
    body = load_body(base["config.json"], base["tokenizer.json"], WORDS, tensors, where)
    judge = build_head(head, body.model.config.text_config.hidden_size, where)
    body.model.to(place, precision)
    identity = fingerprint(
        {
            "judge": "videoalign",
            "weights": content(checkpoint),
            "constants": content(described),
            "words": SHA256,
            "preprocessing": "torch-qwen2vl-1",
            "dtype": dtype,
        }
    )
    made = ClipJudge(
        identity, body, judge.to(place, precision), constants, instructions, batch_size
    )
    _JUDGES[key] = made
    return made


def read_constants(file: Path) -> Constants:
    """Read the model_config.json of a checkpoint.

    Raises:
        ModelError: it is damaged, or that of a model which is told something else.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        others = [
            f"{section}.{key} is {found[section].get(key)!r}, not {expected!r}"
            for (section, key), expected in EXPECTED.items()
            if found[section].get(key) != expected
        ]
        data, lora = found["data_config"], found["peft_lora_config"]
        standard = found.get("inference_config") or {}
        rank = float(lora["lora_r"])
        constants = Constants(
            float(data["fps"]),
            int(data["max_frame_pixels"]),
            tuple(float(standard.get(f"{name}_mean", 0)) for name in DIMENSIONS),
            tuple(float(standard.get(f"{name}_std", 1)) for name in DIMENSIONS),
            float(lora["lora_alpha"]) / (math.sqrt(rank) if lora.get("use_rslora") else rank),
            str(found["model_config"].get("model_name_or_path")),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"`{file}` is no model_config.json of VideoAlign: {type(error).__name__} {error}",
            hint="it comes with the checkpoint: KwaiVGI/VideoReward",
        ) from error
    if others:
        raise ModelError(f"`{file}` describes another reward than VideoReward", details=others)
    return constants


def merged(tensors: Mapping[str, Any], scale: float, dtype: Any, where: str) -> dict[str, Any]:
    """Return the tensors of a checkpoint with what its LoRA adds added, by the model's own names.

    The official code adds it while it runs, rounding between; in float32 that is the same to the
    last digits, in bfloat16 to about its precision.

    Raises:
        ModelError: half of a LoRA is missing.
    """
    plain = {name.removeprefix(WRAPPED): tensor for name, tensor in tensors.items()}
    added = {name for name in plain if ".lora_A." in name or ".lora_B." in name}
    found = {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in plain.items()
        if name not in added
    }
    for name in sorted(each for each in added if ".lora_A." in each):
        other = name.replace(".lora_A.", ".lora_B.")
        target = f"{name.partition('.lora_A.')[0]}.weight"
        if other not in added or target not in found:
            raise ModelError(f"`{where}` holds half of a LoRA: `{name}` has no counterpart")
        added.remove(other)
        more = plain[other].float() @ plain[name].float()
        found[target] = (found[target].float() + scale * more).to(dtype)
        added.remove(name)
    if added:
        raise ModelError(f"`{where}` holds half of a LoRA: `{min(added)}` has no counterpart")
    return found


def build_head(tensors: Mapping[str, Any], width: int, where: str) -> Any:
    """Build the head, which gives one number for each word, or three of which one counts.

    Raises:
        ModelError: a tensor is missing, left over, or of another shape.
    """
    import torch
    from torch import nn

    numbers = len(DIMENSIONS) if len(tensors.get("weight", ())) == len(DIMENSIONS) else 1
    with torch.device("meta"):
        head = nn.Linear(width, numbers, bias=False)
    return filled(head, tensors, where)
