"""Which column of a table means what: guessed from names in use, or said by the user."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from vipo_cli.errors import DataError, did_you_mean

PROMPTS = ("prompt", "caption", "text", "text_prompt", "instruction", "query", "description")
MEDIA = ("image", "video", "media", "img", "jpg", "picture", "clip", "file", "file_name", "path")
RANKED = ("winner", "loser")
SHOWN = ("a", "b")
WORDS = {
    "winner": ("winner", "chosen", "preferred", "accepted", "win", "better", "positive", "w"),
    "loser": ("loser", "rejected", "dispreferred", "lose", "worse", "negative", "l"),
}
SIDES = (("a", "b"), ("0", "1"), ("1", "2"), ("left", "right"), ("first", "second"))
LABELS = (
    "label",
    "preference",
    "choice",
    "human_preference",
    "preferred",
    "vote",
    "winner",
    "better",
    "answer",
)
LIKED = ("liked", "label", "good", "is_good", "desirable", "thumbs_up")
LISTS = ("media", "images", "videos", "image_paths", "video_paths", "ranking")
ROLES = ("prompt", "winner", "loser", "a", "b", "label", "media", "image", "liked", "ranks")
FURTHER = {
    "probability": ("probability", "confidence", "strength"),
    "weight": ("weight",),
    "category": ("category", "tag", "task"),
    "annotator": ("annotator", "annotator_id", "user_id", "worker", "rater"),
    "id": ("id", "pair_id", "uid"),
    "split": ("split",),
}
KINDS = {"pair": RANKED, "shown": SHOWN, "list": ("media",), "sample": ("image",)}
"""Roles of the media by kind of rows."""
SAID_BY = {"shown": ("label", LABELS), "sample": ("liked", LIKED)}
"""By kind, the role that says who won or whether it was liked, and its usual names."""
EACH = ("model", "votes", "seed", "noise_seed", "region")
"""What may be said of each medium, in columns that end like those of the media."""


@dataclass(frozen=True, slots=True)
class Columns:
    """What the columns of a table mean.

    Attributes:
        kind: pair, where winner and loser are named; shown, where a label says which is better;
            list; or sample.
        role: column of each role.
        ends: how columns about the first and the second medium end.
    """

    kind: str
    role: Mapping[str, str]
    ends: tuple[str, str] | None = None

    def shown(self) -> str:
        """Return the mapping in the form in which a user gives it."""
        return ",".join(f"{role}={column}" for role, column in self.role.items())


def guess_columns(names: Sequence[str], given: Mapping[str, str]) -> Columns:
    """Say which column means what.

    Args:
        names: of all columns.
        given: column of some roles, as the user says.

    Raises:
        DataError: a role or column that is not there, or columns that make no record.
    """
    _refuse_unknown(names, given)
    free = [name for name in names if name not in given.values()]
    role = dict(given)
    if "prompt" not in role and (found := _first(PROMPTS, free)):
        role["prompt"] = found
    kind, media, ends = _media(free, role)
    if "prompt" not in role or kind is None:
        lacking = "no column of prompts" if "prompt" not in role else "no columns of media"
        raise DataError(
            f"{lacking} among {', '.join(f'`{name}`' for name in names) or 'none'}",
            hint="say which is which: --columns prompt=NAME,winner=NAME,loser=NAME, or "
            "prompt=,a=,b=,label=,\nor prompt=,media= (a list, best first), or "
            "prompt=,image=,liked=",
        )
    role |= media
    for meaning, words in FURTHER.items():
        found = _first(words, [name for name in free if name not in role.values()])
        if meaning not in role and found:
            role[meaning] = found
    for meaning in EACH if ends else ():
        both = [_called(meaning, end, names) for end in ends or ()]
        if all(both):
            role |= {f"{meaning}{place}": str(name) for place, name in zip("01", both, strict=True)}
    return Columns(kind, role, ends)


def _media(
    names: Sequence[str], given: Mapping[str, str]
) -> tuple[str | None, dict[str, str], tuple[str, str] | None]:
    """Return what kind of rows the columns make, the columns of their media, and their ends."""
    for kind, roles in KINDS.items():
        if given.keys() & set(roles):
            found = {role: given.get(role) for role in roles}
            if kind in SAID_BY:
                role, words = SAID_BY[kind]
                found[role] = given.get(role) or _first(words, names)
            columns = {role: column for role, column in found.items() if column}
            if len(columns) < len(found):
                return None, {}, None
            return kind, columns, _ends(*list(columns.values())[:2]) if len(roles) == 2 else None
    return _guess_media(names, given)


def _guess_media(
    names: Sequence[str], given: Mapping[str, str]
) -> tuple[str | None, dict[str, str], tuple[str, str] | None]:
    for better, worse in product(WORDS["winner"], WORDS["loser"]):
        first, second = _sided(better, names), _sided(worse, names)
        if first and second and first != second:
            return "pair", {"winner": first, "loser": second}, _ends(first, second)
    for one, other in SIDES:
        first, second = _sided(one, names), _sided(other, names)
        label = given.get("label") or _first(LABELS, names)
        if first and second and label and label not in (first, second):
            return "shown", {"a": first, "b": second, "label": label}, (one, other)
    if found := _first(LISTS, names):
        return "list", {"media": found}, None
    medium = _first(MEDIA, names)
    liked = given.get("liked") or _first(LIKED, names)
    if medium and liked:
        return "sample", {"image": medium, "liked": liked}, None
    return None, {}, None


def _sided(side: str, names: Sequence[str]) -> str | None:
    """Return the column of the medium of a side: its name alone, or with a word for media."""
    written = {name.lower(): name for name in names}
    for medium in ("", *MEDIA):
        joined = (
            [side] if not medium else [f"{medium}_{side}", f"{medium}{side}", f"{side}_{medium}"]
        )
        for wanted in joined:
            if wanted in written and not wanted.isdigit():
                return written[wanted]
    return None


def _called(meaning: str, end: str, names: Sequence[str]) -> str | None:
    written = {name.lower(): name for name in names}
    return written.get(f"{meaning}_{end}") or written.get(f"{meaning}{end}")


def _ends(first: str, second: str) -> tuple[str, str] | None:
    """Return how the names of two columns differ at their ends; winner and loser end in w and l."""
    low = first.lower(), second.lower()
    if {low[0][-1:], low[1][-1:]} <= set("abwl0123456789") and low[0][:-1] == low[1][:-1]:
        return low[0][-1], low[1][-1]
    return "w", "l"


def _first(words: Sequence[str], names: Sequence[str]) -> str | None:
    written = {name.lower(): name for name in names}
    return next((written[word] for word in words if word in written), None)


def _refuse_unknown(names: Sequence[str], given: Mapping[str, str]) -> None:
    known = (*ROLES, *FURTHER, *(f"{meaning}{place}" for meaning in EACH for place in "01"))
    for role, column in given.items():
        if role not in known:
            raise DataError(
                f"columns have no role `{role}`",
                hint=f"{did_you_mean(role, known)}roles: {', '.join(known)}",
            )
        if column not in names:
            raise DataError(
                f"no column `{column}`",
                details=[f"found: {', '.join(names) or 'none'}"],
                hint=did_you_mean(column, names) or None,
            )
