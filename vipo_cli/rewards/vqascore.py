"""VQAScore: how sure a model is that a picture shows what its prompt says.

The paper asks CLIP-FlanT5, and its numbers are what the field publishes; they come from
`clip_flant5.py`. Any vision-language model can be asked instead, as the authors' package does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from vipo_cli.chat import identity
from vipo_cli.chat.local import LocalChat, load_chat
from vipo_cli.errors import DataError
from vipo_cli.media import decode
from vipo_cli.rewards import Reward
from vipo_cli.rewards.clip_flant5 import find_folder, load_clip_flant5
from vipo_cli.rewards.options import Batch, Device, Dtype
from vipo_cli.run import fingerprint

QUESTION = 'Does this figure show "{}"? Please answer Yes or No.'
ANSWER = "Yes"


def vqascore(
    *,
    model: Annotated[
        str,
        Field(
            description="Who is asked: clip-flant5-xxl, as in the paper, clip-flant5-xl, or the "
            "hub id or folder of a vision-language model; scores of two do not compare."
        ),
    ] = "clip-flant5-xxl",
    batch_size: Batch = 4,
    device: Device = "auto",
    dtype: Dtype = "bf16",
) -> Reward:
    """VQAScore (arXiv 2404.01291): the chance of a Yes to whether it shows the prompt, 0 to 1.

    Published numbers are mostly those of CLIP-FlanT5-XXL (11 billion parameters). Other models are
    asked as the authors' package asks Qwen's: for the chance that the answer begins with `Yes`.

    Raises:
        MissingWeights: the model is neither here nor to be had from here.
        ModelError: it is damaged, or no such model.
    """
    if (folder := find_folder(model)) is not None:
        return load_clip_flant5(folder, batch_size, device, dtype)
    chat = load_chat(model, device, dtype)
    about = {"reward": "vqascore", "model": identity(model, chat), "dtype": dtype, "question": 1}
    return VqaReward("vqascore", "alignment", fingerprint(about), chat, batch_size)


@dataclass(frozen=True, slots=True)
class VqaReward:
    """The chance that a model's answer begins with a yes.

    Attributes:
        chat: who is asked.
        batch_size: pictures judged at once.
    """

    name: str
    dimension: str
    fingerprint: str
    chat: LocalChat
    batch_size: int

    def score(self, media: Sequence[bytes], prompts: Sequence[str]) -> NDArray[np.float64]:
        """Score each picture for its prompt; NaN for a clip and for what cannot be decoded."""
        scores = np.full(len(media), np.nan)
        ready: list[tuple[int, Any]] = []
        for place, data in enumerate(media):
            try:
                ready.append((place, decode(data)))
            except DataError:
                continue
            if len(ready) == self.batch_size:
                self._judge(ready, prompts, scores)
                ready = []
        if ready:
            self._judge(ready, prompts, scores)
        return scores

    def _judge(
        self, ready: Sequence[tuple[int, Any]], prompts: Sequence[str], scores: NDArray[np.float64]
    ) -> None:
        asked = [("", [picture, QUESTION.format(prompts[place])]) for place, picture in ready]
        try:
            chances = self.chat.chances_of(asked, [[ANSWER]] * len(asked))
        except DataError:  # one of the prompts spells a word of the model's own
            for each in ready if len(ready) > 1 else ():
                self._judge([each], prompts, scores)
            return
        for (place, _), (chance,) in zip(ready, chances, strict=True):
            scores[place] = chance
