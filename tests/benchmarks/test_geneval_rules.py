import numpy as np
import pytest

from vipo_cli.benchmarks import Detection, Detector, detectors, prompt_sets
from vipo_cli.benchmarks.geneval import TASKS, relations, wrong


def box_at(x, y, size=2.0):
    return (x - size / 2, y - size / 2, x + size / 2, y + size / 2)


def found(label, score=0.95, box=(0.0, 0.0, 2.0, 2.0)):
    return Detection(label, score, box)


def asking(*include, tag="single_object", exclude=()):
    return {"tag": tag, "include": list(include), "exclude": list(exclude), "prompt": ""}


def no_colour(detection):
    raise AssertionError("nobody asked for a colour")


def correct(metadata, detections, colour_of=no_colour):
    return not wrong(metadata, detections, colour_of)


CIRCLE = {"class": "circle", "count": 1}


def test_an_object_that_is_there_is_enough_whatever_else_is():
    assert wrong(asking(CIRCLE), [found("cross"), found("circle")], no_colour) == ""


def test_too_few_objects_are_wrong_and_the_reason_says_how_many_there_are():
    said = wrong(asking({"class": "circle", "count": 2}), [found("circle")], no_colour)
    assert said == "expected 2 of circle, found 1"


def test_every_problem_is_told():
    said = wrong(asking(CIRCLE, {"class": "cross", "count": 1}), [], no_colour)
    assert said == "expected 1 of circle, found 0; expected 1 of cross, found 0"


@pytest.mark.parametrize(
    ("tag", "threshold"), [("single_object", 0.3), ("counting", 0.9), ("position", 0.3)]
)
def test_a_score_must_exceed_the_threshold_in_float32(tag, threshold):
    at = float(np.float32(threshold))
    above = float(np.nextafter(np.float32(threshold), np.float32(1)))
    assert not correct(asking(CIRCLE, tag=tag), [found("circle", at)])
    assert not correct(asking(CIRCLE, tag=tag), [found("circle", threshold)])
    assert correct(asking(CIRCLE, tag=tag), [found("circle", above)])


def test_float64_would_accept_what_float32_does_not():
    score = float(np.nextafter(0.3, 1))  # above 0.3, but the same number in float32
    assert not correct(asking(CIRCLE), [found("circle", score)])


def test_excluding_one_more_makes_counting_exact():
    metadata = asking(
        {"class": "circle", "count": 2},
        tag="counting",
        exclude=[{"class": "circle", "count": 3}],
    )
    assert [correct(metadata, [found("circle")] * number) for number in (1, 2, 3, 4)] == [
        False,
        True,
        False,
        False,
    ]
    unsure = [found("circle"), found("circle"), found("circle", 0.8)]
    assert correct(metadata, unsure)


def test_an_excluded_class_that_is_absent_does_no_harm():
    assert correct(asking(CIRCLE, exclude=[{"class": "cross", "count": 1}]), [found("circle")])


def test_at_most_sixteen_of_a_class_are_kept():
    many = [found("circle")] * 20
    assert correct(asking({"class": "circle", "count": 16}), many)
    assert not correct(asking({"class": "circle", "count": 17}), many)
    assert correct(asking(CIRCLE, exclude=[{"class": "circle", "count": 17}]), many)


def test_the_most_confident_are_taken_and_their_colours_counted():
    metadata = asking({"class": "circle", "count": 1, "color": "red"})
    blue, red = found("circle", 0.9, box_at(1, 1)), found("circle", 0.8, box_at(9, 9))
    names = {blue: "blue", red: "red"}
    said = wrong(metadata, [red, blue], names.__getitem__)
    assert said == "expected 1 red circle, found 0 (blue)"
    assert correct(metadata, [red, found("circle", 0.5, blue.box)], lambda d: names.get(d, "blue"))


def test_as_many_as_asked_must_have_the_colour():
    metadata = asking({"class": "circle", "count": 2, "color": "red"})
    detections = [found("circle", 0.9, box_at(1, 1)), found("circle", 0.8, box_at(9, 9))]
    assert correct(metadata, detections, lambda _: "red")
    assert not correct(metadata, detections, lambda d: "red" if d.score > 0.85 else "blue")


