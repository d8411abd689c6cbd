"""Write golden/vlm.json: what the code of HPSv3 and VideoAlign makes of random weights and media.

    python tests/rewards/make_vlm_golden.py HPSV3 VIDEOALIGN MANTIS

run with transformers 4.45.2, peft 0.13.2 and torchvision 0.28.0. HPSV3 is the folder `hpsv3` of the
unpacked wheel of hpsv3 1.0.0, VIDEOALIGN a checkout of KwaiVGI/VideoAlign at 219ab9d, MANTIS the
file `mantis/models/idefics2/modeling_idefics2.py` of TIGER-AI-Lab/Mantis at f3a3192. Only the
packages that neither model needs (trl, datasets, pandas, matplotlib, tensorboard) are stood in for,
and decord by a reader of frames that are in memory.
"""

import importlib.util
import io
import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar
from unittest.mock import MagicMock

import torch

# the wheel of torchvision does not load its own operators beside a torch without CUDA
LIBRARY = torch.library.Library("torchvision", "DEF")
LIBRARY.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
LIBRARY.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import numpy as np  # noqa: E402
import random_qwen2vl as given  # noqa: E402
import torchvision  # noqa: E402
import transformers  # noqa: E402
import transformers.trainer  # noqa: E402
from peft import LoraConfig, get_peft_model  # noqa: E402
from PIL import Image  # noqa: E402
from transformers import (  # noqa: E402
    Idefics2Config,
    Idefics2ImageProcessor,
    Idefics2Processor,
    LlamaTokenizerFast,
    Qwen2TokenizerFast,
    Qwen2VLConfig,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
)

TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>"
    "system\nYou are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}<|vision_start|>"
    "<|image_pad|><|vision_end|>{% elif content['type'] == 'video' %}<|vision_start|><|video_pad|>"
    "<|vision_end|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The part of Qwen2-VL's own that one message with one medium reaches."""


def stand_in(*names):
    for name in names:
        module = MagicMock()
        module.__spec__, module.__path__ = None, []
        sys.modules[name] = module


def load(file, name):
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Frames:
    """Stands in for decord.VideoReader; `clips` holds what each path means."""

    clips: ClassVar = {}

    def __init__(self, path):
        self.frames, self.rate = self.clips[path]

    def __len__(self):
        return len(self.frames)

    def get_avg_fps(self):
        return self.rate

    def get_batch(self, places):
        found = MagicMock()
        found.asnumpy.return_value = self.frames[places]
        return found


def processor(kind):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tokenizer.json"
        given.write_tokenizer(file)
        tokenizer = Qwen2TokenizerFast(tokenizer_file=str(file), pad_token="<|endoftext|>")
    found = Qwen2VLProcessor(Qwen2VLImageProcessor(), tokenizer, chat_template=TEMPLATE)
    found.tokenizer.padding_side = "right"
    words = list(given.REWARDS[kind])
    found.tokenizer.add_special_tokens({"additional_special_tokens": words})
    return found, found.tokenizer.convert_tokens_to_ids(words)


def outcome(model, batch):
    """Return the numbers with the model's own places, and with those of Qwen2-VL."""
    inner = (
        model.base_model.model
        if hasattr(model, "base_model") and hasattr(model, "peft_config")
        else model
    )
    grids = batch.get("image_grid_thw"), batch.get("video_grid_thw")
    places, _ = inner.get_rope_index(batch["input_ids"], *grids, batch["attention_mask"])
    with torch.no_grad():
        own = model(return_dict=True, **batch)["logits"]
        other = model(return_dict=True, position_ids=places, **batch)["logits"]
    return own.double().tolist(), other.double().tolist()


