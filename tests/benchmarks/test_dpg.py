import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vipo_cli.benchmarks import Task, prompt_sets, tasks
from vipo_cli.benchmarks.dpg import DPGBench, category_names, grade, quarters, totals, yes
from vipo_cli.benchmarks.dpg_questions import (
    all_questions,
    dpg_prompts,
    official_questions,
    read_questions,
)
from vipo_cli.benchmarks.dpg_results import item_of, read_detail, read_results
from vipo_cli.errors import DataError
from vipo_cli.media import encode_png

GOLDEN = json.loads((Path(__file__).parent / "golden" / "dpg.json").read_text())["cases"]
HEADING = (
    "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,"
    "question_natural_language"
)
TABLE = f"""{HEADING}
partiprompts97,"A space, with glasses",,1,0,entity,whole,entity - whole (space),Is it empty?
partiprompts97,"A space, with glasses",,2,1,entity,part,"entity - part (a, b)",Are there glasses?
partiprompts97,"A space, with glasses",,3,"1, 2",global,,global - (photo),Is it a photo?
12,Two red cats,,1,0,entity,whole,entity - whole (cats),Are there cats?
12,Two red cats,,2,1,attribute,color,"attribute - color (cats, red)","Are the cats, then, red?"
12,Two red cats,,3,1,other,count,"other - count (cats, ==2)",Are there two cats?
"""


@pytest.fixture
def table(tmp_path):
    file = tmp_path / "dpg_bench.csv"
    file.write_text(TABLE)
    return file


@pytest.fixture
def cats(table):
    return read_questions(table)[1]["questions"]


def ask(id, *parents, row=1, category="entity - whole"):
    return {
        "id": id, "question": f"{id}?", "category": category, "parents": list(parents), "row": row
    }  # fmt: skip


def scored(questions, *answers, rules="corrected"):
    graded = grade(questions, [dict(zip("123", each, strict=True)) for each in answers], rules)
    return graded and graded.scores


class Oracle:
    """Says yes where a picture's first pixel has a bit set for the question."""

    name = "some/Oracle-V1"
    fingerprint = "1"

    def __init__(self):
        self.seen = []

    def ask(self, picture, questions):
        self.seen.append(picture.size)
        bits = picture.getpixel((0, 0))[0]
        return ["Yes." if bits >> place & 1 else "no" for place, _ in enumerate(questions)]


