"""VideoScore: five qualities of a clip, read off the last word behind all of its frames.

An Idefics2 (of Mantis) whose last hidden state a linear layer turns into five numbers. Checked with
random weights against Mantis's own code on transformers 4.45.2. Today's transformers places the
patches of frames of some sizes (49 or 58 patches a side) one off from where that code places them,
so places are worked out here; and it leaves out patches at the edge of padding, which frames of one
size lack.
"""

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from vipo_cli.errors import DataError, MissingWeights, ModelError
from vipo_cli.media import content_hash, is_clip, probe
from vipo_cli.rewards import Reward
from vipo_cli.rewards.options import Device, Dtype, Place, filled, torch_device, torch_dtype
from vipo_cli.rewards.vlm_pixels import frames_at
from vipo_cli.rewards.vlm_qwen2 import load_tokenizer
from vipo_cli.rewards.vlm_words import published_text
from vipo_cli.run import fingerprint
from vipo_cli.weights import SOURCES, content, find_all, may_fetch, read_tensors

Release = Annotated[
    Literal["v1.1", "v1"],
    Field(description="v1.1 looks at up to 48 frames of a clip, v1 at up to 16."),
]
FRAMES = {"v1.1": 48, "v1": 16}
DIMENSIONS = ("visual", "temporal", "dynamic", "text", "factual")
"""Visual quality, temporal consistency, dynamic degree, alignment with the prompt, factual
consistency: in the order of the numbers."""
REMEMBERED = 2**16
"""Clips whose numbers are kept, for the other rewards that ask for them."""

PICTURE, AROUND = "<image>", "<fake_token_around_image>"
TEXTS = ("REGRESSION_QUERY_PROMPT",)
SHA256 = "49b386d9ea3003760c983cc258cf4211faf858d58191f95fcfacdf68a8fed2c0"
INDEX = "model.safetensors.index.json"
BODY, HEAD = "model.", "score."
UNUSED = "lm_head.weight"


def videoscore(
    *, release: Release = "v1.1", path: Place = None, device: Device = "auto", dtype: Dtype = "bf16"
) -> Reward:
    """VideoScore (arXiv 2406.15252): the mean of five qualities of a clip, about 1 to 4.

    Made for a GPU: 8 billion parameters. Checked with random weights against Mantis's code; the
    published checkpoints were not at hand.
    """
    return _reward("videoscore", "overall", DIMENSIONS, release, path, device, dtype)


def videoscore_visual(
    *, release: Release = "v1.1", path: Place = None, device: Device = "auto", dtype: Dtype = "bf16"
) -> Reward:
    """VideoScore's visual quality of a clip, about 1 to 4."""
    return _reward("videoscore-visual", "quality", ("visual",), release, path, device, dtype)


def videoscore_temporal(
    *, release: Release = "v1.1", path: Place = None, device: Device = "auto", dtype: Dtype = "bf16"
) -> Reward:
    """VideoScore's temporal consistency of a clip, about 1 to 4."""
    return _reward("videoscore-temporal", "motion", ("temporal",), release, path, device, dtype)


def videoscore_dynamic(
    *, release: Release = "v1.1", path: Place = None, device: Device = "auto", dtype: Dtype = "bf16"
) -> Reward:
    """VideoScore's dynamic degree of a clip, about 1 to 4."""
    return _reward("videoscore-dynamic", "motion", ("dynamic",), release, path, device, dtype)


def videoscore_text(
    *, release: Release = "v1.1", path: Place = None, device: Device = "auto", dtype: Dtype = "bf16"
) -> Reward:
    """VideoScore's alignment of a clip with its prompt, about 1 to 4."""
    return _reward("videoscore-text", "alignment", ("text",), release, path, device, dtype)


def videoscore_factual(
    *, release: Release = "v1.1", path: Place = None, device: Device = "auto", dtype: Dtype = "bf16"
) -> Reward:
    """VideoScore's factual consistency of a clip with common sense, about 1 to 4."""
    return _reward("videoscore-factual", "quality", ("factual",), release, path, device, dtype)


def _reward(
    name: str,
    dimension: str,
    parts: tuple[str, ...],
    release: str,
    path: str | None,
    device: str,
    dtype: str,
) -> Reward:
    judge = load_judge(release, path, device, dtype)
    identity = fingerprint({"reward": name, "judge": judge.fingerprint})
    return VideoscoreReward(name, dimension, identity, judge, parts)


