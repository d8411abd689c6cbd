"""CLIP-FlanT5, the model that VQAScore was published with: CLIP looks, FlanT5 reads and answers.

A picture is padded to a square with CLIP's mean colour. What the last layer but one of CLIP makes
of its patches goes through two linear layers, and stands in the question where the picture is
meant. The score is the geometric mean of the chances of the tokens of the answer, its end included.

Checked with random weights against the last release of the authors' package that has the model,
run on transformers 4.46.3 (`tests/rewards/golden/clip_flant5.json`, and once with CLIP at its full
size). The published checkpoints were not at hand; that they hold CLIP too is told by their size.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vipo_cli.errors import MissingWeights, ModelError
from vipo_cli.media import decode
from vipo_cli.rewards.clip_flant5_parts import build
from vipo_cli.rewards.options import torch_device, torch_dtype
from vipo_cli.rewards.pixels import MEAN, Pixels, batches, normalised
from vipo_cli.rewards.vlm_qwen2 import load_tokenizer
from vipo_cli.run import fingerprint
from vipo_cli.weights import SOURCES, content, find, read_tensors

MODELS = ("clip-flant5-xxl", "clip-flant5-xl")
QUESTION = 'Does this figure show "{}"? Please answer yes or no.'
ANSWER = "Yes"
BEFORE = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions. USER: "
)
"""What is told before the picture."""
AFTER = "\n{} ASSISTANT: "
"""What is told behind it, around the question."""
PICTURE, END = "<image>", "</s>"
LENGTH = 2048
"""Most tokens of a question; the picture counts as one."""

CONFIG, VOCABULARY = "config.json", "tokenizer.json"
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""What a folder may keep the tensors in; the first that is there counts."""


def find_folder(name: str) -> Path | None:
    """Return the folder of a CLIP-FlanT5, which is fetched if need be; None for another model.

    Args:
        name: one of `MODELS`, its repository, or a folder.

    Raises:
        MissingWeights: it is neither here nor to be had from here.
    """
    known = {SOURCES[each].repository: each for each in MODELS}
    if (own := known.get(name, name)) in MODELS:
        return find(SOURCES[own])[CONFIG].parent
    folder = Path(name).expanduser()
    if not (folder / CONFIG).is_file():
        return None
    return folder if "mm_projector_type" in read_config(folder) else None


def read_config(folder: Path) -> dict[str, Any]:
    """Return what the config in a folder says.

    Raises:
        ModelError: it is damaged.
    """
    try:
        described: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        return dict(described)
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"cannot read `{folder / CONFIG}`: {error}") from error


def find_weights(folder: Path) -> list[Path]:
    """Return the files in a folder that hold the tensors.

    Raises:
        MissingWeights: there are none, or one of several is missing.
        ModelError: the index of several is damaged.
    """
    file = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if file is None:
        raise MissingWeights(
            f"`{folder}` holds no weights", hint=f"one of these is needed: {', '.join(WEIGHTS)}"
        )
    if file.suffix != ".json":
        return [file]
    try:
        names = sorted(set(json.loads(file.read_text(encoding="utf-8"))["weight_map"].values()))
        parts = [folder / str(name) for name in names]
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(f"`{file}` is no index of weights") from error
    if missing := [part.name for part in parts if not part.is_file()]:
        raise MissingWeights(
            f"`{folder}` holds no `{missing[0]}`",
            details=[f"no {name}" for name in missing[1:]],
            hint="fetch all the files that the model was published in",
        )
    return parts


def load_clip_flant5(folder: Path, batch_size: int, device: str, dtype: str) -> "FlanT5Reward":
    """Load a CLIP-FlanT5 from a folder.

    Raises:
        MissingWeights: a file is not there.
        ModelError: one is damaged, or a tensor missing, left over or of another shape.
    """
    parts = find_weights(folder)
    if not (folder / VOCABULARY).is_file():
        raise MissingWeights(
            f"`{folder}` holds no `{VOCABULARY}`", hint="it was published with the weights"
        )
    words = load_words(folder / VOCABULARY)
    tensors = {name: each for part in parts for name, each in read_tensors(part).items()}
    look, project, read = build(read_config(folder), tensors, str(folder))
    if len(words) > read.config.vocab_size:
        raise ModelError(f"`{folder / VOCABULARY}` does not belong to the weights beside it")
    place, precision = torch_device(device), torch_dtype(dtype)
    for name, weights in read.named_parameters():
        # fp16 does not hold what these layers of T5 make
        full = dtype == "fp16" and name.endswith(".wo.weight")
        weights.data = weights.data.to(place, torch_dtype("fp32") if full else precision)
    about = {
        "reward": "vqascore",
        "weights": [content(part) for part in parts],
        "config": content(folder / CONFIG),
        "words": content(folder / VOCABULARY),
        "preprocessing": "pil-padded-1",
        "question": "clip-flant5-1",
        "dtype": dtype,
    }
    return FlanT5Reward(
        "vqascore",
        "alignment",
        fingerprint(about),
        look.to(place, precision),
        project.to(place, precision),
        read,
        words,
        batch_size,
    )


