import json

import pytest
from typer.testing import CliRunner

from tests.painter import Painter, write_base, write_run
from vipo_cli.cli.eval import app
from vipo_cli.cli.show_evaluation import results_table
from vipo_cli.errors import Interrupted, VipoError
from vipo_cli.evaluation import generate


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("VIPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        generate, "load_target", lambda target, _: Painter(1.0 if target.lora else 0.4)
    )
    return write_run(tmp_path / "runs" / "poly", write_base(tmp_path / "base"))


def vipo_eval(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def geneval(run, *words):
    return vipo_eval("geneval", run, "--prompt-set", "shapes", "--prompts", 3, *words)


def test_people_get_a_table_of_80_columns_and_paths(run):
    result = geneval(run)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert (
        max(len(line) for line in lines if "/" not in line) <= 80
    )  # paths are as long as they are
    assert [line.split()[0] for line in lines[3:10]] == [
        "single_object", "two_object", "counting", "colors", "position", "color_attr", "overall",
    ]  # fmt: skip
    assert "*" in lines[9]
    assert "report.html" in result.stderr
    assert "samples.png" in result.stderr
    assert "run again: vipo" in result.stderr
    assert "only 18 of the benchmark's 600 prompts" in result.stderr


def test_programs_get_one_document(run):
    document = json.loads(geneval(run, "--json").stdout)
    assert document["n_samples"]["scored"] == 36
    assert document["metrics"]["overall"]["value"] > 0.9
    assert document["baseline"]["differences"]["overall"]["ci95"][0] > 0


def test_quiet_prints_the_folder_alone(run):
    out = run / "eval" / "geneval-step-000500-prompts3-shapes"
    assert geneval(run, "--quiet").stdout == f"{out}\n"
    assert (out / "report.html").is_file()


def test_missing_pictures_fail_unless_accepted(run, monkeypatch):
    class Broken:
        name, fingerprint = "broken", "1"

        def __init__(self):
            self.seen = 0

        def detect(self, picture):
            self.seen += 1
            if self.seen == 1:
                raise ValueError("no")
            return []

    from vipo_cli.benchmarks import detectors

    monkeypatch.setitem(detectors._loaded, "broken", Broken)
    words = (run, "--detector", "broken", "--baseline", "none", "--json")
    accepted = geneval(*words, "--allow-partial")
    assert accepted.exit_code == 0
    document = json.loads(accepted.stdout)
    assert document["status"] == "partial"
    assert document["n_samples"]["failed"] == 1
    result = geneval(*words)
    assert isinstance(result.exception, VipoError)
    assert "--allow-partial" in result.exception.hint
    assert json.loads(result.stdout)["n_samples"]["failed"] == 1


def test_interrupting_says_how_to_continue(run, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Painter, "__call__", stop)
    result = geneval(run)
    assert isinstance(result.exception, Interrupted)
    assert "continue with: vipo" in result.exception.hint


def test_compare_speaks_in_three_ways_and_can_fail(run):
    document = json.loads(geneval(run, "--json").stdout)
    a, b = document["out"], document["baseline"]["b"]
    compared = json.loads(vipo_eval("compare", run, b, "--json").stdout)
    assert compared["differences"] == document["baseline"]["differences"]
    assert set(compared["differences"]["overall"]) == {
        "value",
        "ci95",
        "p_value",
        "p_holm",
        "n",
        "n_clusters",
    }
    table = vipo_eval("compare", a, b).stdout
    assert "overall" in table
    value = compared["differences"]["overall"]["value"]
    assert vipo_eval("compare", a, b, "--quiet").stdout == f"{value:+.4f}\n"
    assert vipo_eval("compare", a, b, "--fail-below", 0).exit_code == 0
    assert vipo_eval("compare", b, a, "--fail-below", 0).exit_code == 3


def test_report_is_written_anew(run):
    geneval(run)
    page = run / "eval" / "geneval-step-000500-prompts3-shapes" / "report.html"
    page.unlink()
    assert vipo_eval("report", run, "--quiet").stdout == f"{page}\n"
    assert page.is_file()


def test_mistakes_in_usage_have_status_2():
    assert vipo_eval("geneval").exit_code == 2
    assert vipo_eval("geneval", "x", "--steps", 0).exit_code == 2


def test_every_command_has_help_with_an_example():
    for command in ("geneval", "compare", "report"):
        result = vipo_eval(command, "--help")
        assert result.exit_code == 0
        assert f"vipo eval {command} " in result.stdout


def test_a_table_without_an_overall_score_is_still_a_table():
    results = {
        "model": "m",
        "n_samples": {"scored": 0, "expected": 4},
        "subtasks": {},
        "metrics": {},
    }
    assert "0 of 4 pictures" in results_table("GenEval", results)