@dataclass(frozen=True, slots=True, weakref_slot=True)
class FiveJudge:
    """The model behind all six rewards, which gives five numbers in one pass.

    Attributes:
        body: an Idefics2 without what writes answers.
        head: what makes five numbers of its last word.
        tokenizer: that of the tokenizers library.
        pictures: what prepares frames, as the checkpoint says.
        instructions: what it is told, with `{text_prompt}` for the prompt.
        frames: looked at, at most.
        known: the numbers of clips that were judged already, the latest last.
    """

    fingerprint: str
    body: Any
    head: Any
    tokenizer: Any
    pictures: Any
    instructions: str
    frames: int
    known: OrderedDict[tuple[str, str], NDArray[np.float64]] = field(default_factory=OrderedDict)

    def numbers(self, media: Sequence[bytes], prompts: Sequence[str]) -> NDArray[np.float64]:
        """Return the five numbers of each clip; NaN for one that cannot be judged."""
        rows = []
        for data, prompt in zip(media, prompts, strict=True):
            key = content_hash(data), prompt
            if key not in self.known:
                try:
                    self.known[key] = self._judge(data, prompt)
                except DataError:
                    self.known[key] = np.full(len(DIMENSIONS), np.nan)
            rows.append(self.known[key])
        while len(self.known) > REMEMBERED:
            self.known.popitem(last=False)
        return np.array(rows).reshape(-1, len(DIMENSIONS))

    def _judge(self, data: bytes, prompt: str) -> NDArray[np.float64]:
        import torch

        frames = spread_frames(data, self.frames)
        ids = torch.tensor([self.encode(prompt, len(frames))], device=self.body.device)
        seen = self.pictures(images=[frames], return_tensors="pt")
        with torch.inference_mode():
            read = self.body(
                input_ids=ids,
                pixel_values=seen["pixel_values"].to(self.body.device, self.body.dtype),
                pixel_attention_mask=seen["pixel_attention_mask"].to(self.body.device),
                use_cache=False,
            ).last_hidden_state[:, -1]
            numbers: NDArray[np.float64] = self.head(read)[0].double().cpu().numpy()
        return numbers

    def encode(self, prompt: str, frames: int) -> list[int]:
        """Return the token ids of what is told and shown.

        Raises:
            DataError: the prompt spells a special word of the model.
        """
        specials = [each.content for each in self.tokenizer.get_added_tokens_decoder().values()]
        if any(special in prompt for special in specials):
            raise DataError("the prompt spells a special word of the model")
        latents = self.body.config.perceiver_config.resampler_n_latents
        shown = f"{AROUND}{PICTURE * latents}{AROUND} "
        text = self.instructions.replace("{text_prompt}", prompt) + shown * frames
        ids: list[int] = self.tokenizer.encode(text).ids
        return ids


@dataclass(frozen=True, slots=True)
class VideoscoreReward:
    """The mean of some of the numbers that VideoScore gives a clip.

    Attributes:
        judge: what gives them; rewards of the same checkpoint share it.
        parts: which of them.
    """

    name: str
    dimension: str
    fingerprint: str
    judge: FiveJudge
    parts: tuple[str, ...]

    def score(self, media: Sequence[bytes], prompts: Sequence[str]) -> NDArray[np.float64]:
        """Score each clip for its prompt; NaN for a picture and for what cannot be judged."""
        numbers = self.judge.numbers(media, prompts)
        scores: NDArray[np.float64] = numbers[:, [DIMENSIONS.index(each) for each in self.parts]]
        return scores.mean(1)


def spread_frames(data: bytes, most: int) -> list[Image.Image]:
    """Return all frames of a short clip, else so many, evenly spaced from the first.

    Raises:
        DataError: it is broken, or a picture.
    """
    if not is_clip(data):
        raise DataError("a picture, where a clip is needed")
    count = probe(data).frames
    found, count = frames_at(data, _places(count, most))
    if len(found) < min(count, most):  # its header promises more frames than there are
        found, _ = frames_at(data, _places(count, most))
    return [found[place] for place in sorted(found)]


def _places(count: int, most: int) -> list[int]:
    if count <= most:
        return list(range(count))
    places: list[int] = np.arange(0, count, count / most).astype(int).tolist()
    return places


_JUDGES: WeakValueDictionary[tuple[Any, ...], FiveJudge] = WeakValueDictionary()


