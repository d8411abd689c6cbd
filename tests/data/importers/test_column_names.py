import pytest

from vipo_cli.data.importers.column_names import guess_columns
from vipo_cli.errors import DataError


def guess(columns, given=""):
    pairs = (part.split("=") for part in given.split(",") if part)
    return guess_columns(columns.split(","), dict(pairs))


@pytest.mark.parametrize(
    ("columns", "kind", "shown"),
    [
        ("prompt,winner,loser", "pair", "prompt=prompt,winner=winner,loser=loser"),
        ("loser,winner,prompt", "pair", "prompt=prompt,winner=winner,loser=loser"),
        ("caption,chosen,rejected", "pair", "prompt=caption,winner=chosen,loser=rejected"),
        ("Prompt,Image W,Image L", "pair", "prompt=Prompt,winner=Image W,loser=Image L"),
        ("text,video_w,video_l", "pair", "prompt=text,winner=video_w,loser=video_l"),
        ("prompt,w_img,l_img", "pair", "prompt=prompt,winner=w_img,loser=l_img"),
        ("prompt,preferred,rejected", "pair", "prompt=prompt,winner=preferred,loser=rejected"),
        ("prompt,better_image,worse_image", "pair",
         "prompt=prompt,winner=better_image,loser=worse_image"),
        ("prompt,win-path,lose-path", "pair", "prompt=prompt,winner=win-path,loser=lose-path"),
        ("prompt,a,b,label", "shown", "prompt=prompt,a=a,b=b,label=label"),
        ("prompt,b,a,winner", "shown", "prompt=prompt,a=a,b=b,label=winner"),
        ("prompt,image_0,image_1,label", "shown", "prompt=prompt,a=image_0,b=image_1,label=label"),
        ("prompt,image1,image2,choice", "shown", "prompt=prompt,a=image1,b=image2,label=choice"),
        ("prompt,left,right,vote", "shown", "prompt=prompt,a=left,b=right,label=vote"),
        ("prompt,first_video,second_video,better", "shown",
         "prompt=prompt,a=first_video,b=second_video,label=better"),
        ("prompt,media", "list", "prompt=prompt,media=media"),
        ("prompt,images,ranks", "list", "prompt=prompt,media=images,ranks=ranks"),
        ("prompt,image_path,rank", "list", "prompt=prompt,media=image_path,ranks=rank"),
        ("prompt,image,liked", "sample", "prompt=prompt,image=image,liked=liked"),
        ("prompt,media,liked", "sample", "prompt=prompt,image=media,liked=liked"),
    ],
)  # fmt: skip
def test_each_layout_is_guessed(columns, kind, shown):
    found = guess(columns)
    assert (found.kind, found.shown()) == (kind, shown)


@pytest.mark.parametrize(
    "columns",
    [
        "prompt,winner,loser,chosen,rejected",
        "prompt,winner,loser,a,b,label",
        "prompt,image_a,image_b,winner,loser",
        "prompt,image_a,image_b,left,right,label",
        "prompt,a,b,label,preference",
        "prompt,image_0,image_1,winner,vote",
        "prompt,a,b,label,media",
        "prompt,media,ranking",
        "prompt,winner,loser,media",
    ],
)
def test_what_could_be_understood_in_several_ways_is_refused(columns):
    with pytest.raises(DataError, match=r"several (ways|columns)"):
        guess(columns)


@pytest.mark.parametrize(
    "columns",
    [
        "winner,loser",
        "prompt,winner",
        "prompt,chosen,loser",  # words that do not belong together
        "prompt,image_a,image_b",  # nobody says which is better
        "prompt,image_a,image_b,image_c,label",  # the best of three
        "prompt,image_0,image_1,image_2,label",
        "prompt,image_1,image_2,image_3,label",
        "prompt,images",  # in which order?
        "prompt,videos",
        "prompt,image",
        "prompt,image,label",  # a class as well as a verdict
        "prompt,image_w,image_h",  # width and height
        "prompt,negative_prompt,image",
        "prompt,0,1,label",
        "a",
        "",
    ],
)
def test_what_makes_no_record_is_refused(columns):
    with pytest.raises(DataError, match=r"no columns? of"):
        guess(columns)


@pytest.mark.parametrize("name", ["strength", "confidence", "margin"])
def test_only_a_probability_is_one(name):
    assert name not in guess(f"prompt,winner,loser,{name}").role.values()
    assert guess("prompt,winner,loser,probability").role["probability"] == "probability"


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ("prompt,winner,loser,votes_w,votes_l", ("votes_w", "votes_l")),
        ("prompt,winner,loser,votes_winner,votes_loser", ("votes_winner", "votes_loser")),
        ("prompt,chosen,rejected,chosen_votes,rejected_votes", ("chosen_votes", "rejected_votes")),
        ("prompt,image_l,image_w,votes_l,votes_w", ("votes_w", "votes_l")),
        ("prompt,a,b,label,votes_b,votes_a", ("votes_a", "votes_b")),
        ("prompt,image_0,image_1,label,votes0,votes1", ("votes0", "votes1")),
        ("prompt,left,right,label,votes_left,votes_right", ("votes_left", "votes_right")),
    ],
)
def test_votes_go_with_their_medium(columns, expected):
    role = guess(columns).role
    assert (role["votes0"], role["votes1"]) == expected


@pytest.mark.parametrize(
    "columns",
    [
        "prompt,a,b,label,votes_w,votes_l",  # of whoever won, not of a and b
        "prompt,a,b,label,votes_0,votes_1",
        "prompt,winner,loser,votes_a,votes_b",
        "prompt,image_1,image_2,label,votes_0,votes_1",
        "prompt,a,b,label,votes_a",
    ],
)
def test_votes_of_which_it_is_not_clear_whose_they_are_are_no_votes(columns):
    assert "votes0" not in guess(columns).role


def test_given_columns_come_first():
    found = guess("prompt,winner,loser,x,y,z", "a=x,b=y,label=z")
    assert found.shown() == "a=x,b=y,label=z,prompt=prompt"
    assert guess("q,x,y", "prompt=q,winner=y,loser=x").role["winner"] == "y"
    assert guess("prompt,images", "media=images").kind == "list"


def test_columns_that_are_given_say_nothing_of_votes_that_end_otherwise():
    assert "votes0" not in guess("prompt,x,y,z,votes_w,votes_l", "a=x,b=y,label=z").role
    found = guess("prompt,x,y,z,v,u", "a=x,b=y,label=z,votes0=u,votes1=v")
    assert (found.role["votes0"], found.role["votes1"]) == ("u", "v")


def test_lacking_roles_are_named():
    with pytest.raises(DataError, match="no column is given for loser"):
        guess("prompt,x,y", "winner=x")
    with pytest.raises(DataError, match="no column is given for label"):
        guess("prompt,x,y", "a=x,b=y")


def test_unknown_roles_and_columns_are_named():
    with pytest.raises(DataError, match="columns have no role `chosen`"):
        guess("prompt,x,y", "chosen=x")
    with pytest.raises(DataError, match="no column `z`") as caught:
        guess("prompt,x,y", "winner=z")
    assert caught.value.details == ("found: prompt, x, y",)
