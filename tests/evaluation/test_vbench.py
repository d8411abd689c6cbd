import json
from pathlib import Path

import numpy as np
import pytest

from vipo_cli.benchmarks.vbench import QUALITY, SEMANTIC, VBENCH
from vipo_cli.benchmarks.vbench2 import VBENCH2
from vipo_cli.benchmarks.vbench_files import read_results
from vipo_cli.benchmarks.vbench_native import Judged
from vipo_cli.clips import encode_clip
from vipo_cli.errors import DataError, MissingWeights, VipoError
from vipo_cli.evaluation import vbench
from vipo_cli.evaluation.vbench import UNFILTERED, Options, evaluate, from_results
from vipo_cli.run import finish


def official(folder, suite, leave_out=(), spread=0.1, clips=None):
    """Write result files of a suite, one for each dimension."""
    rng = np.random.default_rng(0)
    for dimension in suite.dimensions:
        if dimension.name in leave_out:
            continue
        count = (clips or dimension.prompts) * dimension.results
        values = np.clip(0.6 + spread * rng.standard_normal(count), 0, 1)
        results = [
            {
                "video_path": f"v/{dimension.name} {place // dimension.results}-"
                f"{place % dimension.results}.mp4",
                "video_results": value / dimension.unit,
            }
            for place, value in enumerate(values.tolist())
        ]
        file = folder / dimension.name / f"r_{dimension.name}_eval_results.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps({dimension.name: [float(values.mean()), results]}))


@pytest.mark.parametrize("suite", [VBENCH, VBENCH2], ids=lambda suite: suite.name)
def test_whole_results_give_a_total_with_an_interval(tmp_path, suite):
    official(tmp_path / "results", suite)

    found = from_results(suite, [tmp_path / "results"], out=tmp_path / "out")

    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results == json.loads(json.dumps(found.results))
    assert (results["status"], results["warnings"], results["missing"]) == ("complete", [], [])
    assert next(iter(results["metrics"])) == "total"
    assert list(results["subtasks"]) == list(suite.names)
    counts = results["n_samples"]
    assert counts["expected"] == counts["generated"] == counts["scored"]
    total = results["metrics"]["total"]
    low, high = total["ci95"]
    assert low < total["value"] < high
    assert total["n"] == counts["scored"]
    assert total["n_clusters"] == sum(each.prompts for each in suite.dimensions)
    # sixteen or eighteen means of hundreds of clips spread less than any of them alone
    assert total["stderr"] < min(one["stderr"] for one in results["subtasks"].values())


@pytest.mark.parametrize("missing", ["scene", "dynamic_degree"])
def test_without_a_dimension_there_is_no_total(tmp_path, missing):
    official(tmp_path, VBENCH, leave_out=[missing])

    results = from_results(VBENCH, [tmp_path]).results

    assert results["status"] == "partial"
    assert results["missing"] == [missing]
    assert results["metrics"].keys() == ({"quality"} if missing in SEMANTIC else {"semantic"})
    assert results["warnings"] == [f"no total: 1 of 16 dimensions are missing: {missing}"]


def test_official_quirks_count_a_missing_dimension_as_zero(tmp_path):
    official(tmp_path, VBENCH, leave_out=["subject_consistency"])
    raw = read_results(VBENCH, [tmp_path]).values

    results = from_results(VBENCH, [tmp_path], official_quirks=True).results

    terms = [
        VBENCH.dimension(name).normalised(raw.get(name, 0.0)) * VBENCH.dimension(name).weight
        for name in QUALITY
    ]
    assert terms[0] == pytest.approx(-0.1462 / 0.8538)  # below zero, not zero
    assert results["metrics"]["quality"]["value"] == pytest.approx(sum(terms) / 6.5)
    assert "total" in results["metrics"]
    assert results["status"] == "partial"
    assert "count as a raw 0" in results["warnings"][0]
    assert "subject_consistency" not in results["subtasks"]


def test_fewer_clips_than_the_benchmarks_are_no_whole_result(tmp_path):
    official(tmp_path, VBENCH, clips=10)

    results = from_results(VBENCH, [tmp_path]).results

    assert results["status"] == "partial"
    assert "total" in results["metrics"]
    assert "scene has the results of 50 clips instead of 430" in results["warnings"]
    # a filter chooses these clips, and those without the object do not count
    assert not any(text.startswith(("temporal_fl", "color")) for text in results["warnings"])


