import sys
from types import ModuleType

import numpy as np
import pytest

from vipo_cli.errors import MissingWeights
from vipo_cli.media import encode_png
from vipo_cli.rewards import ocr, rewards
from vipo_cli.rewards.ocr import (
    edit_distance,
    normalised,
    ocr_similarity,
    ocr_words,
    quoted,
    similarity,
    word_accuracy,
)


def png(level, side=300):
    return encode_png(np.full((side, side, 3), level, np.uint8))


@pytest.fixture
def reader(monkeypatch):
    """Put a reader in the place of RapidOCR that reads a picture's brightness off a list."""
    seen = []

    class RapidOCR:
        def __call__(self, picture):
            seen.append(picture.shape)
            words = {0: None, 1: ["Grand", "Opening"], 2: ["GRAND OPENIG!"], 3: ["grand"]}
            found = words[int(picture[0, 0, 0])]
            return (found and [[None, text, 0.9] for text in found]), None

    module = ModuleType("rapidocr_onnxruntime")
    module.RapidOCR = RapidOCR
    monkeypatch.setitem(sys.modules, "rapidocr_onnxruntime", module)
    monkeypatch.setattr(ocr, "INSTALLED", {"rapidocr": lambda: True, "tesseract": lambda: False})
    ocr._rapidocr.cache_clear()
    yield seen
    ocr._rapidocr.cache_clear()


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ('a sign that says "Grand Opening"', "Grand Opening"),
        ("a shirt with \u201cHello\u201d and \u2018World\u2019", "Hello World"),
        ("a cup with 'Don't Panic' on it", "Don't Panic"),
        ("a dog's bowl in the children's room", ""),
        ("\u00abPain\u00bb over a door", "Pain"),
        ("nothing quoted", ""),
    ],
)
def test_what_is_quoted(prompt, text):
    assert quoted(prompt) == text


def test_case_width_and_punctuation_do_not_count():
    assert normalised("  Grand-OPENING!\nToday ") == "grand opening today"
    assert normalised("\uff21\uff22") == "ab"
    assert normalised("caf\u00e9") == normalised("cafe\u0301")
    assert normalised("...") == ""


@pytest.mark.parametrize(
    ("one", "other", "distance"),
    [("", "", 0), ("abc", "", 3), ("", "ab", 2), ("kitten", "sitting", 3), ("ab", "ba", 2)],
)
def test_edit_distance(one, other, distance):
    assert edit_distance(one, other) == distance


def test_measures():
    assert similarity("abcd", "abcd") == 1
    assert similarity("abcd", "abxd") == 0.75
    assert similarity("ab", "") == 0
    assert similarity("ab", "abababab") == 0.25  # what nobody asked for counts too
    assert word_accuracy("the cat the", "the dog") == pytest.approx(1 / 3)
    assert word_accuracy("a b", "b a c") == 1


def test_pictures_are_read_and_compared(reader):
    media = [png(level) for level in range(4)]
    prompt = 'a shop with "Grand Opening"'
    scores = ocr_similarity().score(media, [prompt] * 4)
    assert scores.tolist() == pytest.approx([0, 1, 12 / 13, 5 / 13])
    assert ocr_words().score(media, [prompt] * 4).tolist() == [0, 1, 0.5, 0.5]
    assert len(reader) == 4  # each picture is read once for both


def test_what_cannot_be_judged_is_nan(reader):
    scores = ocr_words().score([png(1), b"broken", png(1)], ["no text", 'a "b"', '"..."'])
    assert np.isnan(scores).all()


def test_small_pictures_are_enlarged_for_the_reader(reader):
    ocr_words().score([png(1, 32)], ['"x"'])
    assert min(reader[0][:2]) >= 256


def test_without_a_backend_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(ocr, "INSTALLED", dict.fromkeys(ocr.INSTALLED, lambda: False))
    for name in ("ocr-similarity", "ocr-words"):
        with pytest.raises(MissingWeights, match="no OCR backend") as caught:
            rewards[name]()
        assert "vipo[ocr]" in caught.value.hint


def test_measures_differ_in_their_fingerprint(reader):
    assert ocr_words().fingerprint != ocr_similarity().fingerprint
