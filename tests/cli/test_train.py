import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
import yaml

from vipo_cli import cli, run
from vipo_cli.shapes.source import shapes
from vipo_cli.training import checkpoint

VIPO = Path(sys.executable).with_name("vipo")
FEW = ("--set", "data.pairs=24", "--set", "data.held_out=6")
SMALL = (
    "--steps", 2, "--set", "optimizer.batch_size=4", "--set", "run.checkpoint_every=1",
    "--set", "model.precision=fp32",
)  # fmt: skip


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Each test works in a folder of its own and so leaves no runs/ behind."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def pictures():
    """Thirty pairs of the shapes world: prompt, winner, loser."""
    return [(p.prompt, p.winner, p.loser) for p in islice(shapes(pairs=30, seed=7), 30)]


@pytest.fixture
def table(tmp_path, pictures):
    """Return a function that writes the pairs to a CSV file, after changes to rows or files."""

    def write(change=lambda rows: None, columns=("prompt", "winner", "loser"), **files):
        folder = tmp_path / "pairs"
        folder.mkdir()
        rows = []
        for number, (prompt, winner, loser) in enumerate(pictures):
            (folder / f"w{number}.png").write_bytes(winner)
            (folder / f"l{number}.png").write_bytes(loser)
            rows.append([f'"{prompt}"', f"w{number}.png", f"l{number}.png"])
        for name, data in files.items():
            (folder / name).write_bytes(data)
        change(rows)
        file = folder / "pairs.csv"
        file.write_text("\n".join(map(",".join, [columns, *rows])) + "\n")
        return file

    return write


@pytest.fixture
def train(vipo, tiny):
    def command(*words):
        return vipo("train", "--model", tiny, *words, *SMALL)

    return command


@pytest.fixture
def fails(train, tmp_path):
    """Return a function that expects one clear error and nothing left behind."""

    def command(*words):
        out = tmp_path / "run"
        status, text, err = train("--out", out, *words)
        assert (status, text) == (1, "")
        error = err[err.index("error: ") :]
        assert error.count("error:") == 1
        assert not out.exists()
        return error

    return command


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    """A run that is done, and the document it printed; tests copy it before they change it."""
    out = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIPO_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        from typer.testing import CliRunner

        words = ["train", "--model", tiny, "--out", out, "--json", *FEW, *SMALL]
        result = CliRunner().invoke(cli.app, [*map(str, words), "--method", "poly-dpo"])
    assert result.exit_code == 0, result.output
    return out, result.stdout, result.stderr


@pytest.fixture
def run_copy(finished, tmp_path):
    return shutil.copytree(finished[0], tmp_path / "copy")


def test_the_flags_are_those_of_the_design():
    """A new flag is a promise; everything else goes through --set."""
    command = typer.main.get_command(cli.app).commands["train"]
    flags = [flag for parameter in command.params for flag in parameter.opts]
    assert flags == [
        "--recipe", "--method", "--model", "--data", "--alpha", "--beta", "--steps", "--seed",
        "--out", "--resume", "--processes", "--set", "--dry-run", "--json", "--quiet", "-q",
    ]  # fmt: skip


def test_programs_get_one_document(finished, tiny):
    out, text, err = finished
    document = json.loads(text)
    assert document["status"] == "complete"
    assert document["run"] == str(out)
    assert document["method"] == "poly-dpo"
    assert document["model"] == str(tiny)
    assert document["data"] == "shapes"
    assert (document["steps"], document["pairs_seen"]) == (2, 8)
    assert document["final"].keys() == {"loss", "implicit_accuracy"}
    measured = {"implicit_accuracy", "ci95", "n", "winner_gain", "winner_gain_ci95"}
    assert document["held_out"].keys() == measured
    assert document["throughput"].keys() == {"pairs_per_second", "seconds", "peak_memory_bytes"}
    assert Path(document["checkpoint"], "pytorch_lora_weights.safetensors").is_file()
    assert "method  poly-dpo (beta 2000.0, alpha 0.0, kappa 0.5)" in err
    assert yaml.safe_load((out / "recipe.yaml").read_text())["run"]["steps"] == 2
    assert json.loads((out / "provenance.json").read_text())["data"]["trained_on"] > 0


def test_people_get_a_summary_and_quiet_prints_the_run_alone(train):
    status, text, err = train(*FEW)
    assert status == 0
    assert "2 steps" in text
    assert "held-out implicit accuracy" in text
    assert text.splitlines()[-1] == "next: vipo eval geneval runs/tiny-diffusion-dpo-1"
    assert "training (2) ..." in err
    assert train(*FEW, "--quiet") == (0, "runs/tiny-diffusion-dpo-2\n", "")


