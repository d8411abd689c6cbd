import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.painter import write_base, write_run
from vipo_cli.evaluation.evaluate import evaluate
from vipo_cli.evaluation.plan import Options
from vipo_cli.evaluation.score import gather_parts
from vipo_cli.run import Team, finish, read_lines

OPTIONS = Options(prompts=3, prompt_set="shapes", batch_size=4)


def evaluated(run, out, count):
    """Evaluate with so many threads, each of which passes for a process."""
    barrier = threading.Barrier(count)
    teams = [Team(rank, count, barrier.wait) for rank in range(count)]
    with ThreadPoolExecutor(count) as pool:
        work = [
            pool.submit(finish, evaluate("geneval", str(run), OPTIONS, out=out / "e", team=team))
            for team in teams
        ]
        return [each.result() for each in work]


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "runs" / "poly", write_base(tmp_path / "base"))


def files(folder):
    """Return what lies in a folder but for times, and with verdicts in a settled order."""
    found = {}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if name.endswith("samples.jsonl"):
            found[name] = sorted(file.read_text().splitlines())
        elif name.endswith("results.json"):
            found[name] = json.loads(file.read_text()) | {"timing": None}
        elif file.suffix != ".html" and file.is_file():
            found[name] = file.read_bytes()
    return found


@pytest.mark.parametrize("count", [2, 3])
def test_a_team_makes_the_same_evaluation(run, painters, tmp_path, monkeypatch, count):
    for number in (1, count):
        monkeypatch.setenv("VIPO_CACHE", str(tmp_path / f"cache-{number}"))
        found = evaluated(run, tmp_path / str(number), number)
    painted = [sum(map(len, painter.calls)) for painter in painters]

    alone, together = (files(tmp_path / str(number)) for number in (1, count))
    baselines = [json.loads(each.pop("e/baseline.json")) for each in (alone, together)]
    assert alone == together
    assert baselines[0]["differences"] == baselines[1]["differences"]
    # each picture of the model and of its base was drawn twice: by one, and by one of a team
    assert painted[:2] == [36, 36]
    assert sum(painted[2:]) == 72
    assert max(painted[2:]) < 36
    assert found[0].results["timing"]["drawn"] == found[0].results["timing"]["judged"] == 36
    assert found[0].comparison is not None
    assert [each.results for each in found[1:]] == [{}] * (count - 1)


def test_what_a_killed_team_judged_is_not_judged_again(run, painters, tmp_path):
    whole = evaluated(run, tmp_path / "whole", 1)[0]
    evaluated(run, tmp_path / "killed", 1)
    samples = tmp_path / "killed" / "e" / "samples.jsonl"
    lines = samples.read_text().splitlines(keepends=True)
    # the kill came while one of three parts was being moved, and in the middle of a line
    samples.write_text("".join(lines[:8]) + lines[8][:30])
    for rank, own in enumerate((lines[5:15], lines[15:20], lines[20:25])):
        samples.with_name(f"samples-part-{rank}.jsonl").write_text("".join(own) + lines[25][:9])

    again = evaluated(run, tmp_path / "killed", 2)[0]

    assert again.results["timing"]["judged"] == 36 - 25
    assert again.results["metrics"] == whole.results["metrics"]
    assert not list(samples.parent.glob("samples-part-*"))


def test_parts_are_moved_in_order(tmp_path):
    for rank in (1, 0):
        (tmp_path / f"samples-part-{rank}.jsonl").write_text(f'{{"n": {rank}}}\n')
    assert gather_parts(tmp_path / "samples.jsonl") == 2
    assert read_lines(tmp_path / "samples.jsonl") == [{"n": 0}, {"n": 1}]
    assert gather_parts(tmp_path / "samples.jsonl") == 0
