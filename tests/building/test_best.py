import json

import numpy as np
import pytest

from vipo_cli.building.best import Measure, parse_weights, pick
from vipo_cli.building.ways import Wish, build
from vipo_cli.data.scores import keys_of, media_keys, scores_folder, write_scores
from vipo_cli.data.stored import entries_in, open_stored
from vipo_cli.errors import DataError, MissingWeights, UnknownName
from vipo_cli.run import finish

NAN = float("nan")


def chosen(raw, counts, **measure):
    names = {name: np.array(values, float) for name, values in raw.items()}
    weights = measure.pop("weights", dict.fromkeys(raw, 1.0))
    picks, left_out = pick(names, np.array(counts), Measure(weights, **measure))
    return [(each.entry, each.winner, each.loser) for each in picks], dict(left_out), picks


def test_best_against_worst_by_one_reward_in_its_own_units():
    found, left_out, picks = chosen({"r": [1, 5, 3, 2, 2]}, [3, 2])
    assert found == [(0, 1, 0)]
    assert picks[0].margin == 4
    assert left_out == {"best and worst too much alike": 1}


def test_a_margin_can_be_asked_for():
    raw = {"r": [0, 1, 0, 3]}
    assert chosen(raw, [2, 2], min_margin=2)[0] == [(1, 1, 0)]
    assert chosen(raw, [2, 2], min_margin=3)[0] == [(1, 1, 0)]


def test_what_a_reward_cannot_judge_takes_no_part():
    found, left_out, _ = chosen({"r": [NAN, 5, 3, NAN, 2]}, [3, 2])
    assert found == [(0, 1, 2)]
    assert left_out == {"fewer than two media that can be judged": 1}


def test_weights_count_standardised_rewards():
    raw = {"small": [0, 1, 0, 1], "large": [1000, 0, 0, 1000]}  # equal spread once standardised
    assert chosen(raw, [2, 2], weights={"small": 0.7, "large": 0.3})[0] == [(0, 1, 0), (1, 1, 0)]
    assert chosen(raw, [2, 2], weights={"small": 0.3, "large": 0.7})[0] == [(0, 0, 1), (1, 1, 0)]


def test_standardising_does_not_depend_on_units():
    raw = {"a": [0, 1, 4, 2], "b": [3, 0, 1, 1]}
    other = {"a": raw["a"], "b": [1e6 * value + 5 for value in raw["b"]]}
    one, two = (chosen(each, [4])[2] for each in (raw, other))
    assert (one[0].winner, one[0].loser) == (two[0].winner, two[0].loser)
    assert one[0].margin == pytest.approx(two[0].margin)


def test_a_reward_that_says_the_same_of_all_adds_nothing():
    assert chosen({"a": [0, 1], "b": [7, 7]}, [2])[0] == [(0, 1, 0)]


def test_a_negative_weight_prefers_less():
    assert chosen({"a": [0, 1]}, [2], weights={"a": -1.0})[0] == [(0, 0, 1)]


def test_dominance_wants_every_reward_to_agree():
    raw = {"a": [0, 1, 2, 0, 1], "b": [0, 1, 0.5, 1, 0]}
    found, left_out, picks = chosen(raw, [3, 2], dominance=True)
    assert found == [(0, 1, 0)]  # 2 leads 0 too, but by less in b
    assert left_out == {"none is better by every reward": 1}
    assert picks[0].margin == pytest.approx(1 / np.std(raw["a"]))


def test_a_tie_in_one_reward_is_no_dominance():
    assert chosen({"a": [0, 1], "b": [1, 1]}, [2], dominance=True)[0] == []


def test_weights_are_read():
    assert parse_weights("pickscore") == {"pickscore": 1.0}
    assert parse_weights("a=0.7, b=0.3") == {"a": 0.7, "b": 0.3}


@pytest.mark.parametrize("text", ["a=x", "a=0", "=1", "a=nan", "a=inf", "a,a", "", "a,"])
def test_weights_that_say_nothing(text):
    with pytest.raises(DataError):
        parse_weights(text)


def test_pairs_of_candidates_say_how_they_came_to_be(candidates, tmp_path):
    out = tmp_path / "pairs"
    built = finish(build(Wish(str(candidates), "reward:shapes-alignment"), out))
    assert built.pairs == 4
    assert built.categories == {"colors": 2, "counting": 1, "position": 1}
    for entry in entries_in(out):
        assert entry.label == "a"
        assert entry.models[1] == "x"  # the wrong one loses
        assert entry.models[0] in ("y", "z")
        assert entry.seeds[1] == 1
        assert entry.noise_seeds == tuple(seed + 3 for seed in entry.seeds)
        winner, loser = entry.scores["shapes-alignment"]
        assert entry.metadata["built_by"] == "reward"
        assert entry.metadata["margin"] == winner - loser > 0
    stories = [json.loads(line) for line in (out / "pairs.jsonl").read_text().splitlines()]
    assert [story["id"] for story in stories] == ["e0", "e1", "e2", "e3"]
    assert all(story["metadata"]["built_by"] == "reward" for story in stories)
    assert not any("media" in story for story in stories)
    record = open_stored(out)[0]
    assert record.metadata["model_l"] == "x"
    assert record.noise_seeds[1] == 4
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["from"]["weights"] == {"shapes-alignment": 1.0}
    assert manifest["from"]["data_from"] == {"made": "by hand"}


