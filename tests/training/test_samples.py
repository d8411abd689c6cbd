import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.tiny import build
from vipo_cli.analysis.pictures import STATISTICS
from vipo_cli.errors import RecipeError
from vipo_cli.media import decode, is_clip, probe
from vipo_cli.models import load_pipeline
from vipo_cli.models.load import find_model
from vipo_cli.recipe import resolve_recipe
from vipo_cli.run import finish, read_lines
from vipo_cli.training import checkpoint, journal, samples
from vipo_cli.training.prompts import SAMPLES, own_prompts, sample_count
from vipo_cli.training.train import new_run, read_run, train


@pytest.fixture
def sampled(recipe):
    def make(**settings):
        chosen = {"run__samples": 3, "loop__sampling_steps": 2, "run__held_out_every": 2}
        return recipe(**chosen | settings)

    return make


def lines_of(run):
    return read_lines(run / "samples.jsonl")


def pictures_of(run):
    return {line["file"]: (run / line["file"]).read_bytes() for line in lines_of(run)}


def test_samples_of_the_base_and_of_each_measurement(sampled, tmp_path):
    small = sampled()
    run = new_run(small, tmp_path / "run")
    result = finish(train(small, run))
    lines = lines_of(run)
    assert [line["step"] for line in lines] == [0, 0, 0, 2, 2, 2, 4, 4, 4]
    assert lines[3]["file"] == "samples/step-000002/00.png"
    assert [line["seed"] for line in lines[:3]] == [0, 1, 2]
    prompts = [line["prompt"] for line in lines[:3]]
    assert len(set(prompts)) == 3
    assert [line["prompt"] for line in lines[6:]] == prompts
    for line in lines:
        assert decode((run / line["file"]).read_bytes()).size == (32, 32)
        assert line["statistics"].keys() == set(STATISTICS)
    assert result.samples == run / "samples.png"
    with Image.open(result.samples) as sheet:
        assert sheet.size == (72 + 3 * 166, 52 + 3 * 166)

    measured = [line for line in read_lines(run / "metrics.jsonl") if "pictures" in line]
    assert [line["step"] for line in measured] == [2, 4]
    assert measured[0]["pictures"]["n"] == 3
    change = measured[1]["pictures"]["statistics"]["contrast"]
    of_base, now = (
        np.array([line["statistics"]["contrast"] for line in lines[part]])
        for part in (slice(0, 3), slice(6, 9))
    )
    assert change["change"] == pytest.approx(now.mean() - of_base.mean(), abs=1e-9)
    spread = np.std(now - of_base, ddof=1) / 3**0.5 * 4.302653  # Student's t, two degrees
    assert change["ci95"] == pytest.approx([change["change"] - spread, change["change"] + spread])


def test_the_base_draws_what_its_pipeline_draws(sampled, tiny, tmp_path):
    small = sampled()
    run = new_run(small, tmp_path / "run")
    finish(train(small, run))
    pipeline = load_pipeline(find_model(str(tiny)))
    pipeline.set_progress_bar_config(disable=True)
    for line in lines_of(run)[:3]:
        (expected,) = pipeline(
            line["prompt"],
            num_inference_steps=2,
            guidance_scale=7.5,
            generator=torch.Generator().manual_seed(line["seed"]),
        ).images
        found = np.asarray(decode((run / line["file"]).read_bytes())).astype(int)
        assert np.abs(found - np.asarray(expected)).max() <= 1  # rounding of another batch


@pytest.mark.parametrize("settings", [{}, {"model__train": "full"}, {"noise__source": "inverted"}])
def test_training_is_the_same_with_and_without(sampled, tmp_path, settings):
    states = []
    for number in (2, 0):
        small = sampled(run__samples=number, model__ema=0.5, **settings)
        last = finish(train(small, new_run(small, tmp_path / str(number)))).checkpoint
        states.append(load_file(last / "resume" / "state.safetensors"))
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not (tmp_path / "0" / "samples").exists()


