import math
from pathlib import Path

import numpy as np
import pytest

from tests.analysis.runs import steps, winners_alone
from vipo_cli.analysis.pictures import Change
from vipo_cli.recipe import resolve_recipe
from vipo_cli.training.alarms import CALM, WINDOW, Watch


def recipe(method="diffusion-dpo", **settings):
    chosen = {key.replace("__", "."): value for key, value in settings.items()}
    return resolve_recipe(None, method=method, settings=chosen)


def told(lines, of=None):
    watch = Watch(of or recipe(), Path("runs/x"))
    return [alarm for line in lines for alarm in watch.see({"round": None} | line)]


def with_norms(norms):
    lines = steps(len(norms))
    return [line | {"gradient_norm": norm} for line, norm in zip(lines, norms, strict=True)]


def test_a_sound_run_raises_no_alarm():
    assert told(steps(600)) == []
    assert told(winners_alone(600), recipe("sft")) == []


def test_displacement_is_told_when_it_begins_and_when_it_is_over():
    # a quarter above the reference in the middle of the run, none at its ends
    lines = steps(600, gain_w=lambda u: -0.005 * math.sin(math.pi * u), implicit_accuracy=0.8)
    begins, over = told(lines)
    assert (begins.name, begins.begins, over.name, over.begins) == (
        "displacement", True, "displacement", False,
    )  # fmt: skip
    share = 0.25 * math.sin(math.pi * (begins.step - WINDOW / 2) / 600)
    assert share == pytest.approx(0.2, abs=0.01)  # what it was in the middle of the window
    assert 0.25 * math.sin(math.pi * (over.step - WINDOW / 2) / 600) == pytest.approx(0.1, abs=0.01)
    assert "error on winners is +20." in begins.text
    assert "at an implicit accuracy of 0.8" in begins.text
    assert begins.line.endswith(
        "; to let no step raise the winner's error: vipo train --recipe runs/x/recipe.yaml "
        "--set objective.safeguard=0.9"
    )
    assert over.line == f"step {over.step}: likelihood displacement is over"


@pytest.mark.parametrize(
    "changes",
    [
        {"gain_w": -0.003},  # less than a fifth
        {"gain_w": -0.006, "implicit_accuracy": 0.5},  # nothing is preferred
        {"gain_w": -0.006, "reference_w": -0.02},  # log-likelihoods, no errors
    ],
)
def test_no_displacement(changes):
    assert told(steps(200, **{"implicit_accuracy": 0.8} | changes)) == []


def test_a_method_without_losers_is_not_advised_to_hold_them_back():
    lines = steps(200, gain_w=-0.006, implicit_accuracy=0.8)
    (alarm,) = told(lines, recipe("kto"))
    assert "safeguard" not in alarm.line
    assert "hold the policy closer" in alarm.line


def test_collapse_is_told_against_the_first_steps_where_there_is_no_reference():
    lines = winners_alone(300, gain_w=lambda u: -0.04 * u)
    (alarm,) = told(lines, recipe("sft"))
    assert alarm.name == "collapse"
    assert "times that of the first steps" in alarm.text
    assert "to learn more slowly" in alarm.line


def test_a_few_large_errors_are_no_collapse():
    lines = winners_alone(300)
    for place in range(60, 300, 25):
        lines[place]["policy_w"] = 0.6
    assert told(lines, recipe("sft")) == []


def test_saturation():
    lines = steps(200, saturated=lambda u: 0.9 * u)
    (alarm,) = told(lines)
    assert alarm.name == "saturation"
    assert 100 < alarm.step < 160  # half of the pairs are passed at step 111
    assert "objective.typical_logit=1" in alarm.line
    assert "optimizer.learning_rate" in told(lines, recipe(objective__typical_logit=1))[0].line


@pytest.mark.parametrize(
    ("accuracy", "tries"),
    [(0.5, "optimizer.learning_rate=0.005"), (0.7, "objective.beta=10000")],
)
def test_a_loss_that_stays_where_it_began(accuracy, tries):
    lines = steps(200, implicit_accuracy=accuracy)
    for line in lines:
        line["loss"] = math.log(2) - 1e-4
    (alarm,) = told(lines)
    assert (alarm.name, alarm.step) == ("stuck", 100)
    assert "the loss is 0.6930, as before" in alarm.text
    assert tries in alarm.line
    later = told(lines, recipe(optimizer__warmup_steps=50))
    assert [alarm.step for alarm in later] == [150]
    assert told(lines, recipe("d3po")) == []  # whose clipped losses hardly move
    for line in lines[150:]:
        line["loss"] = 0.6
    assert [alarm.begins for alarm in told(lines)] == [True, False]


def test_a_gradient_spike_is_told_once():
    norms = np.random.default_rng(0).lognormal(0, 0.3, 300)
    norms[[100, 101, 110, 200]] = 500
    first, second = told(with_norms(norms))
    assert [first.step, second.step] == [101, 201]
    assert first.name == "spike"
    assert "a norm of 500, " in first.text
    assert "times the median of the 100 steps before" in first.text
    assert second.step - 111 > CALM