@pytest.mark.parametrize("last", ["flush", "_tell_stories", "close"])
def test_a_build_that_is_killed_at_its_end_goes_on(candidates, tmp_path, monkeypatch, last):
    from vipo_cli.building import build as module

    wish = Wish(str(candidates), "reward:shapes-alignment")
    finish(build(wish, tmp_path / "whole"))

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        owner = module if last == "_tell_stories" else module.Store
        patch.setattr(owner, last, killed)
        with pytest.raises(KeyboardInterrupt):
            finish(build(wish, tmp_path / "pairs"))
    assert not (tmp_path / "pairs" / "manifest.json").exists()
    finish(build(wish, tmp_path / "pairs"))
    for name in ("pairs.jsonl", "part-00000.parquet"):
        assert (tmp_path / "pairs" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_scores_that_are_there_are_not_computed_again(candidates, tmp_path, monkeypatch):
    from vipo_cli.building import scoring

    finish(build(Wish(str(candidates), "reward:shapes-alignment"), tmp_path / "one"))
    monkeypatch.setattr(scoring, "_judge", None)
    with pytest.raises(TypeError):
        finish(build(Wish(str(candidates), "reward:shapes-sharpness"), tmp_path / "no"))
    shards = list(scores_folder(candidates).rglob("*.parquet"))
    monkeypatch.setattr(scoring, "_judge", lambda batch, *_: None if not batch else 1 / 0)
    finish(build(Wish(str(candidates), "reward:shapes-alignment"), tmp_path / "two"))
    assert list(scores_folder(candidates).rglob("*.parquet")) == shards


def test_balance_keeps_as_many_of_each_category(candidates, tmp_path):
    wish = Wish(str(candidates), "reward:shapes-alignment", balance=True)
    built = finish(build(wish, tmp_path / "pairs"))
    assert built.categories == {"colors": 1, "counting": 1, "position": 1}
    assert built.left_out == {"more of its category than of the rarest": 1}


def test_a_category_names_all_pairs(candidates, tmp_path):
    wish = Wish(str(candidates), "reward:shapes-alignment", category="aesthetics")
    assert finish(build(wish, tmp_path / "pairs")).categories == {"aesthetics": 4}


def test_the_same_build_gives_the_same_bytes(candidates, tmp_path):
    for name in ("one", "two"):
        finish(build(Wish(str(candidates), "pareto:shapes-alignment,shapes-composition"),
                     tmp_path / name))  # fmt: skip
    one, two = (tmp_path / name / "part-00000.parquet" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_no_pair_at_all_says_why_and_writes_nothing(candidates, tmp_path):
    wish = Wish(str(candidates), "reward:shapes-alignment", min_margin=50.0)
    with pytest.raises(DataError, match="no pair can be made") as caught:
        finish(build(wish, tmp_path / "pairs"))
    assert caught.value.details == ("4: best and worst too much alike",)
    assert not (tmp_path / "pairs").exists()


@pytest.mark.parametrize(
    ("wish", "error"),
    [
        ({"by": None}, DataError),
        ({"by": "rewad:x"}, UnknownName),
        ({"by": "reward:nobody"}, UnknownName),
        ({"by": "pareto:shapes-alignment"}, DataError),
        ({"by": "judge"}, DataError),
        ({"by": "perturbation"}, DataError),
        ({"by": "perturbation", "changes": ("colur",)}, UnknownName),
        ({"by": "self-play"}, DataError),
        ({"by": "ocr"}, MissingWeights),
        ({"category": "beauty"}, UnknownName),
    ],
)
def test_wishes_that_cannot_be_fulfilled(candidates, tmp_path, wish, error, monkeypatch):
    monkeypatch.setattr("vipo_cli.rewards.ocr.INSTALLED",
                        dict.fromkeys(("rapidocr", "tesseract"), lambda: False))  # fmt: skip
    with pytest.raises(error):
        finish(build(Wish(str(candidates), **wish), tmp_path / "pairs"))
    assert not (tmp_path / "pairs").exists()


def test_nothing_is_worked_for_where_a_data_set_lies_already(candidates):
    with pytest.raises(DataError, match="holds a data set already"):
        finish(build(Wish(str(candidates), "reward:nobody"), candidates))


def test_pairs_are_made_of_data_sets_alone(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        finish(build(Wish(str(tmp_path / "no"), "reward:clip"), tmp_path / "pairs"))
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError) as caught:
        finish(build(Wish(str(tmp_path / "photos"), "reward:clip"), tmp_path / "pairs"))
    assert "vipo data import" in caught.value.hint


def test_text_rendering_goes_by_what_is_read(candidates, tmp_path, monkeypatch):
    class Reader:
        name, dimension, fingerprint = "ocr-similarity", "text rendering", "f"

    from vipo_cli.building import scoring

    keys = media_keys(candidates)
    values = np.tile([0.9, 0.1, 0.75], 4)
    write_scores(scores_folder(candidates), "ocr-similarity", "f", keys, values)
    monkeypatch.setattr(scoring, "load_rewards", lambda names, options: [Reader()])
    wish = Wish(str(candidates), category="text-rendering")
    built = finish(build(wish, tmp_path / "pairs"))
    assert built.pairs == 4
    assert {entry.models for entry in entries_in(tmp_path / "pairs")} == {("x", "y")}
    assert keys_of([], []).joined().to_pylist() == []
