import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from vipo_cli.data.entry import Entry
from vipo_cli.data.pair_scores import known_scores
from vipo_cli.data.scores import SCORES, keys_of, prompt_hash, write_scores
from vipo_cli.data.sources import open_pairs
from vipo_cli.data.store import Store
from vipo_cli.data.stored import open_stored
from vipo_cli.errors import DataError, UnknownName, VipoError
from vipo_cli.evaluation.conflict import Look, measure_conflict
from vipo_cli.evaluation.pair_scoring import tie_noise
from vipo_cli.evaluation.pair_table import telling_pairs, write_pair_table
from vipo_cli.evaluation.strata import _by_both, _count_words
from vipo_cli.media import content_hash
from vipo_cli.rewards import rewards
from vipo_cli.run import finish
from vipo_cli.shapes.rewards import alignment, cleanliness
from vipo_cli.shapes.source import shapes

PAIRS = list(shapes(pairs=12, kind="noisy", seed=3))
SHAPES = ("shapes-alignment", "shapes-sharpness")


@pytest.fixture
def store(tmp_path):
    """Return a function that keeps entries as a data set."""

    def kept(entries, name="data"):
        writer = Store(tmp_path / name, {})
        for entry in entries:
            writer.add(entry)
            writer.passed()
        writer.close()
        return tmp_path / name

    return kept


def entries(**more):
    """Six pairs, the second medium wins in every other, with the scores of two rewards."""
    for number, pair in enumerate(PAIRS[:6]):
        media = pair.media[::-1] if number % 2 else pair.media
        sure = (float(number), 0.0)
        yield Entry(
            pair.prompt,
            media,
            "ab"[number % 2],
            scores={"Good_One": sure[::-1] if number % 2 else sure, "other": (0.5, 0.25)},
            models=(f"m{number % 2}", "m0"),
            annotator=f"person {number % 3}",
            category="even" if number % 2 == 0 else None,
            votes=(1.0, 3.0) if number % 2 else None,
            id=f"row {number}",
            **more,
        )


def scored_as(said):
    """Pairs with the scores that are given, the second medium wins in every other."""
    for number, (pair, scores) in enumerate(zip(PAIRS, said, strict=False)):
        yield Entry(pair.prompt, pair.media, "ab"[number % 2], scores=scores or {})


def measure(place, **more):
    return finish(measure_conflict(open_pairs(str(place)), **more))


def beside(place, reward, score, pairs=PAIRS):
    """Put scores beside a data set as `vipo data score` does."""
    media = [medium for pair in pairs for medium in pair.media]
    prompts = [pair.prompt for pair in pairs for _ in pair.media]
    values = np.array([score(medium) for medium in media], float)
    hashes = [content_hash(medium) for medium in media]
    keys = keys_of(hashes, [prompt_hash(prompt) for prompt in prompts])
    write_scores(place / SCORES, reward, "f", keys, values)


def test_scores_in_the_rows_are_of_winner_and_loser(store):
    report = measure(store(entries()))
    assert report.stored == ("good-one", "other")
    first, second = report.table.scores
    assert first.tolist() == [[float(number), 0.0] for number in range(6)]
    assert second.tolist() == [[0.5, 0.25], [0.25, 0.5]] * 3
    assert report.conflict.accuracy["other"].share.value == 0.5
    assert report.conflict.classes == {
        "unanimous-right": 2, "unanimous-wrong": 0, "mixed": 4, "unjudged": 0
    }  # fmt: skip


def test_scores_in_the_rows_need_not_be_by_the_same_rewards(store):
    said = (
        {"a": (1.0, 0.0), "b": (0.0, 1.0)},
        {"b": (3.0, 2.0), "a": (2.0, 3.0)},
        {"a": (4.0, 5.0), "b": (6.0, 5.0), "c": (1.0, 2.0)},
        {"b": (7.0, 6.0), "a": (8.0, 9.0)},
        None,
    )
    found = known_scores(open_pairs(str(store(scored_as(said)))))
    assert list(found) == ["a", "b", "c"]
    nan = [np.nan] * 2
    np.testing.assert_array_equal(found["a"](), [[1, 0], [3, 2], [4, 5], [9, 8], nan])
    np.testing.assert_array_equal(found["b"](), [[0, 1], [2, 3], [6, 5], [6, 7], nan])
    np.testing.assert_array_equal(found["c"](), [nan, nan, [1, 2], nan, nan])
    some = known_scores(open_stored(store(scored_as(said), "some"), limit=2))
    assert list(some) == ["a", "b"]
    np.testing.assert_array_equal(some["b"](), [[0, 1], [2, 3]])


