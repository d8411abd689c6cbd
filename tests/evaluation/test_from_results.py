import json

import pytest

from vipo_cli.benchmarks import prompt_sets
from vipo_cli.errors import DataError, VipoError
from vipo_cli.evaluation.compare import compare
from vipo_cli.evaluation.from_results import evaluate_results


def geneval_lines(right, images=4):
    for number, asked in enumerate(prompt_sets["geneval"]()):
        for image in range(images):
            yield {
                "filename": f"/out/{number:05d}/samples/{image:04d}.png",
                "tag": asked["tag"],
                "prompt": asked["prompt"],
                "correct": right(number, image),
                "reason": "",
                "metadata": json.dumps(asked),
            }


def write(file, lines):
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def test_official_results_of_geneval_get_intervals(tmp_path):
    file = write(tmp_path / "a.jsonl", geneval_lines(lambda number, image: image < number % 4))
    results, folder = evaluate_results("geneval", file, tmp_path / "a")
    assert results["status"] == "complete"
    assert results["n_samples"]["scored"] == 2212
    tasks = [metric["value"] for metric in results["subtasks"].values()]
    assert results["metrics"]["overall"]["value"] == pytest.approx(sum(tasks) / 6)
    assert results["metrics"]["overall"]["n_clusters"] == 553
    other = write(tmp_path / "b.jsonl", geneval_lines(lambda number, image: image < 3))
    _, b = evaluate_results("geneval", other, tmp_path / "b")
    assert compare(b, folder)["differences"]["overall"]["value"] > 0
    with pytest.raises(VipoError, match="another evaluation"):
        evaluate_results("geneval", other, folder)


def test_missing_pictures_of_geneval_are_told(tmp_path):
    lines = [line for line in geneval_lines(lambda *_: True) if line["tag"] != "colors"]
    results, _ = evaluate_results("geneval", write(tmp_path / "a.jsonl", lines), tmp_path / "a")
    assert results["status"] == "partial"
    assert "overall" not in results["metrics"]
    assert "376 of 2212 pictures are missing" in results["warnings"]
    (tmp_path / "x.jsonl").write_text("oops\n")
    with pytest.raises(DataError):
        evaluate_results("geneval", tmp_path / "x.jsonl", tmp_path / "x")


def test_official_results_of_dpg_get_intervals(tmp_path):
    file = tmp_path / "dpg_results.txt"
    file.write_text("a.png, 0.5, 1.0, 0.75\nb.png, 0.25, 0.25, 0.25\n")
    results, _ = evaluate_results("dpg", file, tmp_path / "out")
    assert results["metrics"]["dpg"]["value"] == pytest.approx(50.0)
    assert results["metrics"]["dpg"]["n_clusters"] == 2
