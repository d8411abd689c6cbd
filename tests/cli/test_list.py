import json

import pytest

from vipo_cli.recipe import recipe_names

LISTS = {
    "methods": {"diffusion-dpo", "poly-dpo", "sft"},
    "models": {"shapes-sd", "sd15"},
    "datasets": {"shapes", "pickapic_v2", "files", "hub"},
    "rewards": {"pickscore"},
    "benchmarks": {"geneval", "vbench", "vbench2"},
    "categories": {"aesthetics", "text-rendering", "motion"},
    "recipes": set(recipe_names()),
}


@pytest.mark.parametrize("what", LISTS)
def test_a_list_in_three_modes(vipo, what):
    status, text, err = vipo("list", what)
    assert (status, err) == (0, "")
    entries = json.loads(vipo("list", what, "--json")[1])
    assert vipo("list", what, "--quiet")[1].split() == list(entries)
    assert LISTS[what] <= entries.keys()
    lines = text.splitlines()
    assert len(lines) == len(entries)
    for line, (name, summary) in zip(lines, entries.items(), strict=True):
        assert line.split()[0] == name
        assert line.endswith(summary)
        assert summary.strip(), f"{name} says nothing about itself"


def test_the_parameters_of_a_method(vipo):
    text = vipo("list", "methods", "poly-dpo")[1]
    assert "Poly-DPO" in text.splitlines()[0]
    assert "  beta (default 2000.0): Pull towards the reference" in text
    schema = json.loads(vipo("list", "methods", "poly-dpo", "--json")[1])
    assert set(schema["properties"]) == {"beta", "alpha", "kappa"}
    assert vipo("list", "methods", "poly-dpo", "--quiet")[1].split() == ["beta", "alpha", "kappa"]


def test_the_parameters_of_a_data_set(vipo):
    text = vipo("list", "datasets", "files")[1]
    assert "  path (required): " in text


@pytest.mark.parametrize(
    ("what", "name", "line"),
    [
        ("rewards", "pickscore", "  dtype (default fp32): Precision"),
        ("benchmarks", "cvtg-2k", "  clipscore (default False): "),
        ("benchmarks", "vbench", "  temporal_flickering"),
    ],
)
def test_the_parameters_of_what_judges(vipo, what, name, line):
    status, text, _ = vipo("list", what, name)
    assert status == 0
    assert line in text


def test_how_pairs_of_a_category_are_made(vipo):
    text = vipo("list", "categories", "composition")[1]
    assert text.startswith("images, by ")
    assert "agreed with people on" in text
    known = json.loads(vipo("list", "categories", "composition", "--json")[1])
    assert known["rubric"].strip() in text
    assert vipo("list", "categories", "motion")[1].startswith("videos, by ")


@pytest.mark.parametrize("what", ["methods", "datasets", "rewards"])
def test_an_unknown_name_is_told_with_the_nearest(vipo, what):
    wrong = {"methods": "poly-dppo", "datasets": "shaeps", "rewards": "pickscroe"}[what]
    near = {"methods": "poly-dpo", "datasets": "shapes", "rewards": "pickscore"}[what]
    status, out, err = vipo("list", what, wrong)
    assert (status, out) == (1, "")
    assert err.startswith("error: unknown ")
    assert f"hint: did you mean `{near}`?" in err
