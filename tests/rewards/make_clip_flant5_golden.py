"""Write golden/clip_flant5.json: what the authors' code makes of a random CLIP-FlanT5.

    pip install torch==2.13.0 transformers==4.46.3 sentencepiece protobuf pillow numpy
    python tests/rewards/make_clip_flant5_golden.py CHECKOUT

in an environment of its own, CHECKOUT being github.com/linzhiqiu/t2v_metrics at 10d549b, the last
commit that has the model. Its loading, tokenizer, preprocessing and score are run as they are, then
once more with the weights as float32, which they are all exact in; only cv2 is stood in for, and
the modules that import its many other models are passed by.
"""

import json
import sys
import tempfile
import types
import warnings
from importlib import import_module
from pathlib import Path
from unittest.mock import MagicMock

import random_clip_flant5 as given
import sentencepiece
import torch
import transformers
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

PIECES = 150


def upstream(checkout):
    """Import the module of CLIP-FlanT5 without what lies beside it."""
    sys.modules["cv2"] = MagicMock()
    package = "t2v_metrics"
    for name in (package, f"{package}.models", f"{package}.models.vqascore_models"):
        module = types.ModuleType(name)
        module.__path__ = [str(checkout / name.replace(".", "/"))]
        sys.modules[name] = module
    return import_module(f"{package}.models.vqascore_models.clip_t5_model")


def train_pieces(module, folder):
    """Learn a small vocabulary from what is asked; return its pieces and their scores."""
    question = module.default_question_template
    lines = [module.SYSTEM_MSG, *(question.format(prompt) for prompt in given.PROMPTS)]
    text = folder / "text.txt"
    text.write_text("\n".join(line.replace("\u2602", "") for line in lines * 3 + ["Yes No"]))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "spiece"), vocab_size=PIECES, pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    model = sentencepiece.SentencePieceProcessor(str(folder / "spiece.model"))
    return [(model.id_to_piece(n), model.get_score(n)) for n in range(model.get_piece_size())]


def write_tower(folder):
    torch.manual_seed(0)  # what it holds is replaced by what the checkpoint holds
    CLIPVisionModel(CLIPVisionConfig(**given.vision_config())).save_pretrained(folder)
    side = given.SIDE
    CLIPImageProcessor(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    ).save_pretrained(folder)


def shapes_of(module, kind, words, tower):
    config = given.config(kind, words, tower)
    config.pop("model_type")
    described = module.CLIPT5ForConditionalGeneration.config_class(**config)
    model = module.CLIPT5ForConditionalGeneration(described)
    return {name: list(value.shape) for name, value in model.state_dict().items()}


def scores_of(module, folder, tokenizer):
    module.CLIP_T5_MODELS["ours"] = {
        "tokenizer": {"path": str(tokenizer), "model_max_length": module.CONTEXT_LEN},
        "model": {"path": str(folder), "conversation": "t5_chat", "image_aspect_ratio": "pad"},
    }
    model = module.CLIPT5Model("ours", device="cpu", cache_dir=str(folder / "cache"))
    model.model.float()
    files = []
    for number, data in enumerate(given.pictures()):
        files.append(str(folder / f"{number}.png"))
        Path(files[-1]).write_bytes(data)
    together = model.forward(files, given.PROMPTS).double().tolist()
    pairs = zip(files, given.PROMPTS, strict=True)
    single = [model.forward([file], [text]).double().item() for file, text in pairs]
    ids = [
        module.t5_tokenizer_image_token(
            module.format_question(module.default_question_template.format(prompt), "t5_chat"),
            model.tokenizer,
        )
        for prompt in given.PROMPTS
    ]
    return {
        "scores": single,
        "together": together,
        "ids": ids,
        "rows": model.model.lm_head.out_features,
    }


def main(checkout):
    warnings.simplefilter("ignore")
    module = upstream(checkout)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        pieces = train_pieces(module, root)
        write_tower(root / "tower")
        transformers.T5Tokenizer(str(root / "spiece.model"), extra_ids=given.EXTRA).save_pretrained(
            root / "words"
        )
        found = {
            "made_with": {
                "t2v_metrics": "10d549b369861aab49e7dbe9f33a469a17ef1129",
                "transformers": transformers.__version__,
                "torch": torch.__version__,
            },
            "pieces": pieces,
        }
        for kind in given.KINDS:
            shapes = shapes_of(module, kind, len(pieces) + given.EXTRA, str(root / "tower"))
            given.write_files(root / kind, kind, shapes, pieces, str(root / "tower"))
            found["shapes"] = shapes
            found[kind] = scores_of(module, root / kind, root / "words")
    given.GOLDEN.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
