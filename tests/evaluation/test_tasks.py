import json
from dataclasses import replace

import numpy as np
import pytest

from tests.painter import write_base, write_run
from vipo_cli.benchmarks import Metric, Verdict
from vipo_cli.errors import UnknownName, VipoError
from vipo_cli.evaluation.compare import compare
from vipo_cli.evaluation.evaluate import evaluate
from vipo_cli.evaluation.plan import Options
from vipo_cli.evaluation.rank import rank_evaluations
from vipo_cli.evaluation.score import find_pictures, read_samples, score
from vipo_cli.evaluation.tasks import find_task
from vipo_cli.reporting.html import write_report
from vipo_cli.reporting.sheet import write_sheet
from vipo_cli.rewards import made
from vipo_cli.run import finish

QUICK = Options(prompts=3, prompt_set="shapes")
SHAPES = Options(task={"detector": "shapes"})

BRIGHTNESS = '''
"""How bright pictures are, and how many of the words in their prompts are long."""

from typing import Annotated

import numpy as np
from pydantic import Field

from vipo_cli.benchmarks import Metric, Task, Verdict
from vipo_cli.media import decode


class Brightness:
    name = "brightness"
    title = "Brightness"
    version = "1"
    metrics = (Metric("brightness", lowest=0, highest=1), Metric("words", by_tag=False))
    prompt_set = "shapes"
    needs = ()
    notes = ()
    images_per_prompt = 1
    batch_size = 4

    def __init__(self, scale):
        self.scale = scale
        self.judge_fingerprint = ["brightness", scale]

    def judge(self, media, asked):
        return [self.one(*each) for each in zip(media, asked)]

    def one(self, data, asked):
        words = asked["prompt"].split()
        level = float(np.asarray(decode(data)).mean()) / 255 * self.scale
        share = sum(len(word) > 4 for word in words) / len(words)
        return Verdict({"brightness": level, "words": share}, {"words": len(words)})


def brightness(*, scale: Annotated[float, Field(gt=0)] = 1.0) -> Task:
    """How bright a picture is."""
    return Brightness(scale)
'''


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "runs" / "poly", write_base(tmp_path / "base"))


@pytest.fixture
def own_task(tmp_path):
    file = tmp_path / "brightness.py"
    file.write_text(BRIGHTNESS)
    return file


def test_any_reward_is_a_benchmark(run, painters):
    found = finish(evaluate("shapes-alignment", str(run), QUICK))
    assert found.out.name == "shapes-alignment-step-000500-prompts3-shapes"
    assert set(found.results["subtasks"]) == set(found.results["subtasks"]) > {"counting"}
    metric = found.results["metrics"]["shapes-alignment"]
    assert (metric["n"], metric["n_clusters"], metric["scale"]) == (18, 18, None)
    assert found.comparison["differences"]["shapes-alignment"]["value"] > 0
    page = write_report(found.out).read_text()
    assert "Gained most" in page
    assert "right" not in page.partition("<h2>Settings")[0].partition("<h2>")[2]
    assert write_sheet(found.out).is_file()


def test_benchmarks_share_the_pictures_of_a_model(run, painters):
    finish(evaluate("geneval", str(run), QUICK))
    drawn = len(painters)
    found = finish(evaluate("shapes-sharpness", str(run), replace(QUICK, images_per_prompt=2)))
    assert len(painters) == drawn
    assert found.results["timing"]["drawn"] == 0
    both = compare(run, run)
    assert set(both["wins"]) == {"geneval", "shapes-sharpness"}
    assert "geneval/overall" in both["differences"]
    assert both["wins"]["geneval"]["tied"] == 18


def test_a_benchmark_of_ones_own_lies_in_a_file(run, painters, own_task):
    found = finish(evaluate(str(own_task), str(run), replace(QUICK, task={"scale": 0.5})))
    metrics = found.results["metrics"]
    assert found.title == "Brightness"
    assert metrics["brightness"]["scale"] == [0, 1]
    assert metrics["brightness"]["value"] < 0.5
    assert "words" in metrics
    assert "counting/words" not in found.results["subtasks"]
    samples = read_samples(found.out / "samples.jsonl").values()
    words = [word for sample in samples for word in sample["prompt"].split()]
    pooled = np.mean([len(word) > 4 for word in words])
    assert metrics["words"]["value"] == pytest.approx(pooled)
    again = find_task(f"{own_task}:brightness", {})
    assert again.judge_fingerprint == ["brightness", 1.0]