def test_scores_beside_the_data_count_more(store):
    place = store(entries())
    sizes = {content_hash(medium): len(medium) for pair in PAIRS for medium in pair.media}
    beside(place, "size", len)
    beside(place, "other", lambda medium: -len(medium))
    report = measure(place, wanted=["size", "other"])
    assert set(report.stored) == {"size", "other"}
    expected = [[sizes[content_hash(medium)] for medium in pair.media] for pair in PAIRS[:6]]
    assert report.table.scores[0].tolist() == expected
    assert report.conflict.agreement.kappa[0, 1] == pytest.approx(-1)


def test_rewards_scored_for_few_pairs_take_no_part_and_say_why(store):
    place = store(Entry(pair.prompt, pair.media, "a") for pair in PAIRS)
    beside(place, "size", len)
    beside(place, "hash", lambda medium: int(content_hash(medium)[:6], 16))
    beside(place, "rare", len, PAIRS[:1])
    report = measure(place)
    assert report.conflict.rewards == ("hash", "size")
    (rare,) = report.missing
    assert "only 8.3% of the pairs" in rare.reason
    assert "vipo data score" in rare.hint


def test_strata_of_what_is_kept(store):
    strata = measure(store(entries())).conflict.strata
    counts = {
        name: {part: each.pairs for part, each in parts.items()} for name, parts in strata.items()
    }
    assert counts == {
        "models": {"m0, m0": 3, "m0, m1": 3},
        "label": {"0.75 to 0.9": 3, "certain": 3},
        "annotator": {"person 0": 2, "person 1": 2, "person 2": 2},
    }  # fmt: skip
    agreed = strata["label"]["certain"].unanimous_with_label
    assert agreed.value == 2 / 3


def test_ties_that_are_kept_agree_with_nobody(store, tmp_path):
    kept = [
        *entries(),
        Entry("a tie", PAIRS[9].media, "tie", scores={"Good_One": (2.0, 1.0), "other": (2.0, 1.0)}),
    ]
    place = store(kept)
    report = finish(measure_conflict(open_pairs(str(place), {"ties": "keep"})))
    assert (report.conflict.n_pairs, report.conflict.n_tied) == (7, 1)
    assert report.conflict.unanimous.share.n == 7
    assert report.conflict.unanimous_with_label.share.n == 6
    assert report.conflict.strata["label"]["a tie"].unanimous.value == 1
    write_pair_table(tmp_path / "pairs.parquet", report.table, "x")
    table = pq.read_table(tmp_path / "pairs.parquet")
    assert table.schema.metadata[b"vipo.ties"] == b"keep"
    assert table["class"].to_pylist()[-1] == "unjudged"


def test_pickapics_columns(tmp_path):
    columns = {
        "caption": ["one two", "one two", "three", "four"],
        "label_0": [1.0, 0.0, 0.0, 1.0],
        "label_1": [0.0, 1.0, 1.0, 0.0],
        "jpg_0": [b"a"] * 4,
        "jpg_1": [b"b"] * 4,
        "model_0": ["x", "x", "y", "y"],
        "model_1": ["y", "y", "x", None],
        "user_id": [7, 7, 8, 8],
        "r_0": [1.0, 1.0, 1.0, 1.0],
        "r_1": [0.0, 0.0, 2.0, 2.0],
        "s_0": [3.0, 1.0, 1.0, 1.0],
        "s_1": [0.0, 2.0, 2.0, 2.0],
    }
    pq.write_table(pa.table(columns), tmp_path / "train.parquet")
    report = measure(tmp_path)
    assert report.table.scores[0].tolist() == [[1, 0], [0, 1], [2, 1], [1, 2]]
    strata = report.conflict.strata
    # of the last pair one model is unknown, so it belongs to no pair of models
    assert "models" not in strata
    assert {part: each.pairs for part, each in strata["annotator"].items()} == {"7": 2, "8": 2}
    assert report.conflict.unanimous.share.n_clusters == 3


def test_records_without_columns_tell_of_themselves():
    report = finish(measure_conflict(PAIRS, wanted=SHAPES))
    assert report.conflict.n_pairs == 12
    assert len(report.conflict.strata["category"]) == 6
    assert report.conflict.dimensions == {
        "shapes-alignment": "alignment", "shapes-sharpness": "sharpness"
    }  # fmt: skip
    assert report.table.ids is None