def test_a_dry_run_writes_nothing(train, tmp_path, monkeypatch):
    monkeypatch.setenv("VIPO_CACHE", str(tmp_path / "cache"))
    status, text, _ = train(*FEW, "--dry-run", "--method", "poly-dpo", "--alpha", 0.5)
    assert status == 0
    recipe = yaml.safe_load(text)  # the plan stands in comments
    assert recipe["objective"]["alpha"] == 0.5
    assert "# trains    " in text
    document = json.loads(train(*FEW, "--dry-run", "--out", "run", "--json")[1])
    assert document["recipe"]["run"]["steps"] == 2
    assert document["plan"]["pairs"] == 24
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [("--steps", 3), ("--set", "run.steps=3"), ("--out", "x"), ("--dry-run",), ("--seed", 0)],
    ids=str,
)
def test_resume_takes_no_other_flags(vipo, run_copy, words):
    status, out, err = vipo("train", "--resume", run_copy, *words)
    assert (status, out) == (2, "")
    assert "takes everything from the run's own recipe" in err


def test_resuming_a_finished_run_changes_nothing(vipo, finished, run_copy):
    status, text, _ = vipo("train", "--resume", run_copy, "--json")
    assert status == 0
    before = json.loads(finished[1])
    assert json.loads(text)["final"] == before["final"]
    metrics = "metrics.jsonl"
    assert (run_copy / metrics).read_text() == (finished[0] / metrics).read_text()


def test_a_checkpoint_cut_short_is_told_and_the_hint_helps(vipo, run_copy):
    last = checkpoint.latest(run_copy)
    file = last / "resume" / "state.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    status, out, err = vipo("train", "--resume", run_copy)
    assert (status, out) == (1, "")
    assert f"error: the checkpoint `{last}` is damaged" in err
    assert f"rm -r {last}" in err
    assert run_copy.is_dir()
    shutil.rmtree(last)
    status, out, _ = vipo("train", "--resume", run_copy, "--quiet")
    assert (status, out) == (0, f"{run_copy}\n")
    assert checkpoint.latest(run_copy) == last


def test_what_is_no_run_cannot_be_resumed(vipo, tmp_path, run_copy):
    for place in (tmp_path, tmp_path / "nothing", run_copy / "metrics.jsonl"):
        status, _, err = vipo("train", "--resume", place)
        assert status == 1
        assert err.startswith(f"error: `{place}` holds no run")
    recipe = run_copy / "recipe.yaml"
    for text in ("", "model: [", "model: 3\n"):
        recipe.write_text(text)
        status, _, err = vipo("train", "--resume", run_copy)
        assert status == 1
        assert err.startswith(f"error: `{recipe}` ")


def test_a_place_that_is_taken_is_left_alone(train, run_copy, tmp_path):
    before = (run_copy / "recipe.yaml").read_text()
    status, _, err = train(*FEW, "--out", run_copy)
    assert status == 1
    assert f"error: `{run_copy}` is the directory of another run" in err
    assert f"vipo train --resume {run_copy}" in err
    assert (run_copy / "recipe.yaml").read_text() == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    status, _, err = train(*FEW, "--out", tmp_path / "mine")
    assert status == 1
    assert "exists and is not empty" in err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    assert "cannot write" in train(*FEW, "--out", tmp_path / "mine" / "notes.txt" / "below")[2]