def load_judge(release: str, path: str | None, device: str, dtype: str) -> FiveJudge:
    """Return the model of the six rewards; one that is in use already is shared.

    Raises:
        MissingWeights: it is neither here nor to be had from here.
        ModelError: a file is damaged, or the checkpoint is of another kind.
    """
    from transformers import AutoImageProcessor

    key = (release, path, device, dtype)
    if (shared := _JUDGES.get(key)) is not None:
        return shared
    name = f"videoscore-{release}"
    files, code = find_all((name, "videoscore-code"), path)
    instructions = published_text(next(iter(code.values())), TEXTS, SHA256)
    folder = files["config.json"].parent
    shards = find_shards(name, files[INDEX])
    tensors = {name: each for shard in shards for name, each in read_tensors(shard).items()}
    tensors.pop(UNUSED, None)
    place, precision = torch_device(device), torch_dtype(dtype)
    body, head = build(files["config.json"], tensors)
    identity = fingerprint(
        {
            "judge": name,
            "weights": [content(shard) for shard in shards],
            "pictures": content(files["preprocessor_config.json"]),
            "words": SHA256,
            "preprocessing": "idefics2-pil-1",
            "dtype": dtype,
        }
    )
    made = FiveJudge(
        identity,
        body.to(place, precision),
        head.to(place, precision),
        load_words(files["tokenizer.json"], body.config.image_token_id),
        AutoImageProcessor.from_pretrained(folder, local_files_only=True, backend="pil"),
        instructions,
        FRAMES[release],
    )
    _JUDGES[key] = made
    return made


def load_words(file: Path, picture: int) -> Any:
    """Return the tokenizer in a file.

    Raises:
        ModelError: it is damaged, or that of another model.
    """
    tokenizer, _ = load_tokenizer(file, ())
    if tokenizer.token_to_id(PICTURE) != picture or tokenizer.token_to_id(AROUND) is None:
        raise ModelError(f"`{file}` does not belong to VideoScore: it has other special words")
    return tokenizer


def find_shards(name: str, index: Path) -> list[Path]:
    """Return the files that an index names, after fetching those that are not here.

    Raises:
        MissingWeights: one is neither here nor to be had from here.
        ModelError: the index is damaged.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"`{index}` is no index of weights") from error
    found = []
    for each in names:
        file = index.parent / Path(each).name
        if not file.is_file():
            source = SOURCES[name]
            missing = MissingWeights(
                f"`{index.parent}` holds no `{each}`",
                hint=f"where there is a network: hf download {source.repository} {' '.join(names)}",
            )
            if not may_fetch() or "snapshots" not in index.parts:
                raise missing
            try:
                file = Path(hf_hub_download(source.repository, each))
            except (HfHubHTTPError, OSError) as error:
                raise missing from error
        found.append(file)
    return found


def build(config: Path, tensors: Mapping[str, Any]) -> tuple[Any, Any]:
    """Build the model and its head from the tensors of a checkpoint.

    Raises:
        ModelError: a tensor is missing, left over, or of another shape.
    """
    import torch
    from accelerate import init_empty_weights
    from torch import nn
    from transformers import Idefics2Config, Idefics2Model

    where = str(config.parent)
    body = {name[len(BODY) :]: each for name, each in tensors.items() if name.startswith(BODY)}
    head = {name[len(HEAD) :]: each for name, each in tensors.items() if name.startswith(HEAD)}
    if strangers := sorted(name for name in tensors if not name.startswith((BODY, HEAD))):
        raise ModelError(
            f"`{where}` holds other weights: {len(strangers)} tensors belong to no part of it",
            details=[f"left over: {name}" for name in strangers[:5]],
        )
    try:
        described = json.loads(config.read_text(encoding="utf-8"))
        with init_empty_weights(include_buffers=False):
            model = Idefics2Model(Idefics2Config(**described))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(f"`{config}` describes no Idefics2: {error}") from error
    model.vision_model.embeddings.forward = _placed(model.vision_model.embeddings)
    with torch.device("meta"):
        linear = nn.Linear(model.config.text_config.hidden_size, len(DIMENSIONS))
    return filled(model, body, where), filled(linear, head, where)


def _placed(embeddings: Any) -> Any:
    """Return what embeds patches, in places that are worked out as Mantis's code does."""
    side = embeddings.num_patches_per_side

    def forward(pixel_values: Any, patch_attention_mask: Any) -> Any:
        found = embeddings.patch_embedding(pixel_values)
        rows, columns = (patch_places(count, side) for count in patch_attention_mask.shape[1:])
        places = (rows[:, None] * side + columns).flatten().to(found.device)
        return found.flatten(2).transpose(1, 2) + embeddings.position_embedding(places)

    return forward


def patch_places(count: int, side: int) -> Any:
    """Return where each of so many patches in a line belongs among those of the largest picture."""
    import torch

    bounds = torch.arange(1 / side, 1.0, 1 / side)
    shares = torch.arange(0, 1 - 1e-6, float(1 / torch.tensor(count)))
    return torch.bucketize(shares, bounds, right=True)
