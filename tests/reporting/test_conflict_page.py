import numpy as np
import pytest

from vipo_cli.analysis.conflict import About, conflict
from vipo_cli.analysis.strata import Stratum
from vipo_cli.data.record import PreferencePair
from vipo_cli.reporting.conflict_figures import expected_votes, plot_conflict
from vipo_cli.reporting.conflict_page import PARTS, write_conflict_page
from vipo_cli.shapes.source import shapes

NAMES = ["one", "two", "three"]


@pytest.fixture(scope="module")
def found():
    rng = np.random.default_rng(0)
    margins = 0.4 + rng.normal(size=(600, 3))
    strata = {
        "category": Stratum(("<odd> one", "even"), np.arange(600) % 2),
        "annotator": Stratum(tuple(f"person {n}" for n in range(20)), np.arange(600) % 20),
    }
    about = About(strata, {"one": "looks", "two": "looks", "three": "words"})
    return conflict(margins, np.ones(600), NAMES, np.arange(600) // 2, about)


def test_figure_shows_votes_agreement_and_calibration(found):
    votes, matrix, calibration = plot_conflict(found).axes
    heights = [bar.get_height() for bar in votes.patches]
    assert heights == pytest.approx(np.array(found.votes) / 600)
    texts = {text.get_text() for text in matrix.texts}
    assert f"{found.agreement.kappa[1, 0]:.2f}" in texts
    assert f"{found.agreement.spearman[0, 1]:.2f}" in texts
    assert len(matrix.texts) == 6
    assert [text.get_text() for text in calibration.get_legend().get_texts()] == NAMES


def test_expected_votes_are_those_of_rewards_on_their_own(found):
    p = [each.share.value for each in found.accuracy.values()]
    expected = expected_votes(found)
    assert expected.sum() == pytest.approx(1)
    assert expected[3] == pytest.approx(found.unanimous_with_label.independent, abs=1e-9)
    assert expected[0] == pytest.approx(np.prod(1 - np.array(p)), abs=1e-9)


def test_a_conflict_without_winners_can_be_drawn():
    nobody = conflict(np.ones((5, 2)), np.zeros(5), ["a", "b"], range(5))
    assert len(plot_conflict(nobody).axes) == 3


def test_page(found, tmp_path):
    figure = tmp_path / "x.svg"
    figure.write_text("<svg/>")
    (pair,) = shapes(pairs=1, seed=1)
    broken = PreferencePair("a <b> prompt", b"no picture", pair.loser)
    examples = {"Look": [(7, pair, {"one": 1.25}), (8, broken, {"one": -0.5})], "None": []}
    write_conflict_page(tmp_path / "p.html", "my <data>", found, figure, examples, ["a note"])
    page = (tmp_path / "p.html").read_text()
    assert "my &lt;data&gt;" in page
    assert "&lt;odd&gt; one" in page
    assert "a &lt;b&gt; prompt" in page
    assert "<h2>None</h2>" not in page
    assert page.count("data:image/png;base64") == 3
    assert "not a picture" in page
    assert "+1.2" in page
    assert f"{100 * found.unanimous.share.value:.1f} %" in page
    assert "within: looks" in page
    assert page.count("person ") == 2 * PARTS
    assert "and 8 more" in page
