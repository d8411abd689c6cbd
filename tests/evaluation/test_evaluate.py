import json
import shutil
from dataclasses import replace

import pytest
from PIL import Image

from tests.painter import write_base, write_run
from vipo_cli.errors import VipoError
from vipo_cli.evaluation.compare import compare, evaluation_folder
from vipo_cli.evaluation.evaluate import evaluate
from vipo_cli.evaluation.plan import Options
from vipo_cli.run import finish

QUICK = Options(prompts=4, prompt_set="shapes")
SHAPES = Options(task={"detector": "shapes"})


@pytest.fixture
def base(tmp_path):
    return write_base(tmp_path / "base")


@pytest.fixture
def run(tmp_path, base):
    return write_run(tmp_path / "runs" / "poly", base)


def quick(target, **options):
    return evaluate("geneval", str(target), QUICK, **options)


def lasting(results):
    return {key: value for key, value in results.items() if key not in ("timing", "environment")}


def test_a_run_is_compared_with_its_base(run, painters, tmp_path):
    found = finish(quick(run))
    assert found.out == run / "eval" / "geneval-step-000500-prompts4-shapes"
    assert found.baseline.parent.parent == tmp_path / "cache" / "eval"
    assert found.results["n_samples"]["scored"] == 48
    overall = found.comparison["differences"]["overall"]
    assert overall["value"] > 0.1
    assert overall["ci95"][0] < overall["value"] < overall["ci95"][1]
    assert overall["n_clusters"] == 24
    assert json.loads((found.out / "results.json").read_text()) == found.results
    assert set(found.results) == {
        "schema_version", "status", "task", "task_version", "model", "metrics", "subtasks",
        "n_samples", "fingerprint", "notes", "environment", "timing", "warnings",
    }  # fmt: skip


def test_runs_share_their_base(run, painters, tmp_path, base):
    finish(quick(run))
    assert len(painters) == 2
    finish(quick(write_run(tmp_path / "runs" / "other", base, steps=(9,))))
    assert len(painters) == 3  # the base was not loaded again


@pytest.mark.parametrize("after", [30, 80])
def test_stopping_anywhere_changes_nothing(run, painters, tmp_path, after):
    whole = finish(quick(run))
    shutil.rmtree(run / "eval")
    shutil.rmtree(tmp_path / "cache")
    work = quick(run)
    for _ in range(after):
        next(work)
    work.close()
    with (run / "eval").joinpath(whole.out.name, "samples.jsonl").open("a") as stream:
        stream.write('{"prompt_index": 0, "im')
    again = finish(quick(run))
    assert lasting(again.results) == lasting(whole.results)
    assert again.comparison == whole.comparison


def test_doing_it_again_keeps_when_and_where_it_was_done(run, painters):
    first = finish(quick(run))
    assert finish(quick(run)).results == first.results
    assert len(painters) == 2


def test_no_baseline_and_another_baseline(run, base, painters, tmp_path):
    alone = finish(quick(run, baseline="none"))
    assert alone.comparison is None
    same = finish(quick(run, baseline=str(run)))
    assert same.comparison["differences"]["overall"]["value"] == 0
    assert same.comparison["differences"]["overall"]["p_value"] == 1


def test_changed_weights_are_not_mixed_with_old_pictures(run, painters, tmp_path):
    out = tmp_path / "out"
    finish(quick(run, baseline="none", out=out))
    with pytest.raises(VipoError, match="other seed"):
        finish(evaluate("geneval", str(run), replace(QUICK, seed=1), out=out))
    file = run / "checkpoints" / "step-000500" / "pytorch_lora_weights.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x00")
    with pytest.raises(VipoError, match="other weights"):
        finish(quick(run, baseline="none", out=out))


def test_finished_pictures_find_their_prompts(run, painters, tmp_path):
    made = finish(quick(run, baseline="none")).out
    pictures = tmp_path / "made"
    pictures.mkdir()
    drawn = made / json.loads((made / "manifest.json").read_text())["pictures"]
    for folder in drawn.glob("0*"):
        shutil.copytree(folder, pictures / folder.name)
    found = finish(evaluate("geneval", str(pictures), Options(prompts=4), out=tmp_path / "judged"))
    assert found.results["n_samples"] == {
        "expected": 48,
        "generated": 48,
        "scored": 48,
        "failed": 0,
    }
    before = json.loads((made / "results.json").read_text())
    assert found.results["metrics"] == before["metrics"]
    assert not list(pictures.glob("*.json*"))  # nothing is written among them
    shutil.rmtree(pictures / "00002")
    partial = finish(evaluate("geneval", str(pictures), Options(prompts=4), out=tmp_path / "again"))
    assert "2 of 48 pictures are missing" in partial.results["warnings"]


def test_unknown_prompts_need_a_detector(tmp_path):
    folder = tmp_path / "made" / "00000"
    (folder / "samples").mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(folder / "samples" / "0000.png")
    record = {"tag": "single_object", "include": [{"class": "cat", "count": 1}], "prompt": "a cat"}
    (folder / "metadata.jsonl").write_text(json.dumps(record) + "\n")
    with pytest.raises(VipoError, match="no known prompt set") as error:
        finish(evaluate("geneval", str(tmp_path / "made")))
    assert "--detector" in error.value.hint
    found = finish(
        evaluate(
            "geneval",
            str(tmp_path / "made"),
            Options(task={"detector": "shapes"}),
            out=tmp_path / "out",
        )
    )
    assert found.results["n_samples"]["expected"] == 1
    (folder / "metadata.jsonl").write_text("oops\n")
    with pytest.raises(VipoError, match="not in GenEval's layout"):
        finish(evaluate("geneval", str(tmp_path / "made")))


def test_only_like_is_compared_with_like(run, base, painters, tmp_path):
    a = finish(quick(run)).out
    b = finish(evaluate("geneval", str(run), replace(QUICK, prompts=3, seed=3))).out
    with pytest.raises(VipoError, match="differ in prompts, seed") as error:
        compare(a, b)
    assert "seed: 0 and 3" in error.value.details


def test_pairs_are_matched_by_prompt_and_seed(run, painters):
    found = finish(quick(run))
    lines = (found.out / "samples.jsonl").read_text().splitlines()
    (found.out / "samples.jsonl").write_text("\n".join(reversed(lines[3:])) + "\n")
    again = compare(found.out, found.baseline)
    assert again["differences"]["overall"]["n"] == 45
    assert again["unpaired"] == 3
    swapped = compare(found.baseline, found.out)["differences"]["overall"]
    assert swapped["value"] == pytest.approx(-again["differences"]["overall"]["value"])


def test_a_run_stands_for_its_latest_evaluation(run, base, painters):
    first = finish(quick(run, baseline="none")).out
    assert evaluation_folder(run) == first
    assert evaluation_folder(first / "results.json") == first
    lora = run / "checkpoints" / "step-000500"
    shutil.copytree(lora, lora.with_name("step-001000"))
    second = finish(quick(run, baseline="none")).out
    assert evaluation_folder(run) == second != first
    with pytest.raises(VipoError, match="no finished evaluation"):
        evaluation_folder(base)
