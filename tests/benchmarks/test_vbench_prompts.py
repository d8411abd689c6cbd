import json

import pytest

from vipo_cli.benchmarks import prompt_sets
from vipo_cli.benchmarks.vbench import VBENCH
from vipo_cli.benchmarks.vbench2 import VBENCH2
from vipo_cli.benchmarks.vbench_prompts import differences, find_info, read_info
from vipo_cli.errors import DataError

# which dimensions of VBench share their prompts, and how many there are
GROUPS = {
    ("subject_consistency", "dynamic_degree", "motion_smoothness"): 72,
    ("scene", "background_consistency"): 86,
    ("overall_consistency", "aesthetic_quality", "imaging_quality"): 93,
    ("temporal_flickering",): 75,
    ("object_class",): 79,
    ("multiple_objects",): 82,
    ("human_action",): 100,
    ("color",): 85,
    ("spatial_relationship",): 84,
    ("appearance_style",): 90,
    ("temporal_style",): 100,
}


def info(groups):
    return [
        {"prompt_en": f"{names[0]} {number}", "dimension": list(names)}
        for names, count in groups.items()
        for number in range(count)
    ]


@pytest.fixture
def place(tmp_path):
    def write(entries, name="VBench_full_info.json"):
        file = tmp_path / name
        file.write_text(json.dumps(entries))
        return file

    return write


def test_a_prompt_is_tagged_by_the_first_of_its_dimensions(place):
    entries = info(GROUPS)
    entries[0]["auxiliary_info"] = {"color": {"color": "red"}}

    prompts = prompt_sets["vbench"](path=str(place(entries)))

    assert len(prompts) == 946
    assert prompts[0] == {
        "prompt": "subject_consistency 0",
        "tag": "subject_consistency",
        "dimensions": ["subject_consistency", "dynamic_degree", "motion_smoothness"],
        "auxiliary_info": {"color": {"color": "red"}},
    }
    assert sum("background_consistency" in each["dimensions"] for each in prompts) == 86


def test_the_counts_of_both_suites_add_up(place):
    assert differences(VBENCH, read_info(VBENCH, place(info(GROUPS)))) == []
    entries = info({(each.name,): each.prompts for each in VBENCH2.dimensions})
    assert len(prompt_sets["vbench2"](path=str(place(entries)))) == 1230


def test_other_numbers_of_prompts_are_refused(place):
    with pytest.raises(DataError, match="is not the info file of VBench") as caught:
        prompt_sets["vbench"](path=str(place(info(GROUPS | {("color",): 84}))))
    assert caught.value.details == (
        "945 prompts instead of 946",
        "84 prompts for color instead of 85",
    )


@pytest.mark.parametrize(
    "entries",
    [
        [{"prompt_en": "a cat", "dimension": ["sharpness"]}],
        [{"prompt_en": "a cat", "dimension": []}],
        [{"prompt_en": " ", "dimension": ["color"]}],
        [{"dimension": ["color"]}],
        ["a cat"],
        {"prompts": []},
        3,
    ],
)
def test_another_layout_is_refused(place, entries):
    with pytest.raises(DataError, match="is no info file of VBench"):
        read_info(VBENCH, place(entries))


def test_the_installed_package_brings_its_own_file(tmp_path, monkeypatch, place):
    package = tmp_path / "site" / "vbench"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('not imported, only looked at')")
    (package / "VBench_full_info.json").write_text("[]")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))

    assert find_info(VBENCH) == package / "VBench_full_info.json"
    own = place([])
    assert find_info(VBENCH, own) == own


def test_names_of_clips_are_the_official_ones():
    assert VBENCH.clip_name("a cat", 4) == "a cat-4.mp4"
    assert VBENCH2.clip_name("x" * 400, 0) == "x" * 180 + "-0.mp4"
    assert VBENCH.clips(["temporal_flickering"]) == 25
    assert VBENCH.clips(["scene", "background_consistency"]) == 5
    assert (VBENCH2.clips(["Diversity"]), VBENCH2.clips(["Material"])) == (20, 3)
