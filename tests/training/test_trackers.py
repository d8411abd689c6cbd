import json
import sys
from importlib.machinery import ModuleSpec
from typing import ClassVar

import numpy as np
import pytest
from accelerate import tracking
from accelerate.tracking import GeneralTracker

from vipo_cli.errors import VipoError
from vipo_cli.run import finish, read_lines
from vipo_cli.training import trackers
from vipo_cli.training.train import new_run, read_run, train

LINE = {
    "step": 3, "loss": 0.5, "implicit_accuracy": 0.75, "margin": None, "round": 1, "seconds": 0.1,
}  # fmt: skip
CHANGE = {"base": 1.0, "value": 1.5, "change": 0.5, "ci95": [0.1, 0.9]}


class Recorder(GeneralTracker):
    """A tracker in accelerate's sense that keeps what it gets, and fails when it is told to."""

    name = "tensorboard"
    requires_logging_directory = True
    made: ClassVar[list] = []
    failing_at = None

    def __init__(self, run_name, **options):
        super().__init__()
        self.run_name, self.options = run_name, options
        self.settings, self.logged, self.pictures, self.finished = None, [], {}, False
        Recorder.made.append(self)

    def start(self):
        sys.stdout.write("hello from a service")

    @property
    def tracker(self):
        return self

    def store_init_configuration(self, values):
        self.settings = values

    def log(self, values, step=None, **_):
        if step is not None and step == Recorder.failing_at:
            raise ConnectionError("no route to host\nsecond line")
        self.logged.append((step, values))

    def log_images(self, values, step=None, **options):
        assert options == {"dataformats": "NHWC"}
        self.pictures[step] = values

    def finish(self):
        self.finished = True


@pytest.fixture
def recorder(monkeypatch):
    """The recorder in place of TensorBoard, which counts as installed."""
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "tensorboard", Recorder)
    monkeypatch.setattr(trackers, "find_spec", lambda name: ModuleSpec(name, None))
    monkeypatch.setattr(Recorder, "made", [])
    monkeypatch.setattr(Recorder, "failing_at", None)
    return Recorder


@pytest.fixture
def tracked(recipe):
    def make(**settings):
        chosen = {"run__trackers": ["tensorboard"], "run__held_out_every": 2, "run__samples": 2}
        return recipe(**chosen | {"loop__sampling_steps": 2} | settings)

    return make


def test_a_tracker_gets_what_is_written_down(tracked, recorder, tmp_path, capsys):
    small = tracked()
    run = new_run(small, tmp_path / "run")
    finish(train(small, run))
    (made,) = recorder.made
    assert made.run_name == "tensorboard"
    assert made.options == {"logging_dir": str(run), "purge_step": None}
    assert made.settings["objective.beta"] == 2000
    assert made.settings["time.values"] == "null"
    assert made.finished
    losses = [values["train/loss"] for _, values in made.logged if "train/loss" in values]
    records = [line for line in read_lines(run / "metrics.jsonl") if "loss" in line]
    assert losses == [record["loss"] for record in records]
    assert [step for step, values in made.logged if "held_out/implicit_accuracy" in values] == [
        2,
        4,
    ]
    assert [step for step, values in made.logged if "pictures/contrast" in values] == [2, 4]
    assert list(made.pictures) == [0, 2, 4]
    assert made.pictures[4]["samples/01"].shape == (1, 32, 32, 3)
    assert capsys.readouterr().out == ""  # stdout is for the result


def test_a_resumed_run_goes_on_in_its_tracker(tracked, recorder, tmp_path):
    small = tracked()
    run = new_run(small, tmp_path / "run")
    work = train(small, run)
    for progress in work:
        if progress.stage == "training" and progress.done == 2:
            work.close()
    assert recorder.made[0].finished
    name = json.loads((run / "trackers.json").read_text())
    finish(train(read_run(run), run, resume=True))
    again = recorder.made[1]
    assert again.options["purge_step"] == 3
    assert again.settings is None  # said once
    assert [step for step, values in again.logged if "train/loss" in values] == [3, 4]
    assert json.loads((run / "trackers.json").read_text()) == name


