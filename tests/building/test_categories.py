import pytest

from vipo_cli.building.categories import NAMES, find_category
from vipo_cli.errors import UnknownName


def test_there_are_five_of_pictures_and_three_of_clips():
    media = [find_category(name).media for name in NAMES]
    assert (media.count("image"), media.count("video")) == (5, 3)


@pytest.mark.parametrize("name", NAMES)
def test_each_says_how_its_pairs_are_made(name):
    category = find_category(name)
    assert len(category.rubric) > 100
    assert bool(category.changes) == (category.by == "perturbation")


def test_agreement_with_people_is_the_paper_s():
    found = {name: find_category(name).agreement for name in NAMES}
    assert (found["aesthetics"].judge, found["aesthetics"].person) == (95.0, 80.6)
    assert (found["motion"].judge, found["motion"].person) == (55.0, 67.2)


def test_alignment_of_clips_knows_order_and_camera():
    more = {"action-order", "camera"}
    assert more <= set(find_category("video-alignment").changes)
    assert not more & set(find_category("alignment").changes)


def test_an_unknown_category_names_the_known_ones():
    with pytest.raises(UnknownName) as caught:
        find_category("aesthetic")
    assert "did you mean `aesthetics`?" in caught.value.hint