def test_the_averaged_weights_draw_where_they_are_kept(sampled, tmp_path):
    """As they are what the checkpoint holds."""
    small = sampled(model__ema=0.5, model__train="full", optimizer__learning_rate=1e-2)
    run = new_run(small, tmp_path / "run")
    result = finish(train(small, run))
    pipeline = load_pipeline(find_model(str(result.checkpoint)))
    pipeline.set_progress_bar_config(disable=True)
    last = lines_of(run)[-1]
    (expected,) = pipeline(
        last["prompt"],
        num_inference_steps=2,
        guidance_scale=7.5,
        generator=torch.Generator().manual_seed(last["seed"]),
    ).images
    found = np.asarray(decode((run / last["file"]).read_bytes())).astype(int)
    assert np.abs(found - np.asarray(expected)).max() <= 1


@pytest.mark.parametrize("stop", ["drawing samples", "training"])
def test_a_stop_leaves_samples_as_without_one(sampled, tmp_path, stop):
    small = sampled()
    whole = new_run(small, tmp_path / "whole")
    finish(train(small, whole))
    run = new_run(small, tmp_path / "stopped")
    work, begun = train(small, run), False
    for progress in work:
        begun = begun or (progress.stage == "training" and progress.done == 1)
        if begun and progress.stage == stop:
            work.close()
    assert checkpoint.latest(run) is not None
    finish(train(read_run(run), run, resume=True))
    assert lines_of(run) == lines_of(whole)
    assert pictures_of(run) == pictures_of(whole)
    both = [
        [line for line in read_lines(each / "metrics.jsonl") if "loss" not in line]
        for each in (run, whole)
    ]
    assert both[0] == both[1]


def test_what_a_killed_run_drew_too_much_is_drawn_again(sampled, tmp_path):
    small = sampled()
    run = new_run(small, tmp_path / "run")
    finish(train(small, run))
    drawn, lines = pictures_of(run), lines_of(run)
    # as if killed while the samples of step 4 were written, before its checkpoint
    last = checkpoint.latest(run)
    last.rename(last.with_name(f".{last.name}.0000.tmp"))
    (run / "samples" / "step-000004" / "01.png").write_bytes(b"half")
    finish(train(small, run, resume=True))
    assert lines_of(run) == lines
    assert pictures_of(run) == drawn


def test_a_return_forgets_later_samples(sampled, tmp_path):
    small = sampled()
    run = new_run(small, tmp_path / "run")
    finish(train(small, run))
    samples.forget_samples(run, 2)
    assert {line["step"] for line in lines_of(run)} == {0, 2}
    with Image.open(run / "samples.png") as sheet:
        assert sheet.height == 52 + 2 * 166
    samples.forget_samples(run, -1)
    assert not (run / "samples.png").exists()


