import json
import zipfile

import pytest

from vipo_cli.benchmarks.vbench import VBENCH
from vipo_cli.benchmarks.vbench2 import VBENCH2
from vipo_cli.benchmarks.vbench_files import (
    OFFICIAL_DEPTH,
    backends_apart,
    prompt_of,
    read_judged,
    read_results,
    write_results,
)
from vipo_cli.errors import DataError


def clips(values, prompt="a cat"):
    return [
        {"video_path": f"./clips/{prompt}-{number}.mp4", "video_results": value}
        for number, value in enumerate(values)
    ]


def put(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    return file


def test_one_file_holds_several_dimensions(tmp_path):
    put(
        tmp_path / "results_2026_eval_results.json",
        {"scene": [0.5, clips([0.25, 0.75])], "human_action": [1.0, clips([True, True])]},
    )

    found = read_results(VBENCH, [tmp_path])

    assert found.values == {"human_action": 1.0, "scene": 0.5}
    assert [one.value for one in found.measured["scene"].results] == [0.25, 0.75]
    assert [one.value for one in found.measured["human_action"].results] == [1.0, 1.0]
    assert {one.prompt for one in found.measured["scene"].results} == {"a cat"}
    assert found.warnings == ()


def test_files_are_found_at_any_depth_and_lists_of_prompts_are_passed_over(tmp_path):
    put(tmp_path / "color" / "model" / "r_eval_results.json", {"color": [0.5, clips([0.5])]})
    put(tmp_path / "scene" / "r_eval_results.json", {"scene": [0.5, clips([0.5])]})
    put(tmp_path / "scene" / "r_full_info.json", [{"prompt_en": "a cat"}])

    assert read_results(VBENCH, [tmp_path]).values == {"color": 0.5, "scene": 0.5}


def test_the_public_depth_leaves_out_what_lies_deeper_and_says_so(tmp_path):
    put(tmp_path / "color" / "model" / "r_eval_results.json", {"color": [0.5, clips([0.5])]})
    put(tmp_path / "scene" / "r_eval_results.json", {"scene": [0.5, clips([0.5])]})

    found = read_results(VBENCH, [tmp_path], depth=OFFICIAL_DEPTH)

    assert found.values == {"scene": 0.5}
    assert found.warnings == ("1 result files lie more than 1 folder down and do not count",)


def test_a_submission_is_read_from_its_zip(tmp_path):
    place = tmp_path / "evaluation_results.zip"
    with zipfile.ZipFile(place, "w") as archive:
        archive.writestr("a_eval_results.json", json.dumps({"scene": [0.5, clips([0.5])]}))
        archive.writestr("x/b_eval_results.json", json.dumps({"color": [0.25, clips([0.25])]}))
        archive.writestr("__MACOSX/._a_eval_results.json", "no json")

    found = read_results(VBENCH, [place])

    assert found.values == {"color": 0.25, "scene": 0.5}
    assert found.measured["color"].source == f"{place}:x/b_eval_results.json"


def test_names_with_spaces_and_of_any_case_are_recognised(tmp_path):
    place = put(
        tmp_path / "r.json", {"Multi-View Consistency": [0.5, []], "human_identity": [0.25, []]}
    )

    assert read_results(VBENCH2, [place]).values == {
        "Human_Identity": 0.25,
        "Multi-View_Consistency": 0.5,
    }


def test_clips_that_a_dimension_leaves_out_do_not_count(tmp_path):
    place = put(tmp_path / "r.json", {"Material": [0.5, clips([1, -1, 0, -1])]})

    one = read_results(VBENCH2, [place]).measured["Material"]

    assert [each.value for each in one.results] == [1.0, 0.0]
    assert one.left_out == 2


def test_results_of_clips_are_on_the_scale_of_the_value_and_weigh_by_their_frames(tmp_path):
    weighted = clips([0.25, 1.0])
    weighted[0]["frame_count"], weighted[1]["frame_count"] = 12, 4
    pooled = clips([0.5, 0.0])
    pooled[0]["frame_results"] = [0.5, 0.5]
    place = put(
        tmp_path / "r.json",
        {
            "imaging_quality": [0.625, clips([50.0, 75.0])],
            "scene": [0.4375, weighted],
            "appearance_style": [1 / 3, pooled],
        },
    )

    found = read_results(VBENCH, [place])

    assert [one.value for one in found.measured["imaging_quality"].results] == [0.5, 0.75]
    assert [one.weight for one in found.measured["scene"].results] == [12, 4]
    assert [one.weight for one in found.measured["appearance_style"].results] == [2, 1]
    assert found.warnings == ()  # each mean agrees with its value


def test_a_value_that_its_clips_do_not_give_is_pointed_out(tmp_path):
    place = put(tmp_path / "r.json", {"scene": [0.9, clips([0.25, 0.75])], "color": [0.5]})

    [about_color, about_scene] = read_results(VBENCH, [place]).warnings

    assert "color comes without the results of its clips" in about_color
    assert "scene is 0.9000, but the results of its clips average to 0.5000" in about_scene


def test_what_is_not_a_number_is_missing(tmp_path):
    (tmp_path / "r.json").write_text('{"scene": [NaN, []], "color": [0.5, []]}')

    found = read_results(VBENCH, [tmp_path])

    assert found.values == {"color": 0.5}
    assert found.warnings[0].startswith("scene is not a number")


def test_two_results_of_a_dimension_are_refused_unless_they_are_the_same(tmp_path):
    put(tmp_path / "a.json", {"scene": [0.5, []]})
    put(tmp_path / "b.json", {"scene": [0.5, []]})
    assert read_results(VBENCH, [tmp_path]).values == {"scene": 0.5}

    put(tmp_path / "c.json", {"scene": [0.6, []]})
    with pytest.raises(DataError, match="scene has several results") as caught:
        read_results(VBENCH, [tmp_path])
    assert len(caught.value.details) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "damaged"),
        ('{"scene": ["0.5", []]}', "has no value for scene"),
        ('{"scene": []}', "has no value for scene"),
        ('{"scene": [true, []]}', "has no value for scene"),
        ('{"other": [0.5, []]}', "no results of VBench"),
        ("[]", "no results of VBench"),
    ],
)
def test_what_is_no_result_file_is_refused(tmp_path, text, message):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read_results(VBENCH, [tmp_path])


