import json

import numpy as np
import pytest
import torch
from PIL import Image

from vipo_cli.benchmarks import vqa
from vipo_cli.benchmarks.vqa import blip_pixels, find_vqa
from vipo_cli.errors import MissingWeights, ModelError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]"]
WORDS += ["is", "there", "a", "red", "cat", "dog", "?", "yes", "no", "are", "they", "two"]
QUESTIONS = ["is there a cat?", "are they red?", "is there a dog?", "two", "is there a cat?"]


@pytest.fixture(scope="module")
def blip(tmp_path_factory):
    """BLIP for questions with random weights, as small as it gets, in the published layout."""
    from transformers import BertTokenizerFast, BlipConfig, BlipForQuestionAnswering

    folder = tmp_path_factory.mktemp("blip-tiny")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    size = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
    tokens = {"bos_token_id": 5, "sep_token_id": 3, "pad_token_id": 0, "eos_token_id": 3}
    config = BlipConfig(
        text_config=size
        | tokens
        | {
            "vocab_size": len(WORDS),
            "num_hidden_layers": 2,
            "encoder_hidden_size": 16,
            "max_position_embeddings": 32,
        },
        vision_config=size | {"num_hidden_layers": 2, "image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    torch.manual_seed(0)
    model = BlipForQuestionAnswering(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)  # so that answers differ
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def picture():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 57, 3), np.uint8)
    return Image.fromarray(pixels)


def test_blip_answers_as_transformers_does_one_question_at_a_time(blip, picture):
    from transformers import AutoTokenizer, BlipForQuestionAnswering

    judge = find_vqa(str(blip))
    assert judge.name == blip.name
    model = BlipForQuestionAnswering.from_pretrained(blip).eval()
    tokenizer = AutoTokenizer.from_pretrained(blip)
    pixels = torch.from_numpy(blip_pixels(picture, 32))[None]
    expected = []
    for question in QUESTIONS:
        tokens = model.generate(
            **tokenizer(question, return_tensors="pt", return_token_type_ids=False),
            pixel_values=pixels,
            max_new_tokens=vqa.BLIP_TOKENS,
            do_sample=False,
        )
        expected.append(tokenizer.decode(tokens[0], skip_special_tokens=True).strip())
    assert judge.ask(picture, QUESTIONS) == expected
    assert any(expected) and len(set(expected)) > 1


def test_no_answer_depends_on_the_questions_beside_it(blip, picture):
    judge = find_vqa(str(blip))
    alone = [judge.ask(picture, [question])[0] for question in QUESTIONS]
    assert judge.ask(picture, QUESTIONS) == alone
    assert judge.ask(picture, []) == []


def test_blip_sees_what_its_processor_makes(picture):
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    processor = BlipImageProcessorPil(size={"height": 32, "width": 32})
    expected = processor(picture, return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(blip_pixels(picture, 32), expected, atol=1e-6)


def test_another_model_has_another_fingerprint(blip, tmp_path):
    from safetensors.torch import load_file, save_file

    for file in blip.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    name = next(iter(weights))
    weights[name] = weights[name] + 1
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    assert find_vqa(str(tmp_path)).fingerprint != find_vqa(str(blip)).fingerprint


def test_damaged_and_missing_models_are_told(blip, tmp_path):
    for file in blip.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"no")
    with pytest.raises(ModelError, match="cannot load the model in"):
        find_vqa(str(tmp_path))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(MissingWeights, match=r"holds no `model\.safetensors`"):
        find_vqa(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nobody"}))
    with pytest.raises(ModelError, match="no model that transformers knows"):
        find_vqa(str(tmp_path))
    with pytest.raises(MissingWeights, match="Salesforce/blip-vqa-base"):
        find_vqa("Salesforce/blip-vqa-base")


class Chat:
    name = "org/Some-VL"

    def __init__(self, together):
        self.together = together
        self.asked = []

    def ask(self, instructions, parts):
        self.asked.append((instructions, parts))
        return f" {parts[1].upper()}\n"


@pytest.mark.parametrize("together", [1, 3])
def test_a_vision_language_model_is_asked_each_question_by_itself(together, picture, monkeypatch):
    chat = Chat(together)
    asked_for = []

    def find_chat(name, model, together):
        asked_for.append((name, model))
        return chat

    monkeypatch.setattr(vqa, "find_chat", find_chat)
    judge = find_vqa("http://localhost:1/v1", "some")
    assert asked_for == [("http://localhost:1/v1", "some")]
    assert judge.name == "org/Some-VL"
    assert judge.ask(picture, ["a?", "b?", "c?"]) == ["A?", "B?", "C?"]
    assert {parts[1] for _, parts in chat.asked} == {"a?", "b?", "c?"}
    assert all("yes or no" in instructions for instructions, _ in chat.asked)


def test_conversations_are_those_of_the_judges():
    from vipo_cli.building.judge import find_judge

    assert vqa.find_chat is find_judge
