import json

import pytest

from tests.painter import write_base, write_lora, write_run
from vipo_cli.errors import ModelError, UnknownName, VipoError
from vipo_cli.evaluation.target import check_safetensors, find_target, target_fingerprint
from vipo_cli.models import find_model


@pytest.fixture
def base(tmp_path):
    return write_base(tmp_path / "base")


def test_a_run_means_its_latest_checkpoint(tmp_path, base):
    run = write_run(tmp_path / "runs" / "poly", base, steps=(500, 1000, 90))
    target = find_target(str(run))
    assert (target.label, target.step, target.base) == ("poly (step 1000)", 1000, str(base))
    assert target.lora == run / "checkpoints" / "step-001000" / "pytorch_lora_weights.safetensors"
    assert target.spec.source == str(base)


def test_a_checkpoint_and_its_lora_file_mean_the_same(tmp_path, base):
    run = write_run(tmp_path / "runs" / "poly", base)
    checkpoint = run / "checkpoints" / "step-000500"
    by_folder = find_target(f"{checkpoint}/")
    by_file = find_target(str(checkpoint / "pytorch_lora_weights.safetensors"))
    assert by_folder == by_file
    assert by_folder.run == run


def test_a_full_checkpoint_is_loaded_itself_and_sampled_like_its_base(tmp_path):
    run = write_run(tmp_path / "runs" / "full", "shapes-sd", steps=())
    write_base(run / "checkpoints" / "step-000007")
    target = find_target(str(run))
    assert target.spec.source == str(run / "checkpoints" / "step-000007")
    base = find_model("shapes-sd")
    assert target.spec.sampling_steps == base.sampling_steps
    assert (target.spec.guidance, target.spec.prompts) == (base.guidance, "shapes")
    assert (target.lora, target.base) == (None, "shapes-sd")


def test_a_lora_file_says_its_base_or_is_told(tmp_path, base):
    named = write_lora(tmp_path / "named.safetensors", str(base))
    assert find_target(str(named)).base == str(base)
    nameless = write_lora(tmp_path / "nameless.safetensors")
    assert find_target(str(nameless), base=str(base)).spec.source == str(base)
    with pytest.raises(ModelError, match="does not say which model") as error:
        find_target(str(nameless))
    assert "--model" in error.value.hint


def test_names_and_pipelines_have_no_base(base):
    assert find_target("shapes-sd").base is None
    assert find_target(str(base)).base is None


def test_pictures_are_recognised_by_their_layout(tmp_path):
    (tmp_path / "made" / "00000").mkdir(parents=True)
    (tmp_path / "made" / "00000" / "metadata.jsonl").write_text("{}\n")
    target = find_target(str(tmp_path / "made"))
    assert (target.label, target.spec, target.pictures) == ("made", None, tmp_path / "made")


@pytest.mark.parametrize("keep", [4, 60, -1])
def test_a_lora_cut_short_is_refused(tmp_path, base, keep):
    run = write_run(tmp_path / "runs" / "poly", base)
    file = run / "checkpoints" / "step-000500" / "pytorch_lora_weights.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ModelError, match="damaged or cut short"):
        find_target(str(run))


def test_a_pipeline_without_a_part_is_refused(tmp_path):
    folder = write_base(tmp_path / "base")
    index = {
        "_class_name": "Painter",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "x": [None, None],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="no `unet`"):
        find_target(str(folder))
    write_lora(folder / "unet" / "model.safetensors")
    assert find_target(str(folder)).spec.source == str(folder)


def test_a_run_without_a_checkpoint_says_how_to_go_on(tmp_path, base):
    run = write_run(tmp_path / "runs" / "young", base, steps=())
    with pytest.raises(VipoError, match="has no checkpoint yet") as error:
        find_target(str(run))
    assert f"vipo train --resume {run}" in error.value.hint


def test_a_checkpoint_without_weights_is_refused(tmp_path, base):
    run = write_run(tmp_path / "runs" / "poly", base)
    (run / "checkpoints" / "step-000500" / "pytorch_lora_weights.safetensors").unlink()
    with pytest.raises(ModelError, match="holds no weights"):
        find_target(str(run))


def test_a_mistyped_path_gets_a_suggestion(tmp_path, base, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "runs" / "poly-dpo", base)
    for name in ("runs/poly-dop", "./runs/poly-dop", str(tmp_path / "runs" / "poly-dop")):
        with pytest.raises(VipoError, match="no such file or folder") as error:
            find_target(name)
        assert "poly-dpo`?" in error.value.hint
    with pytest.raises(VipoError) as error:
        find_target("poly-dpo")
    assert "runs/poly-dpo" in error.value.hint


def test_a_mistyped_name_gets_a_suggestion(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownName) as error:
        find_target("shapes-ds")
    assert "did you mean `shapes-sd`?" in error.value.hint


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(VipoError, match="nothing that can be evaluated"):
        find_target(str(tmp_path))


def test_the_fingerprint_follows_the_weights(tmp_path, base):
    run = write_run(tmp_path / "runs" / "poly", base)
    before = target_fingerprint(find_target(str(run)))
    (run / "checkpoints" / "step-000500" / "resume").mkdir()
    assert target_fingerprint(find_target(str(run))) == before
    assert target_fingerprint(find_target(str(base))) != before
    write_lora(run / "checkpoints" / "step-000500" / "pytorch_lora_weights.safetensors", "other")
    assert target_fingerprint(find_target(str(run), base=str(base))) != before


def test_check_safetensors_returns_the_metadata(tmp_path):
    assert check_safetensors(write_lora(tmp_path / "a.safetensors", "b")) == {"vipo.base": "b"}