def test_both_backends_are_compared_clip_by_clip(tmp_path):
    assert backends_apart(VBENCH, tmp_path) == {}
    put(tmp_path / "native/scene_eval_results.json", {"scene": [0.5, clips([0.25, 0.75])]})
    put(tmp_path / "native/color_eval_results.json", {"color": [0.5, clips([0.5])]})
    results = clips([0.25, 0.5, 0.75])
    put(tmp_path / "official/scene/results_eval_results.json", {"scene": [0.5, results]})

    assert backends_apart(VBENCH, tmp_path) == {
        "scene": {
            "clips": 2,
            "largest": 0.25,
            "value": 0.0,
            "only_native": [],
            "only_official": ["a cat-2.mp4"],
        }
    }
    assert read_judged(VBENCH, tmp_path)[1] == {"color": "native", "scene": "official"}


def test_a_place_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_results(VBENCH, [tmp_path / "nothing"])


def test_what_is_written_is_read_again(tmp_path):
    file = tmp_path / "scene_eval_results.json"
    write_results(file, "scene", 0.5, clips([0.25, 0.75]))
    assert read_results(VBENCH, [file]).measured["scene"].value == 0.5


@pytest.mark.parametrize(
    ("clip", "prompt"),
    [
        ("a cat-0.mp4", "a cat"),
        ("A 3D model of a house.-12.mp4", "A 3D model of a house."),
        ("a wrought-iron bench-3.gif", "a wrought-iron bench"),
        ("A_3D_model_of_a_house.-4", "A_3D_model_of_a_house."),
        ("no index.mp4", "no index"),
    ],
)
def test_a_clip_is_named_by_its_prompt(clip, prompt):
    assert prompt_of(clip) == prompt