def test_each_medium_is_scored_once(monkeypatch):
    asked = []

    class Counting:
        name, dimension, fingerprint = "counting", "none", "1"

        def score(self, media, prompts):
            asked.extend(media)
            return np.array([float(len(medium)) for medium in media])

    from vipo_cli.evaluation.pair_scoring import score_pairs

    found = finish(score_pairs([*PAIRS[:3], PAIRS[0]], 4, [Counting()]))
    assert len(asked) == 6
    assert found.scores[0][3].tolist() == found.scores[0][0].tolist()


def test_rewards_take_options(monkeypatch):
    def judged(*, threshold: float):
        asked.append(threshold)
        return alignment()

    asked = []
    monkeypatch.setitem(rewards._loaded, "shapes-alignment", judged)
    work = measure_conflict(PAIRS, wanted=SHAPES, options={"shapes-alignment": {"threshold": 2}})
    assert finish(work).missing == ()
    assert asked == [2.0]
    with pytest.raises(VipoError, match="not valid"):
        finish(measure_conflict(PAIRS, wanted=SHAPES, options={SHAPES[1]: {"threshold": 2}}))


def test_noise_is_what_nobody_sees():
    rewards = [alignment(), cleanliness()]
    bands = finish(tie_noise(PAIRS, np.arange(12), rewards))
    assert bands["shapes-alignment"] < 0.2
    assert 0 < bands["shapes-cleanliness"] < 0.3
    report = finish(
        measure_conflict(PAIRS, wanted=["shapes-cleanliness", *SHAPES], look=Look(noise=True))
    )
    assert report.conflict.tie_bands["shapes-cleanliness"] == pytest.approx(
        bands["shapes-cleanliness"]
    )
    own = finish(
        measure_conflict(PAIRS, wanted=SHAPES, look=Look({"shapes-sharpness": 0.1}, noise=True))
    )
    assert own.conflict.tie_bands["shapes-sharpness"] == 0.1


def test_refusals(store):
    place = store(entries())
    with pytest.raises(UnknownName, match="nothing"):
        measure(place, look=Look({"nothing": 1.0}))
    beside(place, "size", len, PAIRS[:3])
    beside(place, "late", len, PAIRS[3:6])
    with pytest.raises(DataError, match="no pair can be judged by all"):
        measure(place, wanted=["size", "late"])


def test_pairs_worth_a_look():
    report = finish(measure_conflict(PAIRS, wanted=SHAPES))
    found = telling_pairs(report.table, 3)
    margins = report.table.margins()
    assert (margins[found["against the label"]] < 0).all()
    contested = margins[found["most contested"]]
    assert ((contested > 0).any(1) & (contested < 0).any(1)).all()
    assert len(found["most contested"])


def test_table_of_pairs(store, tmp_path):
    report = measure(store(entries()), look=Look({"good-one": 1.5}))
    write_pair_table(tmp_path / "pairs.parquet", report.table, "mine")
    table = pq.read_table(tmp_path / "pairs.parquet")
    rows = table.to_pylist()
    assert rows[1] == {
        "pair": 1, "id": "row 1", "good-one_w": 1.0, "good-one_l": 0.0, "good-one_margin": 1.0,
        "good-one_vote": 0, "other_w": 0.25, "other_l": 0.5, "other_margin": -0.25,
        "other_vote": -1, "votes": 0, "class": "mixed", "winner_probability": 0.75,
    }  # fmt: skip
    about = json.loads(table.schema.metadata[b"vipo.pairs"])
    assert about["data"] == "mine"
    assert about["tie_bands"] == {"good-one": 1.5, "other": 1e-6}


def test_words_are_counted_as_a_regular_expression_counts_them():
    rng = np.random.default_rng(0)
    letters = np.array([*" \t\n\f\r\v", "a", "b", "\xe9", "\u3000", "\xa0"])
    texts = ["", "", " ", *("".join(rng.choice(letters, 9)) for _ in range(300)), ""]
    expected = pc.count_substring_regex(pa.array(texts), r"\S+").to_numpy()
    assert _count_words(texts).tolist() == expected.tolist()


@pytest.mark.parametrize("pairs", [4, 40])
def test_models_are_paired_whoever_won(pairs):
    names = ["m2", "m0", None, "m1"] * (pairs // 4)
    others = ["m0", "m2", "m1", "m1"] * (pairs // 4)
    found = _by_both(pa.array(names), pa.array(others))
    assert found.names == ("m2, m0", "m1, m1")
    assert found.codes.tolist() == [0, 0, -1, 1] * (pairs // 4)