def test_a_tracker_that_fails_is_told_once_and_ends_nothing(tracked, recorder, tmp_path):
    recorder.failing_at = 2
    small = tracked(run__samples=0)
    run = new_run(small, tmp_path / "run")
    warnings = []
    finish(train(small, run), lambda progress: warnings.append(progress.warning))
    (warning,) = filter(None, warnings)
    assert warning == (
        "the tracker tensorboard failed and gets no more records: no route to host; "
        "metrics.jsonl holds all of them"
    )
    (made,) = recorder.made
    assert [step for step, _ in made.logged] == [1]
    assert sum("loss" in line for line in read_lines(run / "metrics.jsonl")) == 4


def test_a_tracker_that_cannot_start_is_one_error_and_leaves_no_run(
    tracked, recorder, tmp_path, monkeypatch
):
    def refuse(self):
        raise OSError("api_key not configured")

    monkeypatch.setattr(recorder, "start", refuse)
    small = tracked()
    run = new_run(small, tmp_path / "run")
    with pytest.raises(VipoError, match="tensorboard cannot be started: api_key not") as caught:
        finish(train(small, run))
    assert "--set run.trackers=[]" in caught.value.hint
    assert not run.exists()


def test_missing_packages_are_told_before_anything_else(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    small = recipe(run__trackers=["wandb", "trackio"])
    run = new_run(small, tmp_path / "run")
    work = train(small, run)
    with pytest.raises(VipoError, match=r"not installed: `wandb, trackio`") as caught:
        next(work)
    assert caught.value.hint.startswith('pip install "vipo[trackers]"')
    assert not run.exists()


@pytest.mark.parametrize(
    ("line", "values"),
    [
        (LINE, {"train/loss": 0.5, "train/implicit_accuracy": 0.75, "train/seconds": 0.1}),
        (
            {"step": 3, "held_out": {"metric": "error", "value": 0.1, "winner_gain": 0.02}},
            {"held_out/error": 0.1, "held_out/winner_gain": 0.02},
        ),
        (
            {"step": 3, "pictures": {"n": 8, "statistics": {"noise": CHANGE}}},
            {"pictures/noise": 1.5},
        ),
        (
            {"step": 3, "alarm": {"name": "spike", "text": "a norm of 7"}},
            {"alarm": "spike: a norm of 7"},
        ),
    ],
    ids=["step", "held out", "pictures", "alarm"],
)
def test_what_a_line_says(line, values):
    assert trackers.as_scalars(line) == values


def test_steps_that_come_again_are_sent_again(monkeypatch):
    """W&B's own steps only rise, and a run may go back: there the step is a value."""
    one, other = Recorder("vipo"), Recorder("vipo")
    one.name, other.name = "wandb", "trackio"
    sent = trackers.Trackers({"wandb": one, "trackio": other})
    for step in (1, 2, 1):
        sent.log({"step": step, "loss": 0.5})
    assert [(step, values["step"]) for step, values in one.logged] == [
        (None, 1),
        (None, 2),
        (None, 1),
    ]
    assert [step for step, _ in other.logged] == [1, 2, 1]


def test_clips_are_shown_by_their_middle_frame():
    made = Recorder("tensorboard")
    frames = np.zeros((5, 8, 8, 3), np.uint8)
    frames[2] = 9
    trackers.Trackers({"tensorboard": made}).show([frames], 7)
    assert made.pictures[7]["samples/00"].max() == 9


def test_tensorboard_reads_what_was_sent(tracked, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    small = tracked()
    run = new_run(small, tmp_path / "run")
    finish(train(small, run))
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4]
    assert [event.step for event in events.Images("samples/00")] == [0, 2, 4]