def test_equal_scores_keep_the_order_of_the_detector():
    metadata = asking({"class": "circle", "count": 1, "color": "red"})
    red, blue = found("circle", 0.9, box_at(1, 1)), found("circle", 0.9, box_at(9, 9))
    names = {red: "red", blue: "blue"}
    assert correct(metadata, [red, blue], names.__getitem__)
    assert not correct(metadata, [blue, red], names.__getitem__)
    many = [found("circle", 0.9, box_at(x, 0)) for x in range(50)]
    asked = []
    wrong(
        asking({"class": "circle", "count": 16, "color": "red"}),
        many,
        lambda detection: asked.append(detection) or "red",
    )
    assert asked == many[:16]


@pytest.mark.parametrize(
    ("x", "y", "holds"),
    [
        (-10, 0, {"left of"}),
        (10, 0, {"right of"}),
        (0, -10, {"above"}),
        (0, 10, {"below"}),
        (10, 10, {"right of", "below"}),
        (-10, -10, {"left of", "above"}),
        (0, 0, set()),
    ],
)
def test_relations_follow_the_direction_with_y_downwards(x, y, holds):
    one, other = found("circle", box=box_at(20 + x, 20 + y)), found("cross", box=box_at(20, 20))
    assert relations(one, other) == holds


@pytest.mark.parametrize(("distance", "holds"), [(0.8, set()), (0.81, {"right of"})])
def test_the_offset_shrinks_by_a_tenth_of_both_sizes_but_the_distance_does_not(distance, holds):
    # two boxes of 2: shrinking takes 0.4 of the offset, so half of it is left at a distance of 0.8
    one, other = found("circle", box=box_at(distance, 0)), found("cross", box=box_at(0, 0))
    assert relations(one, other) == holds


def test_the_position_threshold_is_exclusive():
    # two boxes of 2.5 take 0.5 of an offset of 1, so exactly half is left
    other = found("cross", box=box_at(0, 0, 2.5))
    assert relations(found("circle", box=box_at(1, 0, 2.5)), other) == set()
    assert relations(found("circle", box=box_at(1.0001, 0, 2.5)), other) == {"right of"}


def test_relations_are_computed_in_float32():
    # exactly half of the offset of 0.9 is left, which float32 rounds up and float64 down
    one, other = (
        found("circle", box=(0.9, 0.0, 3.15, 2.0)),
        found("cross", box=(0.0, 0.0, 2.25, 2.0)),
    )
    assert relations(one, other) == {"right of"}


LEFT = asking(
    {"class": "square", "count": 1},
    {"class": "circle", "count": 1, "position": ["left of", 0]},
    tag="position",
)


def test_the_second_clause_stands_in_relation_to_the_first():
    here, there = box_at(5, 5), box_at(25, 5)
    assert correct(LEFT, [found("circle", box=here), found("square", box=there)])
    said = wrong(LEFT, [found("circle", box=there), found("square", box=here)], no_colour)
    assert said == "expected circle left of square"


def test_a_relation_to_what_is_missing_is_wrong_once_more():
    said = wrong(LEFT, [found("circle")], no_colour)
    assert said == "expected 1 of square, found 0; no object for circle to be left of"


def test_every_object_must_stand_in_the_relation_to_every_other():
    metadata = asking(
        {"class": "square", "count": 2},
        {"class": "circle", "count": 2, "position": ["above", 0]},
        tag="position",
    )
    squares = [found("square", box=box_at(x, 30)) for x in (14, 18)]
    circles = [found("circle", box=box_at(x, 5)) for x in (14, 18)]
    assert correct(metadata, circles + squares)
    assert not correct(metadata, [circles[0], found("circle", box=box_at(16, 40)), *squares])
    assert not correct(metadata, [*circles, squares[0], found("square", box=box_at(40, 5))])


def test_only_the_most_confident_objects_are_placed():
    stray = found("circle", 0.5, box_at(40, 5))
    good = [found("circle", 0.9, box_at(5, 5)), found("square", box=box_at(25, 5))]
    assert correct(LEFT, [stray, *good])


def test_the_embedded_detector_and_prompts_are_registered():
    assert isinstance(detectors["shapes"](), Detector)
    prompts = prompt_sets["shapes"]()
    assert len(prompts) == 600
    assert [prompts[100 * index]["tag"] for index in range(6)] == list(TASKS)
