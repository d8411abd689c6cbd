import pytest

from vipo_cli.data.geneval_prompts import geneval_prompts, is_of_its_form
from vipo_cli.data.wording import estimate_tokens, known_as, normalise, script_of


def test_geneval_has_its_published_prompts():
    prompts = geneval_prompts()
    assert len(prompts) == len(set(prompts)) == 553
    first = {
        "a photo of a bench": 0,
        "a photo of a cow": 1,
        "a photo of a bench and a sports ball": 80,
        "a photo of two clocks": 179,
        "a photo of a blue fire hydrant": 259,
        "a photo of a dog right of a teddy bear": 353,
        "a photo of a purple wine glass and a black apple": 453,
    }
    assert {prompt: prompts.index(prompt) for prompt in first} == first
    assert all(map(is_of_its_form, prompts))


@pytest.mark.parametrize(
    ("prompt", "known"),
    [
        ("A photo of a BENCH.", "geneval"),
        ("a  photo of a cat, and a dog", "like geneval"),
        ("a photo of four red apples", ""),
        ("a photo of a bench in the rain", ""),
        ("Held  back!", "leaked"),
    ],
)
def test_known_prompts_are_found_however_they_are_written(prompt, known):
    assert known_as(prompt, {"held back"}) == known


def test_normalising_keeps_words_alone():
    assert normalise("  A\u00a0Cat,\n(sitting)_on it\u2026 ") == "a cat sitting on it"
    assert normalise("\uff21 Stra\u00dfe") == "a strasse"


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    # counted with CLIP's own vocabulary
    [
        ("a photo of a cat, 8k, trending on artstation", 15),
        ("x" * 400, 102),
        (
            "\u4e00\u53ea\u732b\u5750\u5728\u7a97\u53f0\u4e0a\u770b\u7740\u5916\u9762\u7684\u96e8",
            37,
        ),
        ("\u043a\u043e\u0448\u043a\u0430 \u0441\u0438\u0434\u0438\u0442 \u043d\u0430 \u043e", 18),
    ],
)
def test_tokens_are_estimated_within_a_tenth(prompt, tokens):
    assert estimate_tokens(prompt) == pytest.approx(tokens, rel=0.1, abs=1.5)


def test_scripts():
    assert script_of("a caf\u00e9") == "latin"
    assert script_of("\u043a\u043e\u0448\u043a\u0430, 8k") == "cyrillic"
    assert script_of("\u732b\u304c\u3044\u307e\u3059") == "hiragana"
    assert script_of("\u2728 1 2 3") == "latin"
