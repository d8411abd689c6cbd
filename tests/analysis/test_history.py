import numpy as np
import pytest

from tests.analysis.runs import held_out, steps, winners_alone, without
from vipo_cli.analysis.history import (
    moving_mean,
    moving_median,
    read_history,
    skipped_steps,
    standing,
    up_to,
)


def test_columns_and_displacements():
    history = read_history(steps(10))
    assert history.step.tolist() == list(range(1, 11))
    values = history.values
    moved = values["policy_w"] - values["reference_w"]
    assert values["displacement_w"].tolist() == moved.tolist()
    assert np.isnan(values["beta"]).all()


def test_held_out_measurements_stand_apart():
    history = read_history([*steps(40), *held_out([0.6], gain=-0.001)])
    assert len(history) == 40
    (found,) = history.held_out
    assert (found.step, found.value) == (40, 0.6)
    assert (found.low, found.high) == pytest.approx((0.56, 0.64))
    assert found.winner_gain == -0.001
    assert found.document()["ci95"] == [found.low, found.high]


def test_older_records_lack_keys():
    lines = without(steps(5), "kept_fraction", "saturated", "margin_std", "beta")
    lines += [{"step": 5, "held_out": {"metric": "error", "value": 1, "ci95": [0, 2], "n": 3}}]
    history = read_history(lines)
    assert np.isnan(history.values["saturated"]).all()
    assert history.held_out[0].winner_gain is None
    assert history.held_out[0].winner_gain_ci95 is None
    assert "saturated" not in history.smooth(3)


def test_winners_alone():
    history = read_history(winners_alone(5))
    levels = history.levels(slice(0, 5))
    assert "policy_w" in levels
    assert not levels.keys() & {"displacement_w", "margin", "policy_l", "implicit_accuracy"}


def test_levels():
    history = read_history([{"step": n, "loss": float(n)} for n in (1, 2, 3, 4)])
    level = history.levels(slice(0, 4))["loss"]
    assert level.mean == 2.5
    assert level.stderr == pytest.approx(np.sqrt(5 / 3) / 2)
    assert history.levels(slice(3, 4))["loss"].stderr == np.inf


def test_the_last_round():
    lines = [{"step": n, "loss": 1.0, "round": 1 + n // 6} for n in range(1, 12)]
    last = read_history([*lines, *held_out([0.5, 0.6], every=5)]).last_round()
    assert last.step.tolist() == [6, 7, 8, 9, 10, 11]
    assert [each.step for each in last.held_out] == [10]


def test_moving_mean():
    values = np.array([1.0, 2, 3, 4, 10])
    assert moving_mean(values, 3).tolist() == pytest.approx([1.5, 2, 3, 17 / 3, 7])
    assert moving_mean(values, 1).tolist() == values.tolist()
    assert moving_mean(np.array([1.0, np.nan, 3]), 3).tolist() == [1, 2, 3]
    assert np.isnan(moving_mean(np.array([np.nan, np.nan]), 3)).all()
    assert len(moving_mean(values, 99)) == 5


def test_moving_median():
    values = np.array([1.0, 1, 100, 1, 1])
    assert moving_median(values, 3).tolist() == [1, 1, 1, 1, 1]
    assert moving_median(np.array([1.0, 3]), 3).tolist() == [2, 2]


def back(step, to):
    return {"step": step, "returned_to": to, "alarm": {"name": "spike", "begins": True}}


def made(first, last):
    return [{"step": step} for step in range(first, last + 1)]


def test_what_a_return_undoes_does_not_count():
    lines = [*made(1, 7), back(7, 4), *made(5, 6), back(6, 4), *made(5, 8)]
    kept = [line["step"] for line in standing(lines) if "returned_to" not in line]
    assert kept == list(range(1, 9))
    assert skipped_steps(standing(lines)) == skipped_steps(lines) == 3 + 2
    further = [*lines, back(8, 2), *made(3, 3)]
    kept = [line["step"] for line in standing(further) if "returned_to" not in line]
    assert kept == [1, 2, 3]
    assert skipped_steps(further) == 11  # the next step learns from what would have been the 14th


def test_the_lines_that_led_to_a_checkpoint():
    lines = [*made(1, 7), back(7, 4), *made(5, 9)]
    assert up_to(lines, 8) == [*made(1, 7), back(7, 4), *made(5, 8)]
    assert up_to(lines, 4) == [*made(1, 7), back(7, 4)]  # it was returned to
    assert up_to(lines, 3) == made(1, 3)  # whoever goes on from here meets it again
    assert up_to(lines, 0) == []
    twice = [*lines, back(9, 2), *made(3, 5)]
    assert up_to(twice, 4) == [*lines, back(9, 2), *made(3, 4)]


def test_alarms_are_kept_with_what_followed():
    alarm = {"name": "saturation", "begins": True, "text": "", "advice": []}
    lines = [*steps(30), {"step": 30, "alarm": alarm}, back(30, 20)]
    found = read_history(lines)
    assert len(found) == 20
    assert [each["step"] for each in found.alarms] == [30, 30]
    assert found.alarms[1]["returned_to"] == 20
    assert "returned_to" not in found.alarms[0]
