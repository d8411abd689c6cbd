import json

import numpy as np
import pytest

from vipo_cli.benchmarks.vbench import VBENCH
from vipo_cli.benchmarks.vbench2 import VBENCH2
from vipo_cli.benchmarks.vbench_files import read_results, write_results
from vipo_cli.errors import VipoError
from vipo_cli.evaluation.compare import compare
from vipo_cli.evaluation.rank import rank_evaluations
from vipo_cli.evaluation.vbench import from_results

PROMPTS = 8


@pytest.fixture
def evaluated(tmp_path):
    """Return a function that makes an evaluation out of result files, all values moved a little."""

    def make(name, suite=VBENCH, gain=0.0, leave_out=(), skip=0, weight=1, clips=0):
        files = tmp_path / f"{name}-files"
        files.mkdir()
        for number, dimension in enumerate(suite.dimensions):
            if dimension.name in leave_out:
                continue
            rng = np.random.default_rng([clips, number])
            values = 0.5 + 0.1 * rng.standard_normal(PROMPTS * dimension.results) + gain
            results = [
                {
                    "video_path": f"v/{place // dimension.results}, no. 3.5-"
                    f"{place % dimension.results}.mp4",
                    "video_results": value / dimension.unit,
                    "cnt_per_video": weight,
                }
                for place, value in enumerate(values.tolist())
            ][skip:]
            own = [each["video_results"] * dimension.unit for each in results]
            write_results(
                files / f"{dimension.name}_eval_results.json",
                dimension.name,
                float(np.mean(own)),
                results,
            )
        from_results(suite, [files], out=tmp_path / name)
        return tmp_path / name

    return make


@pytest.mark.parametrize("suite", [VBENCH, VBENCH2], ids=lambda suite: suite.name)
def test_differences_are_those_of_the_results(evaluated, suite):
    a, b = evaluated("a", suite, gain=0.02), evaluated("b", suite)

    found = compare(a, b)

    numbers = [json.loads((folder / "results.json").read_text()) for folder in (a, b)]
    values = [each["metrics"] | each["subtasks"] for each in numbers]
    assert found["headline"] == "total"
    assert list(found["differences"]) == [
        "total",
        *(category.name for category in suite.categories),
        *suite.names,
    ]
    for name, difference in found["differences"].items():
        expected = values[0][name]["value"] - values[1][name]["value"]
        assert difference["value"] == pytest.approx(expected, abs=1e-9)
        assert difference["value"] > 0
        # every clip is better by the same: there is no doubt
        assert difference["ci95"] == pytest.approx([difference["value"]] * 2)
        assert difference["p_value"] < 0.02
    assert found["wins"][suite.name]["won"] == PROMPTS
    assert found["unpaired"] == 0


def test_equal_evaluations_do_not_differ(evaluated):
    found = compare(evaluated("a"), evaluated("b"))
    assert {each["value"] for each in found["differences"].values()} == {0.0}
    assert {each["p_holm"] for each in found["differences"].values()} == {1.0}
    assert found["wins"]["vbench"]["tied"] == PROMPTS


def test_what_only_one_side_has_is_counted_and_left_out(evaluated):
    a, b = evaluated("a", leave_out=["scene"]), evaluated("b", skip=2)

    found = compare(a, b)

    assert "scene" not in found["differences"]
    assert {"total", "semantic"}.isdisjoint(found["differences"])
    assert found["headline"] is None
    assert found["differences"]["quality"]["value"] == pytest.approx(0)
    scenes = PROMPTS * VBENCH.dimension("scene").results - 2
    assert found["unpaired"] == scenes + 2 * (len(VBENCH.names) - 1)


def test_several_are_ranked_by_prompts(evaluated):
    gains = (0, 0.01, -0.01)
    folders = [
        evaluated(name, gain=gain, clips=n)
        for n, name, gain in zip(range(3), "abc", gains, strict=True)
    ]
    ranked = rank_evaluations(folders)["ranking"]["vbench"]
    assert [each["name"] for each in ranked["models"]] == [str(folders[at]) for at in (1, 0, 2)]


def test_results_that_were_kept_are_the_same_results(evaluated):
    folder = evaluated("a", VBENCH2, weight=3)
    one = read_results(VBENCH2, [folder.parent / "a-files"]).measured
    kept = read_results(VBENCH2, [folder / "official"]).measured
    for name in VBENCH2.names:
        assert kept[name].value == one[name].value
        assert [each.weight for each in kept[name].results] == [3] * len(one[name].results)
        assert [each.value for each in kept[name].results] == pytest.approx(
            [each.value for each in one[name].results], rel=1e-15
        )


def test_what_was_judged_or_made_in_another_way_is_refused(evaluated):
    a, b = evaluated("a"), evaluated("b")
    for folder, steps in ((a, 20), (b, 50)):
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps(manifest | {"sampling": {"steps": steps}}))
    with pytest.raises(VipoError, match="they differ in sampling"):
        compare(a, b)

    results = json.loads((b / "results.json").read_text())
    for folder, backend in ((a, "official"), (b, "native")):
        results["subtasks"]["scene"]["backend"] = backend
        (folder / "results.json").write_text(json.dumps(results))
    with pytest.raises(VipoError, match="differ in judge of scene, sampling") as caught:
        compare(a, b)
    assert "judge of scene: official and native" in caught.value.details


def test_a_folder_without_verdicts_says_how_to_get_them(evaluated):
    a, b = evaluated("a"), evaluated("b")
    (b / "manifest.json").unlink()
    with pytest.raises(VipoError, match="keeps no verdict on each clip") as caught:
        compare(a, b)
    assert "--from-results" in caught.value.hint


def test_results_added_up_anew_leave_nothing_of_those_before(evaluated):
    folder = evaluated("a")
    fewer = folder.parent / "a-files"
    (fewer / "scene_eval_results.json").unlink()
    from_results(VBENCH, [fewer], out=folder)
    assert set(read_results(VBENCH, [folder / "official"]).measured) == {*VBENCH.names} - {"scene"}


def test_results_alone_stand_beside_evaluations_of_a_run(evaluated):
    a, b = evaluated("a"), evaluated("b")
    run = a.parent / "run"
    (run / "eval").mkdir(parents=True)
    (a / "manifest.json").unlink()
    a.rename(run / "eval" / "a")
    with pytest.raises(VipoError, match="keeps no verdict on each clip"):
        compare(run, b)