def described(batch):
    pixels = batch.get("pixel_values", batch.get("pixel_values_videos"))
    return {
        "ids": [int(each) for each in batch["input_ids"].sum(1)],
        "lengths": batch["attention_mask"].sum(1).tolist(),
        "grids": batch.get("image_grid_thw", batch.get("video_grid_thw")).tolist(),
        "pixels": [
            [float(row[0]), float(row[-1]), float(row.double().mean()), float(row.double().std())]
            for row in pixels[:: max(1, len(pixels) // 16)]
        ],
    }


def filled(model):
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    model.load_state_dict(given.tensors(shapes), strict=True)
    model.eval()
    return {name: list(shape) for name, shape in shapes.items()}


def hpsv3(package):
    trainer = load(package / "model" / "qwen2vl_trainer.py", "hpsv3_trainer")
    vision = load(package / "dataset" / "utils.py", "hpsv3_vision")
    prepare, ids = processor("hpsv3")
    model = trainer.Qwen2VLRewardModelBT(
        Qwen2VLConfig(**given.config()), output_dim=2, special_token_ids=ids, rm_head_type="ranknet"
    )
    model.resize_token_embeddings(len(prepare.tokenizer))
    model.config.pad_token_id = prepare.tokenizer.pad_token_id
    shapes = filled(model)
    sizes = {"min_pixels": 256 * 28 * 28, "max_pixels": 256 * 28 * 28}
    chats = [
        [{"role": "user", "content": [
            {"type": "image", "image": Image.open(io.BytesIO(data)), **sizes},
            {"type": "text", "text": given.INSTRUCTIONS["hpsv3"].format(text_prompt=prompt)},
        ]}]
        for data, prompt in zip(given.pictures(), given.PROMPTS, strict=True)
    ]  # fmt: skip
    images, _ = vision.process_vision_info(chats)
    text = prepare.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
    batch = prepare(
        text=text,
        images=images,
        padding=True,
        return_tensors="pt",
        videos_kwargs={"do_rescale": True},
    )
    own, other = outcome(model, batch)
    return {"shapes": shapes, "rewards": own, "with_mrope": other, **described(batch)}


def videoalign(package, outputs):
    sys.path.insert(0, str(package))
    stand_in("utils")  # its own, which would load deepspeed
    trainer = load(package / "trainer.py", "videoalign_trainer")
    vision = load(package / "vision_process.py", "videoalign_vision")
    prepare, ids = processor("videoalign")
    model = trainer.Qwen2VLRewardModelBT(
        Qwen2VLConfig(**given.config()), output_dim=outputs, special_token_ids=ids
    )
    model.resize_token_embeddings(len(prepare.tokenizer))
    targets = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Embedding)
        and not any(word in name for word in ("lm_head", "rm_head", "embed_tokens", "visual"))
    ]
    lora = LoraConfig(target_modules=targets, r=4, lora_alpha=8, task_type="CAUSAL_LM", bias="none")
    model = get_peft_model(model, lora)
    model.config.pad_token_id = prepare.tokenizer.pad_token_id
    shapes = filled(model)
    sizes = {"max_pixels": 200704, "fps": 2.0, "sample_type": "uniform"}
    Frames.clips = {str(number): clip for number, clip in enumerate(given.frames())}
    chats = [
        [{"role": "user", "content": [
            {"type": "video", "video": str(number), **sizes},
            {"type": "text", "text": given.INSTRUCTIONS["videoalign"].format(text_prompt=prompt)},
        ]}]
        for number, prompt in enumerate(given.PROMPTS)
    ]  # fmt: skip
    _, videos = vision.process_vision_info(chats)
    text = prepare.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
    batch = prepare(
        text=text,
        images=None,
        videos=videos,
        padding=True,
        return_tensors="pt",
        videos_kwargs={"do_rescale": True},
    )
    own, other = outcome(model, batch)
    return {"shapes": shapes, "rewards": own, "with_mrope": other, **described(batch)}


def videoscore(file):
    """Through Mantis's own model, frames and text as VideoScore's own example has them."""
    modeling = load(file, "mantis_idefics2")
    config = Idefics2Config(**given.idefics_config())
    config._attn_implementation = "eager"
    model = modeling.Idefics2ForSequenceClassification(config)
    shapes = filled(model)
    with tempfile.TemporaryDirectory() as folder:
        given.write_tokenizer(Path(folder) / "tokenizer.json", given.IDEFICS)
        tokenizer = LlamaTokenizerFast(
            tokenizer_file=str(Path(folder) / "tokenizer.json"), add_bos_token=False
        )
    options = {key: each for key, each in given.OF_FRAMES.items() if key != "image_processor_type"}
    prepare = Idefics2Processor(Idefics2ImageProcessor(**options), tokenizer, image_seq_len=4)
    rewards = []
    for (frames, _), prompt in zip(given.frames(), given.PROMPTS, strict=True):
        total, most = len(frames), 16
        places = np.arange(0, total, total / most).astype(int) if total > most else np.arange(total)
        chosen = [Image.fromarray(frames[place]) for place in places]
        text = given.INSTRUCTIONS["videoscore"].format(text_prompt=prompt)
        text += "<image> " * len(chosen)
        inputs = prepare(text=text, images=chosen, return_tensors="pt")
        with torch.no_grad():
            rewards.append(model(**inputs).logits[0].double().tolist())
    return {"shapes": shapes, "rewards": rewards, "places": places_of(modeling, 49, 58)}


def places_of(modeling, rows, columns):
    """Return where Mantis's code places the first column and the first row of so many patches."""
    sizes = SimpleNamespace(hidden_size=1, image_size=980, patch_size=14, num_channels=3)
    embeddings = modeling.Idefics2VisionEmbeddings(sizes)
    embeddings.patch_embedding.weight.data.zero_()
    embeddings.patch_embedding.bias.data.zero_()
    embeddings.position_embedding.weight.data = torch.arange(4900.0)[:, None]
    mask = torch.ones(1, rows, columns, dtype=torch.bool)
    with torch.no_grad():
        found = embeddings(torch.zeros(1, 3, 14 * rows, 14 * columns), mask)
    found = found.view(rows, columns).int()
    return {"column": found[:, 0].tolist(), "row": found[0].tolist()}


def main():
    packages = [Path(each) for each in sys.argv[1:4]]
    stand_in("trl", "datasets", "pandas", "torch.utils.tensorboard", "decord")
    stand_in("matplotlib", "matplotlib.pyplot", "matplotlib.patches")
    stand_in("hpsv3", "hpsv3.utils", "hpsv3.utils.training_utils")
    sys.modules["trl"].RewardTrainer = type("RewardTrainer", (), {})
    sys.modules["decord"].VideoReader = Frames
    sys.modules["decord"].__spec__ = importlib.util.spec_from_loader("decord", None)
    found = {
        "made_with": {
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "hpsv3": "1.0.0",
            "VideoAlign": "219ab9db64c045e5181a2202d11f686439351292",
            "Mantis": "f3a319202d882a1794d28440b77bba7c58869a9e",
        },
        "hpsv3": hpsv3(packages[0]),
        "videoalign": videoalign(packages[1], 1),
        "videoalign-3": videoalign(packages[1], 3),
        "videoscore": videoscore(packages[2]),
    }
    given.GOLDEN.parent.mkdir(exist_ok=True)
    given.GOLDEN.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