def test_heavy_tails_are_no_spikes():
    # the spread of the log of the norms of IPO with eight pairs a step
    norms = np.random.default_rng(0).lognormal(0, 0.65, 3000)
    assert norms.max() > 7 * np.median(norms)
    assert told(with_norms(norms)) == []


def test_norms_that_rise_steadily_or_vanish_are_no_spikes():
    assert told(with_norms(np.geomspace(1e-6, 1, 300))) == []
    assert told(with_norms(np.where(np.arange(300) > 100, 0.0, 1.0))) == []


def test_early_norms_are_not_judged():
    norms = np.ones(40)
    norms[10] = 1e4
    assert told(with_norms(norms)) == []


def test_a_round_is_judged_by_itself():
    lines = steps(200, gain_w=-0.006, implicit_accuracy=0.8)
    for line in lines:
        line["round"] = 1 + line["step"] // 25
    assert told(lines) == []


def test_the_same_records_give_the_same_alarms_after_a_stop():
    lines = steps(400, gain_w=lambda u: -0.008 * u, implicit_accuracy=0.8)
    lines = [{"round": None} | line for line in lines]
    lines[300]["gradient_norm"] = 900.0
    whole = told(lines)
    assert [alarm.name for alarm in whole] == ["displacement", "spike"]
    for cut in (100, 300, 330, 399):
        watch = Watch(recipe(), Path("runs/x"), lines[:cut])
        later = [alarm for line in lines[cut:] for alarm in watch.see(line)]
        assert later == [alarm for alarm in whole if alarm.step > cut]


def test_records_that_were_undone_are_forgotten():
    lines = [{"round": None} | line for line in steps(200)]
    spoilt = [line | {"policy_w": 0.05, "gradient_norm": 100.0} for line in lines[:100]]
    back = {"step": 100, "returned_to": 40, "alarm": {}}
    one = Watch(recipe(), Path("x"), [*lines[:40], *spoilt[40:100], back, *lines[40:150]])
    other = Watch(recipe(), Path("x"), lines[:150])
    for line in lines[150:]:
        assert one.see(line) == other.see(line)
    assert list(one._logs) == list(other._logs)


def test_samples_that_drift_are_told():
    watch = Watch(recipe(), Path("runs/x"))
    near = {"edge_density": Change(0.2, 0.22, 0.02, (0.01, 0.03))}
    far = {"edge_density": Change(0.2, 0.05, -0.15, (-0.2, -0.1))}
    assert watch.see_pictures(50, near) == []
    (alarm,) = watch.see_pictures(100, far)
    assert "edge density 0.2 -> 0.05" in alarm.text
    assert "look at runs/x/samples.png" in alarm.text
    assert watch.see_pictures(150, far) == []
    (over,) = watch.see_pictures(200, near)
    assert over.line == "step 200: drift of the samples is over"


def test_what_ends_a_model():
    watch = Watch(recipe(), Path("runs/x"), [{"round": None} | line for line in steps(40)])
    sound = steps(1)[0]
    assert watch.broken(sound) is None
    assert watch.broken(sound | {"loss": math.nan}).startswith("loss nan, gradient norm ")
    assert watch.broken(sound | {"gradient_norm": math.inf}).endswith("gradient norm inf")
    assert "11 times that of the first steps" in watch.broken(sound | {"policy_w": 0.22})


def test_an_alarm_says_what_to_try_to_programs_too():
    (alarm,) = told(steps(200, saturated=0.9))
    found = alarm.document()
    assert found["name"] == "saturation"
    assert found["begins"] is True
    assert found["advice"][0]["command"].startswith("vipo train --recipe runs/x/recipe.yaml --set ")


def test_after_a_return_the_next_spike_is_told_too():
    """By the norms of what was undone, up to its spike: what stands alone is too little."""
    sound = [line | {"round": None} for line in steps(60)]
    spike = sound[25] | {"gradient_norm": 1e6}
    back = {"step": 26, "returned_to": 12, "alarm": {}}
    lines = [*sound[:25], spike, back]
    of = recipe(run__on_spike="return")
    watch = Watch(of, Path("runs/x"), lines)
    assert [len(watch.see(line)) for line in sound[12:20]] == [0] * 8
    (alarm,) = watch.see(sound[20] | {"gradient_norm": 1e6})
    assert alarm.text.endswith("times the median of the 33 steps before")
    # a run that is stopped and resumed knows the same
    again = Watch(of, Path("runs/x"), [*lines, *sound[12:20]])
    assert again.see(sound[20] | {"gradient_norm": 1e6}) == [alarm]
    without = Watch(of, Path("runs/x"), sound[:12])
    assert not without.see(sound[12] | {"gradient_norm": 1e6})


def test_norms_of_another_round_are_not_compared_with():
    sound = [line | {"round": 1} for line in steps(30)]
    later = [line | {"round": 2, "gradient_norm": 1e4} for line in steps(55)[30:]]
    back = {"step": 56, "returned_to": 28, "alarm": {}}
    watch = Watch(recipe(run__on_spike="return"), Path("runs/x"), [*sound, *later, back])
    (alarm,) = watch.see(sound[28] | {"gradient_norm": 1e4})
    assert "the median of the 30 steps before" in alarm.text
