import numpy as np
import pytest
import torch
from PIL import Image

from tests.tiny import qwen2vl, qwen3vl
from vipo_cli.chat import find_chat, identity
from vipo_cli.chat import local as module
from vipo_cli.chat.local import load_chat
from vipo_cli.chat.qwen import QwenInputs
from vipo_cli.errors import DataError, MissingWeights, ModelError

WORDS = ["Yes", "No", "<|im_end|>"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return qwen2vl.build(tmp_path_factory.mktemp("qwen2vl"))


@pytest.fixture(scope="module")
def chat(folder):
    return load_chat(str(folder), "cpu")


def picture(seed=0, size=(60, 90)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8))


def test_chances_are_those_of_the_next_word(chat):
    """Worked out by hand: one conversation, spelled out, through the plain model."""
    assert isinstance(chat.processor, QwenInputs)
    (found,) = chat.chances_of([("Be short.", [picture(), "Is it red?"])], [WORDS])
    tokenizer = chat.processor.tokenizer
    seen = chat.processor.pictures(images=[picture()], return_tensors="pt")
    tokens = int(seen["image_grid_thw"].prod()) // 4
    text = (
        "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
        f"{'<|image_pad|>' * tokens}<|vision_end|>Is it red?<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    kinds = (ids == chat.model.config.image_token_id).int()
    with torch.no_grad():
        logits = chat.model(input_ids=ids, mm_token_type_ids=kinds, **seen).logits[0, -1]
    chances = logits.double().softmax(-1)
    first = [tokenizer.convert_tokens_to_ids(word) for word in ("Y", "N", "<|im_end|>")]
    np.testing.assert_allclose(found, chances[first].tolist(), rtol=1e-5)
    assert 0 < min(found) < max(found) < 1


def test_questions_do_not_change_each_other(chat):
    questions = [
        ("", [picture(0), "Is it red?"]),
        ("", [picture(1, (120, 40)), "Is this a picture of a very large dog in a small boat?"]),
        ("", [picture(2, (30, 30)), "?"]),
    ]
    together = chat.chances_of(questions, [WORDS] * 3)
    single = [chat.chances(*question, WORDS) for question in questions]
    np.testing.assert_allclose(together, single, rtol=1e-4)
    assert np.ptp(together, 0).min() > 0


@pytest.mark.parametrize("kind", [qwen2vl, qwen3vl])
def test_a_picture_that_several_questions_share_is_looked_at_once(kind, tmp_path, monkeypatch):
    """The same chances as one by one, with other pictures and instructions before it too."""
    chat = load_chat(str(kind.build(tmp_path)), "cpu")
    looks, visual = [], chat.model.model.visual
    monkeypatch.setattr(visual, "forward", lambda *a, _own=visual.forward, **k: (
        looks.append(len(k["grid_thw"])), _own(*a, **k))[1])  # fmt: skip
    shown, other = picture(0, (300, 200)), picture(1)
    asked = ("Is it red?", "Is this a picture of a very large dog in a small boat?", "?")
    for instructions, before in (("", [shown]), ("Be short.", ["First", other, "then", shown])):
        questions = [(instructions, [*before, question]) for question in asked]
        single = [chat.chances(*question, WORDS) for question in questions]
        looks.clear()
        together = chat.chances_of(questions, [WORDS] * 3)
        assert looks == [sum(not isinstance(part, str) for part in before)]
        np.testing.assert_allclose(together, single, rtol=1e-4)
        assert np.ptp(together, 0).min() > 0
    looks.clear()
    copies = [("", [shown.copy(), question]) for question in asked]
    np.testing.assert_allclose(
        chat.chances_of(copies, [WORDS] * 3),
        chat.chances_of([("", [shown, question]) for question in asked], [WORDS] * 3),
        rtol=1e-4,
    )
    assert looks == [3, 1]
    with pytest.raises(DataError, match="spells"):
        chat.chances_of([("", [shown, "red"]), ("", [shown, "<|image_pad|>"])], [WORDS] * 2)


def test_what_it_says_is_the_same_every_time(chat, monkeypatch):
    monkeypatch.setattr(module, "TOKENS", 4)
    said = chat.ask("Be short.", [picture(), "What is it?", picture(1)])
    assert said == chat.ask("Be short.", [picture(), "What is it?", picture(1)])
    assert chat.ask("", ["No picture."]) is not None


def test_words_that_stand_for_pictures_cannot_be_asked(chat):
    with pytest.raises(DataError, match="spells"):
        chat.ask("", [picture(), "What is <|image_pad|>?"])


def test_another_folder_is_another_model(folder, chat, tmp_path):
    assert identity(str(folder), chat) == identity(str(folder), chat) != chat.name
    assert identity("http://localhost/v1", chat) == chat.name


def test_what_cannot_be_loaded_is_told_of(tmp_path):
    with pytest.raises(MissingWeights, match="nowhere"):
        find_chat(str(tmp_path / "nowhere"))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match="cannot load"):
        find_chat(str(tmp_path))
