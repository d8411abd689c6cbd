import json

import pytest
import typer
from typer.testing import CliRunner

from vipo_cli.benchmarks.vbench import VBENCH
from vipo_cli.benchmarks.vbench2 import VBENCH2
from vipo_cli.cli.eval_vbench import register
from vipo_cli.errors import VipoError


@pytest.fixture
def run():
    app = typer.Typer()
    register(app)

    def invoke(*words):
        return CliRunner().invoke(app, [str(word) for word in words])

    return invoke


def put(folder, suite, leave_out=()):
    folder.mkdir()
    for name in suite.names:
        if name not in leave_out:
            wanted = suite.dimension(name)
            results = [
                {"video_path": f"{name} {i // wanted.results}-{i % wanted.results}.mp4"}
                | {"video_results": (0.4 + 0.2 * (i % 2)) / wanted.unit}
                for i in range(wanted.prompts * wanted.results)
            ]
            value = sum(each["video_results"] for each in results) * wanted.unit / len(results)
            (folder / f"{name}_eval_results.json").write_text(json.dumps({name: [value, results]}))
    return folder


@pytest.mark.parametrize("suite", [VBENCH, VBENCH2], ids=lambda suite: suite.name)
def test_official_results_are_added_up(tmp_path, run, suite):
    place = put(tmp_path / "results", suite)

    shown = run(suite.name, "--from-results", place)

    assert shown.exit_code == 0, shown.output
    lines = shown.stdout.splitlines()
    assert lines[0] == f"{suite.title} of results"
    assert max(map(len, lines)) <= 80
    last = {line.split()[0]: line.split() for line in lines if line}
    assert last["total"][2] < last["total"][1] < last["total"][4]
    if suite is VBENCH2:
        assert lines[-1] == "* one of the 5 that ViPO reports"
        assert sum("*" in line for line in lines) == 6


def test_more_files_may_follow_and_the_document_is_json(tmp_path, run):
    files = sorted(put(tmp_path / "results", VBENCH).iterdir())

    shown = run("vbench", "--json", "--from-results", *files)

    assert shown.exit_code == 0, shown.output
    document = json.loads(shown.stdout)
    assert document["status"] == "complete"
    assert document["model"] == "16 files"


def test_no_total_is_printed_of_missing_dimensions(tmp_path, run):
    place = put(tmp_path / "results", VBENCH, leave_out=["color"])

    shown = run("vbench", "--from-results", place, "--out", tmp_path / "out")

    assert isinstance(shown.exception, VipoError)
    lines = {line.split()[0]: line for line in shown.stdout.splitlines() if line}
    assert lines["total"].split(maxsplit=1)[1] == "none: dimensions are missing"
    assert lines["color"].split() == ["color", "missing"]
    assert "no total: 1 of 16 dimensions are missing: color" in shown.stderr
    assert json.loads((tmp_path / "out/results.json").read_text())["missing"] == ["color"]
    assert run("vbench", "--from-results", place, "--allow-partial").exit_code == 0
    quirks = run("vbench", "--from-results", place, "--official-quirks", "--allow-partial", "-q")
    assert 0 < float(quirks.stdout) < 100


@pytest.mark.parametrize("words", [(), ("a", "b")])
def test_one_target_is_needed(run, words):
    shown = run("vbench", *words)
    assert isinstance(shown.exception, VipoError)
    assert "--from-results" in shown.exception.hint