def test_mistakes_in_naming_a_benchmark_say_what_to_do(tmp_path, own_task):
    with pytest.raises(UnknownName, match="unknown benchmark") as unknown:
        find_task("genevel", {})
    assert "`geneval`" in unknown.value.hint
    with pytest.raises(VipoError, match="not valid") as error:
        find_task(str(own_task), {"scale": -1, "size": 3})
    assert "scale: must be greater than 0, got `-1`" in error.value.details
    assert "size: unknown option" in error.value.details
    with pytest.raises(VipoError, match="holds none"):
        find_task(f"{own_task}:darkness", {})
    with pytest.raises(VipoError, match="no such file"):
        find_task("other.py", {})
    own_task.write_text("import nowhere_to_be_found")
    with pytest.raises(VipoError, match="nowhere_to_be_found"):
        find_task(str(own_task), {})


def test_a_backend_is_an_option_of_its_own_only_where_a_package_stands_behind_it(monkeypatch):
    asked = []
    monkeypatch.setattr(made, "with_backend", lambda *names: asked.append(names) or Named)
    find_task("imagereward", {"backend": "official"})
    assert asked == [("imagereward", "official")]
    with pytest.raises(VipoError, match="not valid") as error:
        find_task("ocr-words", {"backend": "official"})
    assert error.value.details[0].startswith("backend: must be")


class Named:
    """A reward of which nothing but the name is asked."""

    name, dimension, fingerprint = "named", "overall", "1"


def test_prompts_that_cannot_be_judged_are_refused(run, painters, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("a red circle\na blue square\n")
    with pytest.raises(VipoError, match="no detector for the prompts"):
        finish(evaluate("geneval", str(run), Options(prompt_set=str(file))))
    with pytest.raises(VipoError, match="do not say include") as error:
        finish(evaluate("geneval", str(run), replace(SHAPES, prompt_set=str(file))))
    assert "--prompt-set geneval" in error.value.hint
    assert not painters
    found = finish(evaluate("shapes-vividness", str(run), Options(prompt_set=str(file))))
    assert found.results["n_samples"]["scored"] == 2
    assert found.results["subtasks"] == {}


class Judge:
    """Fails a batch that holds a 3, and gives a 2 no number."""

    metrics = (Metric("size"),)
    batch_size = 4

    def __init__(self):
        self.sizes = []

    def judge(self, media, asked):
        self.sizes.append(len(media))
        if b"3" in media:
            raise RuntimeError("three")
        return [Verdict({"size": float("nan") if data == b"2" else float(data)}) for data in media]


def test_a_batch_that_fails_is_judged_one_by_one(tmp_path):
    for number in range(10):
        file = tmp_path / f"{number:05d}" / "samples" / "0000.png"
        file.parent.mkdir(parents=True)
        file.write_bytes(str(number).encode())
    metadata = {number: {"prompt": str(number), "tag": "all"} for number in range(10)}
    task, lines = Judge(), tmp_path / "samples.jsonl"
    pictures = find_pictures(tmp_path)
    assert finish(score(pictures, metadata, {}, task, lines)) == 10
    assert task.sizes == [4, 1, 1, 1, 1, 4, 2]
    samples = read_samples(lines)
    assert samples[3, 0]["scores"] is None
    assert "three" in samples[3, 0]["reason"]
    assert samples[2, 0]["scores"] is None
    assert samples[9, 0]["scores"] == {"size": 9}
    again = Judge()
    assert finish(score(pictures, metadata, {}, again, lines)) == 2
    assert json.loads(lines.read_text().splitlines()[0])["image"]


def test_several_evaluations_are_ranked(run, painters, tmp_path):
    options = replace(QUICK, prompts=8)
    finish(evaluate("geneval", str(run), options))
    other = finish(evaluate("geneval", str(run), options, out=tmp_path / "o"))
    with pytest.raises(VipoError, match="one side never won"):
        rank_evaluations([run, other.out, other.baseline])
    for place, wins in ((other.out, 3), (other.baseline, 2)):
        lines = [json.loads(line) for line in (place / "samples.jsonl").read_text().splitlines()]
        for line in lines:
            line["scores"]["correct"] = float(line["prompt_index"] % 4 < wins)
            if place == other.baseline:
                line["scores"]["correct"] = 1 - line["scores"]["correct"]
        (place / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    ranked = rank_evaluations([run, other.out, other.baseline])
    found = ranked["ranking"]["geneval"]
    assert found["models"][-1]["name"] == str(other.baseline)
    last = found["models"][-1]["strength"]
    assert last["ci95"][0] < last["value"] < last["ci95"][1]
    with pytest.raises(VipoError, match="named twice"):
        rank_evaluations([run, run, other.out])


def test_clips_are_drawn_and_judged(tmp_path, monkeypatch):
    monkeypatch.setenv("VIPO_CACHE", str(tmp_path))
    options = Options(prompts=1, steps=2)
    found = finish(evaluate("shapes-motion", "shapes-video", options))
    assert found.results["n_samples"]["scored"] == 2
    assert set(found.results["metrics"]) == {"overall", "object", "colour", "direction"}
    assert "image/" in write_report(found.out).read_text()
    with pytest.raises(VipoError, match="no detector"):
        finish(evaluate("geneval", "shapes-video", options))