def test_a_read_only_place_is_told(fails, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    error = fails(*FEW)
    assert error.startswith("error: cannot write `")
    assert "Read-only file system" in error


def test_a_disk_that_fills_up_while_encoding_loses_nothing(fails, train, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setenv("VIPO_CACHE", str(tmp_path / "cache"))
    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        assert "No space left on device" in fails(*FEW)
    assert not list((tmp_path / "cache" / "pairs").glob("*/index.json"))
    status, _, err = train(*FEW, "--out", tmp_path / "run")
    assert status == 0
    assert "encoding prompts" not in err  # all of them were embedded


def test_a_disk_that_fills_up_at_a_checkpoint_is_one_error(train, tmp_path, monkeypatch):
    import safetensors.torch

    def full(*_, **__):  # how safetensors words it
        raise safetensors.SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        )

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    status, _, err = train(*FEW, "--out", tmp_path / "run")
    assert status == 1
    assert "error: cannot write `" in err
    assert "No space left on device" in err
    assert checkpoint.checkpoints(tmp_path / "run") == []


def test_a_few_broken_pairs_are_named_counted_and_left_out(train, table, pictures):
    def spoil(rows):
        rows[3][1], rows[8][2] = "cut.jpg", "text.jpg"

    cut = as_jpeg(pictures[0][1])
    file = table(spoil, **{"cut.jpg": cut[: len(cut) // 2], "text.jpg": b"a text"})
    words = ("--data", file, "--set", "data.held_out=4")
    limit = ("--set", "data.broken_limit=0.1")
    status, text, err = train(*words, *limit, "--json")
    assert status == 0
    assert json.loads(text)["broken_pairs"] == 2
    assert "warning: 2 pairs cannot be used and were left out\n" in err
    assert f"  pair 3: winner `{file.parent / 'cut.jpg'}`: broken picture: " in err
    assert f"  pair 8: loser `{file.parent / 'text.jpg'}`: neither a picture nor a clip\n" in err
    assert "left out 2 broken pairs" in train(*words, *limit)[1]
    status, _, err = train(*words, "--out", "over")
    assert status == 1
    assert "error: 2 of 30 pairs cannot be used, more than the limit of 5%" in err
    assert "pair 8: loser `" in err
    assert not Path("over").exists()


def as_jpeg(png):
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).save(buffer, format="JPEG")
    return buffer.getvalue()


def test_rows_that_are_no_pairs_are_counted(train, tmp_path, pictures):
    file = tmp_path / "train.parquet"
    pq.write_table(pick_a_pic(pictures, [1.0] * 28 + [0.5] * 2), file)
    words = ("--data", file, "--set", "data.held_out=4")
    document = json.loads(train(*words, "--json")[1])
    assert document["dropped_rows"] == {"a tie (label_0 equals label_1)": 2}
    assert "left out 2 rows: a tie" in train(*words)[1]


def pick_a_pic(pictures, label_0, total=1.0):
    prompts, winners, losers = zip(*pictures, strict=True)
    label_1 = [total - label for label in label_0]
    return pa.table(
        {"caption": prompts, "jpg_0": winners, "jpg_1": losers, "label_0": label_0,
         "label_1": label_1}
    )  # fmt: skip


def test_labels_that_contradict_each_other_are_told(fails, tmp_path, pictures):
    file = tmp_path / "train.parquet"
    pq.write_table(pick_a_pic(pictures, [1.0] * 30, total=1.5), file)
    error = fails("--data", file)
    assert "label_0 + label_1 is not 1 in 30 rows: row 0, row 1" in error


def test_an_empty_data_set_is_told(fails, table):
    assert fails("--data", table(lambda rows: rows.clear())).startswith("error: no entries in `")


def test_missing_columns_are_told(fails, table):
    error = fails("--data", table(columns=("prompt", "winner", "other")))
    assert "no columns of media among `prompt`, `winner`, `other`" in error
    assert "`winner` is there, and no `loser` beside it" in error


@pytest.mark.parametrize(
    ("prompt", "message"),
    [("", "2: empty prompt (line 6 of pairs.csv, line 7 of pairs.csv)"),
     ("x" * 10_000, "2: prompt of 10,000 characters or more (line 6 of pairs.csv, line 7 of ")],
    ids=["empty", "endless"],
)  # fmt: skip
def test_prompts_that_nothing_can_be_made_of_are_told(fails, table, prompt, message):
    def spoil(rows):
        rows[4][0] = rows[5][0] = prompt

    error = fails("--data", table(spoil))
    assert "2 of 30 entries in `" in error
    assert message in error


def test_a_row_that_is_left_out_is_warned_about_and_counted(train, table):
    def spoil(rows):
        rows[4][0] = ""

    status, text, err = train("--data", table(spoil), "--set", "data.held_out=4", "--json")
    assert status == 0
    assert json.loads(text)["dropped_rows"] == {"empty prompt": 1}
    assert "warning: 1 of 30 entries in `" in err
    assert "cannot be used and are left out\n  1: empty prompt (line 6 of pairs.csv)\n" in err


def test_a_run_goes_on_with_the_data_that_it_began_with(vipo, train, table, pictures, tmp_path):
    file, run = table(), tmp_path / "run"
    assert train("--data", file, "--set", "data.held_out=4", "--out", run)[0] == 0
    status, _, err = vipo("train", "--resume", run)
    assert (status, "warning" in err, "importing" in err) == (0, False, False)
    (file.parent / "w3.png").write_bytes(pictures[4][1])
    status, _, err = vipo("train", "--resume", run)
    assert status == 0
    assert "warning: as many records as when `" in err
    file.write_text("\n".join(file.read_text().splitlines()[:-1]))
    status, _, err = vipo("train", "--resume", run)
    assert status == 1
    assert f"error: the data are not those that `{run}` began with" in err
    assert "  pairs: 30 then, 29 now\n" in err
    assert "hint: bring them back" in err


def test_a_long_prompt_is_cut_by_the_text_encoder(train, table):
    def lengthen(rows):
        rows[4][0] = "red circle " * 900

    assert train("--data", table(lengthen), "--set", "data.held_out=4")[0] == 0


def test_missing_media_are_told(fails, table):
    def spoil(rows):
        for row in rows:
            row[1] = "nothing.png"

    error = fails("--data", table(spoil))
    assert "30 of 30 entries in `" in error
    assert "a medium cannot be read (line 2 of pairs.csv: cannot read `" in error
    assert "No such file or directory" in error


def test_a_damaged_model_is_told(vipo, tiny, tmp_path):
    broken = shutil.copytree(tiny, tmp_path / "broken")
    file = broken / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    status, _, err = vipo("train", "--model", broken, "--out", "run")
    assert status == 1
    assert f"error: cannot load the model `{broken}`" in err
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--method", "poly-dppo"), "unknown method `poly-dppo`\n\nhint: did you mean `poly-dpo`?"),
        (("--data", "shaeps"), "data.name: unknown data set `shaeps`\n\nhint: did you mean `sha"),
        (("--data", "none.parquet"), "no such file or folder: `none.parquet`"),
        (("--method", "sft", "--alpha", 1), "method `sft` has no `--alpha`\n\nhint: methods that"),
        (("--set", "modle.rank=3"), "modle: unknown section\n\nhint: did you mean `model`?"),
        (("--set", "model.rank"), "cannot read the setting `model.rank`"),
        (("--recipe", "shapes/poly-dop"), "unknown recipe `shapes/poly-dop`"),
        (("--method", "spin"), "`spin` is a loop over a method, not a method"),
        (("--method", "dmpo", "--alpha", "auto"), "`--alpha auto` chooses Poly-DPO's alpha"),
        (("--set", "time.low=0.9", "--set", "time.high=0.2"), "time.low: must be less than"),
    ],
)
def test_mistakes_in_the_recipe_are_told_before_anything_is_made(fails, words, message):
    assert message in fails(*words)


def test_alpha_can_be_left_to_the_data(train, tmp_path):
    words = (*FEW, "--method", "poly-dpo", "--alpha", "auto", "--dry-run", "--json")
    status, text, err = train(*words)
    assert status == 0
    chosen = json.loads(text)["recipe"]["objective"]["alpha"]
    assert f"alpha   {chosen:g}, chosen by a heuristic of vipo" in err


def test_alpha_is_a_number_or_auto(train):
    status, _, err = train("--alpha", "high")
    assert status == 2
    assert "`high` is neither a number nor auto" in err


def test_an_unknown_model_is_told(vipo):
    status, _, err = vipo("train", "--model", "sd-15", "--out", "run")
    assert status == 1
    assert err.startswith("error: unknown model `sd-15`\n\nhint: did you mean `sd15`?")
    assert not Path("run").exists()


def test_five_mistakes_in_a_recipe_are_one_error(fails, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "modle: {rank: 4}\nmodel: {rank: 0}\nobjective: {method: poly-dpo, alpha: -2}\n"
        "optimizer: {learning_rat: 1e-5}\ndata: {kind: nosy}\n"
    )
    lines = fails("--recipe", file).splitlines()
    assert lines[0] == f"error: recipe `{file}` is not valid"
    assert len([line for line in lines if line.startswith("  ")]) == 5
    assert lines[-1] == "hint: did you mean `optimizer.learning_rate`, `model`?"


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_stop_request_saves_what_was_trained_and_says_how_to_go_on(tiny, tmp_path, vipo, number):
    out = tmp_path / "run"
    words = ["train", "--model", tiny, "--out", out, *FEW, *SMALL]
    many = ["--steps", 100_000, "--set", "run.checkpoint_every=100000"]
    process = subprocess.Popen(
        [VIPO, *map(str, [*words, *many])], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    metrics = out / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not (metrics.exists() and metrics.read_text().count("\n") >= 2):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    text, err = process.communicate(timeout=120)
    assert (process.returncode, text) == (130, "")
    assert "error: stopped on request; what was trained is saved" in err
    assert err.endswith(f"hint: go on: vipo train --resume {out}\n")
    assert "Traceback" not in err
    done = run.read_lines(metrics)[-1]["step"]
    assert checkpoint.latest(out).name == f"step-{done:06d}"

    recipe = out / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("steps: 100000", f"steps: {done + 1}"))
    status, text, _ = vipo("train", "--resume", out, "--json")
    assert status == 0
    assert json.loads(text)["steps"] == done + 1
    steps = [record["step"] for record in run.read_lines(metrics) if "loss" in record]
    assert steps == list(range(1, done + 2))