def test_values_without_clips_have_no_interval(tmp_path):
    file = tmp_path / "r.json"
    file.write_text(json.dumps({name: [0.5] for name in VBENCH.names}))

    results = from_results(VBENCH, [file]).results

    assert results["metrics"]["total"]["ci95"] is None
    assert {one["ci95"] for one in results["subtasks"].values()} == {None}
    assert results["metrics"]["total"]["value"] == pytest.approx(
        (4 * results["metrics"]["quality"]["value"] + results["metrics"]["semantic"]["value"]) / 5
    )


def test_a_perfect_dimension_has_an_interval_all_the_same(tmp_path):
    official(tmp_path, VBENCH, spread=0.0)
    file = tmp_path / "scene" / "r_scene_eval_results.json"
    found = json.loads(file.read_text())["scene"]
    for one in found[1]:
        one["video_results"] = 1.0
    file.write_text(json.dumps({"scene": [1.0, found[1]]}))

    scene = from_results(VBENCH, [tmp_path]).results["subtasks"]["scene"]

    assert scene["method"] == "wilson"
    assert scene["ci95"][0] < 0.97 < scene["ci95"][1] == 1.0


class Brightness:
    """A dimension that is quick to judge: how bright the first pixel of the second frame is."""

    pooled = False
    bt601 = False
    fingerprint = "brightness"

    def __init__(self, dimension):
        self.dimension = dimension
        self.judged = []

    def score(self, frames, asked):
        self.judged.append(asked["prompt"])
        if frames[1, 0, 0, 0] == 13:
            raise DataError("an unlucky clip")
        return Judged(frames[1, 0, 0, 0] / 255)


@pytest.fixture
def scorers(monkeypatch):
    made = {}

    def load(name, weights, device):
        if name == "aesthetic_quality":
            raise MissingWeights("the head is not here", hint="curl it")
        return made.setdefault(name, Brightness(name))

    monkeypatch.setattr(vbench, "load_scorer", load)
    return made


@pytest.fixture
def info(tmp_path):
    file = tmp_path / "info.json"
    entries = [
        ("a cat", ["subject_consistency"]),
        ("a dog", ["subject_consistency"]),
        ("a room", ["scene", "background_consistency"]),
        ("a stone", ["temporal_flickering"]),
    ]
    file.write_text(json.dumps([{"prompt_en": p, "dimension": d} for p, d in entries]))
    return file


@pytest.fixture
def finished(tmp_path):
    """A folder of clips, animated PNG under the official names, with and without more than five."""
    folder = tmp_path / "finished"
    folder.mkdir()
    for number, prompt in enumerate(["a cat", "a dog", "a room", "a stone"]):
        for index in range(6):
            shade = 100 + 20 * number + index
            frames = np.full((2, 4, 4, 3), shade, np.uint8)
            (folder / f"{prompt}-{index}.mp4").write_bytes(encode_clip(frames, 8))
    return folder


def run(finished, info, out, **options):
    return finish(evaluate(VBENCH, str(finished), Options(info=info, **options), out=out))


def test_finished_clips_are_judged_natively(tmp_path, finished, info, scorers):
    found = run(finished, info, tmp_path / "out")

    subject = found.results["subtasks"]["subject_consistency"]
    assert subject["value"] == pytest.approx(np.mean([*range(100, 105), *range(120, 125)]) / 255)
    assert (subject["n"], subject["n_clusters"], subject["backend"]) == (10, 2, "native")
    assert found.results["status"] == "partial"
    assert "total" not in found.results["metrics"]
    assert found.failed.keys() == {"aesthetic_quality", "appearance_style"}
    assert UNFILTERED in found.results["warnings"]
    texts = " | ".join(found.results["warnings"])
    assert "these are not the prompts of VBench: 4 prompts instead of 946" in texts
    assert "aesthetic_quality was not judged: no clips for it" in texts
    # what was written can be handed in
    files = tmp_path / "out" / "native"
    assert read_results(VBENCH, [files]).values.keys() == set(found.results["subtasks"])