def test_prompts_are_spread_over_what_is_kept_back(sampled, tmp_path, monkeypatch):
    chosen = []
    real = journal.draw_samples

    def seen(setup, run, step):
        chosen.append((setup.prompts, setup.held_out, setup.encoded))
        return real(setup, run, step)

    monkeypatch.setattr(journal, "draw_samples", seen)
    small = sampled(run__samples=4, run__steps=1)
    finish(train(small, new_run(small, tmp_path / "run")))
    prompts, held_out, encoded = chosen[0]
    rows = np.unique(encoded.prompt[held_out.records])
    assert set(prompts.rows) <= set(rows)
    places = np.searchsorted(rows, prompts.rows)
    assert places.tolist() == [number * len(rows) // 4 for number in range(4)]
    assert prompts.texts == tuple(encoded.texts[row] for row in prompts.rows)


def test_without_records_kept_back_samples_are_drawn_all_the_same(sampled, tmp_path):
    small = sampled(data__held_out=0, run__samples=2)
    run = new_run(small, tmp_path / "run")
    finish(train(small, run))
    assert [line["step"] for line in lines_of(run)] == [0, 0, 2, 2, 4, 4]


def test_own_prompts_are_drawn_for_and_encoded_once(sampled, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("a red circle\n\na blue square\na red circle\n")
    runs = []
    for name, given in (("list", ["a red circle", "a blue square"]), ("file", str(file))):
        small = sampled(run__samples=None, run__sample_prompts=given)
        run = new_run(small, tmp_path / name)
        stages = set()
        finish(train(small, run), lambda progress, stages=stages: stages.add(progress.stage))
        runs.append((run, stages))
    (one, first), (other, second) = runs
    assert [line["prompt"] for line in lines_of(one)[:2]] == ["a red circle", "a blue square"]
    assert pictures_of(one) == pictures_of(other)
    assert "loading the encoders" in first
    assert "loading the encoders" not in second


def test_own_prompts_that_cannot_be_read(recipe, tmp_path):
    small = recipe(run__sample_prompts=str(tmp_path / "none.txt"))
    run = new_run(small, tmp_path / "run")
    with pytest.raises(RecipeError, match=r"run\.sample_prompts: cannot read `.*none.txt`"):
        finish(train(small, run))
    assert not run.exists()
    empty = tmp_path / "empty.txt"
    empty.write_text("\n \n")
    with pytest.raises(RecipeError, match="holds no prompt"):
        own_prompts(recipe(run__sample_prompts=str(empty)))
    with pytest.raises(RecipeError):
        recipe(run__sample_prompts=[])


def test_how_many_there_are_unless_told():
    def count(**settings):
        chosen = {key.replace("__", "."): value for key, value in settings.items()}
        return sample_count(resolve_recipe(None, method="poly-dpo", settings=chosen))

    assert count() == SAMPLES  # the README's first command
    assert count(run__samples=0) == 0
    assert count(run__samples=20) == 20
    # 40 steps of 32 pairs are 10,240 passes; two samplings of 24 passes each may take a twentieth
    assert count(run__steps=40) == 8
    assert count(run__steps=20) == 5
    assert count(run__steps=1, optimizer__batch_size=2) == 0
    assert count(run__sample_prompts=["a", "b"]) == 2
    assert count(run__sample_prompts=["a", "b", "c"], run__samples=2) == 2


@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3", "flux", "wan", "cogvideox", "hunyuan"])
def test_every_family_draws(family, tmp_path, monkeypatch):
    """From embeddings alone: the text encoders are gone."""
    model = build(family, tmp_path / "model")
    clips = family in ("wan", "cogvideox", "hunyuan")
    settings = {
        "data.name": "shapes-clips" if clips else "shapes",
        "data.pairs": 8, "data.held_out": 2, "optimizer.batch_size": 2, "run.steps": 1,
        "run.samples": 2, "loop.sampling_steps": 2, "data.size": [32, 32],
    }  # fmt: skip
    small = resolve_recipe(None, model=str(model), method="diffusion-dpo", settings=settings)
    run = new_run(small, tmp_path / "run")
    finish(train(small, run))
    lines = lines_of(run)
    assert [line["step"] for line in lines] == [0, 0, 1, 1]
    for line in lines:
        data = (run / line["file"]).read_bytes()
        assert is_clip(data) == clips
        assert (probe(data).width, probe(data).height) == (32, 32)
    json.dumps(read_lines(run / "metrics.jsonl"), allow_nan=False)


def test_a_clip_is_decoded_in_tiles_and_the_autoencoder_left_as_it_was():
    class Vae:
        use_tiling = False

        def enable_tiling(self):
            self.use_tiling = True

        def disable_tiling(self):
            self.use_tiling = False

    vae = Vae()
    with samples._in_parts(vae, clips=True):
        assert vae.use_tiling
    assert not vae.use_tiling
    with samples._in_parts(vae, clips=False):
        assert not vae.use_tiling
    vae.use_tiling = True
    with samples._in_parts(vae, clips=True):
        assert vae.use_tiling
    assert vae.use_tiling


def test_clips_are_written_so_that_they_play(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (5, 16, 24, 3), np.uint8)
    data = samples.encoded(frames)
    found = probe(data)
    assert (found.width, found.height, found.frames) == (24, 16, 5)
    assert found.frames_per_second == pytest.approx(8)