def picture(*bits):
    """A picture, or a grid of four, whose answers are bits."""
    side = 2 if len(bits) > 1 else 1
    pixels = np.zeros((2 * side, 2 * side, 3), np.uint8)
    for place, value in enumerate(bits):
        row, column = divmod(place, side)
        pixels[2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = value
    return encode_png(pixels)


def test_a_record_has_prompt_origin_and_questions_in_the_order_of_the_table(table):
    glasses, cats = read_questions(table)
    assert (glasses["prompt"], glasses["tag"]) == ("A space, with glasses", "partiprompts")
    assert (cats["item"], cats["tag"]) == ("12", "numbered")
    assert glasses["questions"][2] == {
        "id": 3, "question": "Is it a photo?", "category": "global -", "parents": [1, 2], "row": 2
    }  # fmt: skip
    json.dumps(glasses)


def test_a_no_to_a_parent_takes_its_children_and_theirs_along(cats):
    chain = [ask("1"), ask("2", "1"), ask("3", "2")]
    assert scored(chain, ["yes", "yes", "yes"]) == (1.0,)
    assert scored(chain, ["no", "yes", "yes"]) == (0.0,)
    assert scored(chain, ["yes", "no", "yes"]) == (1 / 3,)


def test_zeroing_goes_through_the_questions_once_in_their_order():
    backwards = [ask("1", "2"), ask("2", "3"), ask("3")]
    assert scored(backwards, ["yes", "yes", "no"]) == (1 / 3,)  # 1 was looked at before 2 fell


def test_a_picture_has_a_mean_and_a_prompt_the_mean_of_its_pictures(cats):
    said = [{1: "yes", 2: "no", 3: "yes"}, {1: "no", 2: "yes", 3: "yes"}]
    graded = grade(cats, said)
    assert graded.scores == (2 / 3, 0.0)
    assert graded.score == pytest.approx(1 / 3)
    assert graded.categories == {
        "entity": [1, 0], "entity - whole": [1, 0],
        "attribute": [0, 0], "attribute - color": [0, 0],
        "other": [1, 0], "other - count": [1, 0],
    }  # fmt: skip


def test_official_categories_are_of_the_last_picture_and_do_not_heed_parents(cats):
    said = [{1: "yes", 2: "yes", 3: "yes"}, {1: "no", 2: "yes", 3: "yes"}]
    graded = grade(cats, said, "official")
    assert graded.scores == (1.0, 0.0)
    assert graded.categories["attribute"] == [1]
    assert graded.categories["entity"] == [0]


def test_the_official_rules_never_ask_the_first_row_and_drop_what_depends_on_it(table):
    glasses, cats = read_questions(table)
    assert [each["id"] for each in official_questions(glasses["questions"])] == [2, 3]
    prompts = {each["item"]: each["questions"] for each in (glasses, cats)}
    said = {item: [dict.fromkeys((1, 2, 3), "yes")] for item in prompts}
    assert totals(prompts, said).prompts == 2
    official = totals(prompts, said, "official")
    assert (official.prompts, official.left_out) == (1, ("partiprompts97",))


def test_the_official_rules_forget_the_first_of_two_blocks():
    questions = [ask(1, row=3), ask(2, row=4), ask(3, row=9), ask(4, row=10)]
    assert [each["id"] for each in official_questions(questions)] == [3, 4]
    assert len(all_questions(questions)) == 4


def test_yes_is_a_first_word_but_officially_all_there_is():
    assert yes("Yes, it is.") and yes(" yes") and yes("**Yes**")
    assert not yes("yesterday") and not yes("no, yes")
    assert yes("yes", "official") and not yes("Yes", "official")


@pytest.mark.parametrize(
    ("category", "names"),
    [
        ("entity - whole", ["entity", "entity - whole"]),
        ("relation - non-spatial", ["relation", "relation - non-spatial"]),
        ("global -", ["global"]),
    ],
)
def test_an_answer_counts_for_two_levels_of_categories(category, names):
    assert category_names(category) == names


def test_a_question_without_an_answer_is_an_error_and_never_a_no(cats):
    with pytest.raises(DataError, match="no answer to `Are there two cats"):
        grade(cats, [{1: "yes", 2: "yes"}])
    with pytest.raises(DataError, match="no answer"):
        grade(cats, [{1: "yes", 2: "yes", 3: " "}])


@pytest.mark.parametrize("case", GOLDEN, ids=range(len(GOLDEN)))
def test_official_totals_are_those_that_the_public_script_printed(case, tmp_path):
    for name in ("table", "detail", "results"):
        (tmp_path / name).write_text(case[name])
    prompts = {each["item"]: each["questions"] for each in read_questions(tmp_path / "table")}
    found = read_detail(tmp_path / "detail", prompts).totals(prompts, "official")
    results = read_results(tmp_path / "results")
    assert {"dpg": found.overall} | dict(found.categories) == results.printed
    assert found.prompts == len(results.scores)
    assert results.overall == pytest.approx(found.overall, abs=1e-10)


def test_the_golden_cases_hold_what_is_wrong_in_the_public_script(tmp_path):
    left_out = 0
    for case in GOLDEN:
        for name in ("table", "detail"):
            (tmp_path / name).write_text(case[name])
        prompts = {each["item"]: each["questions"] for each in read_questions(tmp_path / "table")}
        detail = read_detail(tmp_path / "detail", prompts)
        left_out += len(detail.totals(prompts, "official").left_out)
    assert left_out > 5


PUBLISHED = {
    "attribute": 87.40629685157421, "attribute - color": 87.87602552415679,
    "attribute - other": 86.33440514469454, "attribute - shape": 89.93919292426756,
    "attribute - size": 86.59320477502295, "attribute - texture": 84.84848484848484,
    "entity": 85.22996057818659, "entity - part": 84.07908428720083,
    "entity - state": 85.50968828980623, "entity - whole": 85.69704284852142,
    "global": 86.27232142857143,
    "other": 85.88640275387263, "other - count": 88.55273916598529,
    "other - text": 79.61538461538461,
    "relation": 88.83696780893042, "relation - non-spatial": 89.01554404145078,
    "relation - spatial": 88.6576482830385,
}  # fmt: skip
COUNTS = {
    "attribute - color": (964, 1097), "attribute - other": (537, 622),
    "attribute - shape": (1627, 1809), "attribute - size": (943, 1089),
    "attribute - texture": (1176, 1386), "entity - part": (808, 961),
    "entity - state": (1015, 1187), "entity - whole": (1420, 1657), "global -": (773, 896),
    "other - count": (1083, 1223), "other - text": (414, 520),
    "relation - non-spatial": (859, 965), "relation - spatial": (852, 961),
}  # fmt: skip
"""The fewest answers, and how many of them are yes, that give each of the published figures."""


def test_a_published_row_adds_up_digit_by_digit():
    """BLIP3o's figures (github.com/JiuhaiChen/BLIP3o, issue 48): the public script printed them."""
    prompts, said = {}, {}
    for category, (right, number) in COUNTS.items():
        prompts[category] = [ask(id, row=id + 1, category=category) for id in range(number)]
        said[category] = [{id: "yes" if id < right else "no" for id in range(number)}]
    assert dict(totals(prompts, said, "official").categories) == PUBLISHED


def test_a_detail_file_gives_corrected_totals_of_all_but_the_incomplete(table, tmp_path):
    glasses, cats = read_questions(table)
    prompts = {each["item"]: each["questions"] for each in (glasses, cats)}
    detail = tmp_path / "r_detail.txt"
    lines = [
        "/a, b/12.png, (0, 0, 4, 4), Are there cats?, yes",
        "/a, b/partiprompts97.png, (0, 0, 4, 4), Are there glasses?, no, none",
        "/a, b/12.png, (0, 0, 4, 4), Are the cats, then, red?, yes",
        "/a, b/partiprompts97.png, (0, 0, 4, 4), Is it a photo?, yes",
        "/a, b/12.png, (0, 0, 4, 4), Are there two cats?, no",
    ]
    detail.write_text("\n".join(lines) + "\n")
    found = read_detail(detail, prompts)
    assert found.incomplete == ("partiprompts97",)
    assert found.said["partiprompts97"] == [{2: "no, none", 3: "yes"}]
    corrected = found.totals(prompts, "corrected")
    assert (corrected.overall, corrected.left_out) == (pytest.approx(200 / 3), ("partiprompts97",))
    detail.write_text(lines[0] + "\n" + lines[0] + "\nnonsense\n")
    with pytest.raises(DataError) as error:
        read_detail(detail, prompts)
    assert error.value.details == (
        "line 2: no question of `12`, or answered before",
        "line 3: no picture, corners, question and answer",
    )


def test_a_results_file_whose_means_do_not_fit_is_refused(tmp_path):
    file = tmp_path / "r.txt"
    file.write_text("/x/12.png, 1.0, 0.5, 0.8\n")
    with pytest.raises(DataError) as error:
        read_results(file)
    assert error.value.details == ("line 1: 0.8 is not the mean of [1.0, 0.5]",)
    file.write_text("/x/12.v2.png, 1.0, 0.5, 0.75\nDPG-Bench score: 75.0\n")
    assert read_results(file).scores == {"12": (1.0, 0.5)}
    assert item_of("C:\\a\\12.png") == "12"


def test_tables_with_holes_are_refused_with_their_rows(tmp_path):
    file = tmp_path / "t.csv"
    file.write_text("item_id,text\n")
    with pytest.raises(DataError, match="no column proposition_id, dependency"):
        read_questions(file)
    file.write_text(TABLE + "13,text,,x,0,a,b,entity - whole (a),q?\n14,text,,1\n")
    with pytest.raises(DataError) as error:
        read_questions(file)
    assert [line.split(":")[0] for line in error.value.details] == ["row 8", "row 9"]


def test_the_named_prompt_set_is_the_published_table_or_nothing(table, monkeypatch):
    assert prompt_sets["dpg"] is dpg_prompts
    with pytest.raises(DataError, match="is not the published DPG-Bench") as error:
        dpg_prompts(path=str(table))
    assert "98457fc9901943f51ff9a30367250fc292533bed" in error.value.details[0]


def test_the_benchmark_judges_single_pictures(table):
    task = DPGBench(Oracle())
    assert isinstance(task, Task)
    assert (task.name, task.title) == ("dpg_bench.oracle-v1", "DPG-Bench by oracle-v1")
    assert "not comparable" in task.notes[0]
    asked = read_questions(table)[1]
    right, wrong = task.judge([picture(0b111), picture(0b101)], [asked, asked])
    assert right.scores["dpg"] == 100 and right.reason == ""
    assert wrong.scores == {
        "dpg": pytest.approx(200 / 3), "entity": 100, "entity - whole": 100,
        "attribute": 0, "attribute - color": 0, "other": 100, "other - count": 100,
    }  # fmt: skip
    assert wrong.reason == "Are the cats, then, red?"
    assert set(wrong.scores) <= {metric.key for metric in task.metrics}
    assert wrong.weights["entity"] == 1 and "dpg" not in wrong.weights


def test_categories_weigh_as_many_questions_as_they_have(table):
    questions = [ask(1), ask(2), ask(3, category="other - text")]
    verdict = DPGBench(Oracle()).judge([picture(0b001)], [{"questions": questions}])[0]
    assert verdict.scores["entity"] == 50
    assert verdict.weights == {"entity": 2, "entity - whole": 2, "other": 1, "other - text": 1}


def test_a_grid_is_four_pictures_of_one_prompt(table):
    oracle = Oracle()
    task = DPGBench(oracle, grid=True)
    assert task.images_per_prompt == 1
    asked = read_questions(table)[1]
    verdict = task.judge([picture(0b111, 0b111, 0b111, 0b110)], [asked])[0]
    assert oracle.seen == [(2, 2)] * 4
    assert verdict.scores["dpg"] == 75 and verdict.scores["entity"] == 75
    official = DPGBench(Oracle(), "official", grid=True).judge([picture(7, 7, 7, 6)], [asked])[0]
    assert official.scores["dpg"] == 0  # the oracle says `Yes.`, which is not `yes`


def test_a_grid_that_cannot_be_halved_fails():
    assert [each.getpixel((0, 0))[0] for each in quarters(Image.new("RGB", (4, 2), (9, 9, 9)))] == [
        9, 9, 9, 9
    ]  # fmt: skip
    with pytest.raises(DataError, match="5 x 4 pixels are no grid"):
        quarters(Image.new("RGB", (5, 4)))


def test_officially_the_last_of_four_single_pictures_counts_for_categories(table):
    task = DPGBench(Oracle(), "official")
    asked = read_questions(table)[1]
    first, last = (
        task.judge([picture(7)], [asked | {"image_index": index}])[0] for index in (0, 3)
    )
    assert set(first.scores) == {"dpg"}
    assert {"dpg", "entity", "other - count"} <= set(last.scores)
    with pytest.raises(DataError, match="which of four pictures"):
        task.judge([picture(7)], [asked])


def test_what_the_official_script_drops_says_nothing(table):
    task = DPGBench(Oracle(), "official", grid=True)
    asked = read_questions(table)[0]
    verdict = task.judge([picture(7, 7, 7, 7)], [asked])[0]
    assert verdict.scores == {} and "drops this prompt" in verdict.reason


def test_options_are_described():
    schema = tasks.parameters("dpg").model_json_schema()["properties"]
    assert set(schema) == {"judge", "judge_model", "rules", "grid"}
    assert all(each["description"] for each in schema.values())
