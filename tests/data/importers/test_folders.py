import pytest

from vipo_cli.data.entry import Entry, Unusable
from vipo_cli.data.importers.folders import folders
from vipo_cli.errors import DataError


@pytest.fixture
def lay(tmp_path):
    def lay(*names, **texts):
        for name in names:
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(name.encode())
        for name, text in texts.items():
            (tmp_path / name.replace("_", ".")).write_text(text)
        return tmp_path

    return lay


def pairs(place, **parameters):
    return [
        (each.id, each.prompt, *(file.relative_to(place).as_posix() for file in each.media))
        for each in folders(place, **parameters)
        if isinstance(each, Entry)
    ]


def unusable(place, **parameters):
    found = folders(place, **parameters)
    return [(each.where, each.reason) for each in found if isinstance(each, Unusable)]


@pytest.mark.parametrize(
    ("winner", "loser"),
    [("winner", "loser"), ("Winner", "LOSER"), ("chosen", "rejected"), ("w", "l"), ("good", "bad")],
)
def test_folders_pair_up_by_names(lay, winner, loser):
    place = lay(f"{winner}/x/1.png", f"{loser}/x/1.JPG", f"{winner}/2.png", f"{loser}/2.webp")
    assert folders.fits(place)
    assert pairs(place, prompt="p") == [
        ("2", "p", f"{winner}/2.png", f"{loser}/2.webp"),
        ("x/1", "p", f"{winner}/x/1.png", f"{loser}/x/1.JPG"),
    ]


@pytest.mark.parametrize(
    ("first", "second"), [("_w", "_l"), ("-W", "-L"), ("_chosen", "_rejected"), ("_good", "_bad")]
)
def test_files_pair_up_by_how_their_names_end(lay, first, second):
    place = lay(f"cat{first}.png", f"cat{second}.jpg", f"deep/dog{second}.png",
                f"deep/dog{first}.png")  # fmt: skip
    assert folders.fits(place)
    assert pairs(place, prompt="p") == [
        ("cat", "p", f"cat{first}.png", f"cat{second}.jpg"),
        ("deep/dog", "p", f"deep/dog{first}.png", f"deep/dog{second}.png"),
    ]


def test_what_has_no_partner_or_no_ending_is_told(lay):
    place = lay("a_w.png", "a_l.png", "b_w.png", "c_l.png", "d.png")
    assert unusable(place, prompt="p") == [
        ("b", "no loser of that name"),
        ("c", "no winner of that name"),
        ("d", "no ending of a winner or loser"),
    ]


def test_names_are_equal_only_if_their_case_is(lay):
    place = lay("winner/Cat.png", "loser/cat.png")
    assert pairs(place, prompt="p") == []
    assert len(unusable(place, prompt="p")) == 2


@pytest.mark.parametrize(
    "names",
    [
        ("winner/a.png", "loser/a.png", "good/a.png", "bad/a.png"),
        ("winner/a.png", "Winner/a.png", "loser/a.png"),
        ("a_w.png", "a_l.png", "b_good.png", "b_bad.png"),
        ("a_w.png", "a_l.png", "b-w.png", "b-l.png"),
    ],
)
def test_what_could_be_understood_in_several_ways_is_refused(lay, names):
    place = lay(*names)
    assert folders.fits(place)
    with pytest.raises(DataError, match="understood in several ways"):
        pairs(place, prompt="p")


def test_two_media_of_one_name_are_refused(lay):
    place = lay("winner/a.png", "winner/a.jpg", "loser/a.png")
    with pytest.raises(DataError, match="two media are called `a`"):
        pairs(place)
    place = lay("other/a_w.png", "other/a_W.png", "other/a_l.png") / "other"
    with pytest.raises(DataError, match="but for case"):
        pairs(place)


def test_prompts_stand_in_a_table_or_beside_the_media(lay):
    place = lay(*(f"{side}/{name}.png" for side in ("winner", "loser") for name in
                  ("a", "b", "c.v1", "c.v2", "d", "e")))  # fmt: skip
    (place / "prompts.csv").write_text("name,prompt\na,from csv\nc.v1,one\nc.v2.png,two\n")
    (place / "b.txt").write_text("\ufefffrom txt\n")
    (place / "winner" / "d.txt").write_text("beside")
    assert [(name, prompt) for name, prompt, *_ in pairs(place)] == [
        ("a", "from csv"),
        ("b", "from txt"),
        ("c.v1", "one"),
        ("c.v2", "two"),
        ("d", "beside"),
    ]
    assert unusable(place) == [("e", "no prompt: neither in prompts.csv nor in NAME.txt")]


def test_a_name_with_a_dot_takes_no_other_names_prompt(lay):
    place = lay("winner/v1.png", "loser/v1.png", "winner/v1.5.png", "loser/v1.5.png")
    (place / "prompts.csv").write_text("name,prompt\nv1.5,of the other\n")
    assert [name for name, *_ in pairs(place)] == ["v1.5"]


def test_a_name_with_two_prompts_is_unusable(lay):
    place = lay("winner/a.png", "loser/a.png", "winner/b.png", "loser/b.png")
    (place / "prompts.csv").write_text("name,prompt\na,one\na.png,two\nb,same\nb,same\n")
    assert [name for name, *_ in pairs(place)] == ["b"]
    assert unusable(place) == [("a", "several prompts in prompts.csv")]


@pytest.mark.parametrize(
    "text", ["name,text\na,b\n", "name,prompt\na\n", 'name,prompt\n"a,b\n', "name,prompt\n\xe9,x\n"]
)
def test_a_table_of_prompts_that_cannot_be_read_is_refused(lay, text):
    place = lay("winner/a.png", "loser/a.png")
    (place / "prompts.csv").write_bytes(text.encode("latin1"))
    with pytest.raises(DataError, match=r"prompts\.csv"):
        pairs(place)


def test_an_empty_name_in_the_table_is_nobodys(lay):
    place = lay("winner/a.png", "loser/a.png")
    (place / "prompts.csv").write_text("name,prompt\n,x\n.,y\na,z\n")
    assert [prompt for _, prompt, *_ in pairs(place)] == ["z"]


def test_other_folders_do_not_fit(lay):
    assert not folders.fits(lay("a.png", "b.png", "winner/a.png"))