def test_a_clip_is_judged_once_until_it_changes(tmp_path, finished, info, scorers):
    first = run(finished, info, tmp_path / "out")
    judged = scorers["subject_consistency"].judged
    assert len(judged) == 10
    lines = tmp_path / "out" / "native" / "subject_consistency.jsonl"
    lines.write_text(lines.read_text()[:-20])  # killed in the middle of the last line

    again = run(finished, info, tmp_path / "out")
    assert judged[10:] == ["a dog"]
    assert again.results["subtasks"] == first.results["subtasks"]

    (finished / "a cat-0.mp4").write_bytes((finished / "a dog-0.mp4").read_bytes())
    run(finished, info, tmp_path / "out")
    assert judged[11:] == ["a cat"]


def test_a_clip_that_cannot_be_judged_is_left_out_and_counted(tmp_path, finished, info, scorers):
    (finished / "a cat-0.mp4").write_bytes(b"no clip")
    unlucky = np.full((2, 4, 4, 3), 13, np.uint8)
    (finished / "a dog-1.mp4").write_bytes(encode_clip(unlucky, 8))

    results = run(finished, info, tmp_path / "out").results

    subject = results["subtasks"]["subject_consistency"]
    assert subject["n"] == 8
    assert subject["value"] == pytest.approx(
        np.mean([101, 102, 103, 104, 120, 122, 123, 124]) / 255
    )
    assert results["n_samples"]["failed"] == 2
    assert "2 clips could not be judged; see native/*.jsonl" in results["warnings"]


def test_clips_that_a_filter_chose_lie_in_a_folder_of_their_own(tmp_path, finished, info, scorers):
    chosen = finished / "temporal_flickering"
    chosen.mkdir()
    (finished / "a stone-5.mp4").rename(chosen / "a stone-0.mp4")

    results = run(finished, info, tmp_path / "out").results

    assert results["subtasks"]["temporal_flickering"]["n"] == 1
    assert results["subtasks"]["temporal_flickering"]["ci95"] is None
    assert UNFILTERED not in results["warnings"]


def test_missing_weights_cost_a_dimension_alone(tmp_path, finished, info, scorers):
    info.write_text(json.dumps([{"prompt_en": "a cat", "dimension": ["aesthetic_quality"]}]))
    found = run(finished, info, tmp_path / "out")
    assert found.failed["aesthetic_quality"] == "the head is not here; curl it"
    assert found.results["status"] == "error"


def test_another_evaluation_in_the_same_folder_is_refused(tmp_path, finished, info, scorers):
    run(finished, info, tmp_path / "out")
    with pytest.raises(VipoError, match="with other prompts"):
        run(finished, info, tmp_path / "out", prompts=1)


def test_what_is_not_judged_natively_names_the_way_to_do_it(tmp_path, finished, info):
    with pytest.raises(VipoError, match="`scene` is not judged") as caught:
        run(finished, info, tmp_path / "out", dimensions=("scene",))
    assert "--backend official" in caught.value.hint
    with pytest.raises(VipoError, match="no dimension `beauty`"):
        run(finished, info, tmp_path / "out", dimensions=("beauty",))
    with pytest.raises(VipoError, match=r"no dimension of VBench-2\.0") as caught:
        info.write_text(json.dumps([{"prompt_en": "a cat", "dimension": ["Material"]}]))
        finish(evaluate(VBENCH2, str(finished), Options(info=info), out=tmp_path / "out"))
    assert "--from-results" in caught.value.hint


def test_the_official_package_judges_what_it_is_asked(tmp_path, finished, info, monkeypatch):
    asked = []

    def run_official(suite, official, videos, dimensions, out):
        asked.append((official.info, videos, list(dimensions)))
        for name in dimensions:
            file = out / "official" / name / "results_eval_results.json"
            file.parent.mkdir(parents=True)
            results = [{"video_path": "a cat-0.mp4", "video_results": 0.5}]
            file.write_text(json.dumps({name: [0.5, results]}))
        return {"color": "no detectron2"}
        yield

    monkeypatch.setattr(vbench, "run_official", run_official)
    monkeypatch.setattr(vbench, "find_python", lambda *_: Path("python"))
    found = run(
        finished, info, tmp_path / "out", backend="official", dimensions=("scene", "temporal_style")
    )

    assert asked == [(info, finished, ["scene", "temporal_style"])]
    backends = {name: one["backend"] for name, one in found.results["subtasks"].items()}
    assert backends == {"scene": "official", "temporal_style": "official"}
    assert "color was not judged: no detectron2" in found.results["warnings"]