@dataclass(frozen=True, slots=True)
class Words:
    """The tokenizer of a CLIP-FlanT5.

    Attributes:
        tokenizer: that of the tokenizers library.
        specials: words that a prompt must not spell.
    """

    tokenizer: Any
    specials: tuple[str, ...]

    def __len__(self) -> int:
        """Return how many tokens there are; the model may have room for more."""
        count: int = self.tokenizer.get_vocab_size(with_added_tokens=True)
        return count

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text with its end behind it."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return [*ids, self.tokenizer.token_to_id(END)]

    def ask(self, prompt: str) -> list[int] | None:
        """Return what is told behind the picture; None for a prompt that spells a special word."""
        if any(special in prompt for special in self.specials):
            return None
        return self.encode(AFTER.format(QUESTION.format(prompt)))


def load_words(file: Path) -> Words:
    """Return the tokenizer in a file.

    Raises:
        ModelError: it is damaged, or that of another model.
    """
    tokenizer, _ = load_tokenizer(file, ())
    if tokenizer.token_to_id(END) is None:
        raise ModelError(f"`{file}` does not belong to CLIP-FlanT5: it has no `{END}`")
    added = [each.content for each in tokenizer.get_added_tokens_decoder().values()]
    return Words(tokenizer, (PICTURE, *added))


@dataclass(frozen=True, slots=True)
class FlanT5Reward:
    """The chance that CLIP-FlanT5 answers with a yes.

    Attributes:
        look, project, read: the three parts of the model.
        words: its tokenizer.
        batch_size: pictures judged at once.
    """

    name: str
    dimension: str
    fingerprint: str
    look: Any
    project: Any
    read: Any
    words: Words
    batch_size: int

    def score(self, media: Sequence[bytes], prompts: Sequence[str]) -> NDArray[np.float64]:
        """Score each picture for its prompt; NaN for what cannot be decoded or asked."""
        scores = np.full(len(media), np.nan)
        questions = [self.words.ask(prompt) for prompt in prompts]
        asked = [place for place, question in enumerate(questions) if question is not None]
        prepare = partial(padded, side=self.look.config.image_size)
        for found, pixels in batches([media[place] for place in asked], prepare, self.batch_size):
            places = [asked[each] for each in found]
            scores[places] = self._chances(pixels, [questions[place] for place in places])
        return scores

    def _chances(self, pixels: Pixels, questions: Sequence[Any]) -> NDArray[np.float64]:
        import torch
        from torch.nn.utils.rnn import pad_sequence

        device = self.look.device
        before = torch.tensor([self.words.encode(BEFORE)], device=device)
        room = LENGTH - before.shape[1] - 1
        behind = [torch.tensor(ids[:room], device=device) for ids in questions]
        there = pad_sequence([torch.ones_like(ids) for ids in behind], batch_first=True)
        answer = torch.tensor([self.words.encode(ANSWER)], device=device)
        start = torch.full((1, 1), self.read.config.decoder_start_token_id, device=device)
        with torch.inference_mode():
            seen = self.project(self._see(torch.from_numpy(pixels)))
            told = self.read.shared(before).expand(len(seen), -1, -1)
            asked = self.read.shared(pad_sequence(behind, batch_first=True))
            known = there.new_ones(len(seen), told.shape[1] + seen.shape[1])
            logits = self.read(
                inputs_embeds=torch.cat([told, seen, asked], 1),
                attention_mask=torch.cat([known, there], 1),
                decoder_input_ids=torch.cat([start, answer[:, :-1]], 1).expand(len(seen), -1),
                use_cache=False,
            ).logits[..., : len(self.words)]
            chances = logits.double().log_softmax(-1)
            own = chances.gather(-1, answer.expand(len(seen), -1)[..., None])[..., 0]
        result: NDArray[np.float64] = own.mean(1).exp().cpu().numpy()
        return result

    def _see(self, pixels: Any) -> Any:
        """Return what CLIP makes of each patch."""
        ready = pixels.to(self.look.device, self.look.dtype)
        return self.look(pixel_values=ready).last_hidden_state[:, 1:]


def padded(data: bytes, side: int) -> Pixels:
    """Prepare a picture as CLIP-FlanT5's code does: in the middle of a square, then scaled."""
    picture = decode(data)
    longest = max(picture.size)
    square = Image.new("RGB", (longest, longest), tuple(int(colour * 255) for colour in MEAN))
    square.paste(picture, ((longest - picture.width) // 2, (longest - picture.height) // 2))
    return normalised(square.resize((side, side), Image.Resampling.BICUBIC))
