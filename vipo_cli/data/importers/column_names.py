"""Which column of a table means what: guessed from names in use, or said by the user."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from vipo_cli.errors import DataError, did_you_mean

PROMPTS = ("prompt", "caption", "text", "text_prompt", "instruction", "query", "description")
MEDIA = ("image", "video", "media", "img", "jpg", "picture", "clip", "file", "file_name", "path")
RANKED = ("winner", "loser")
SHOWN = ("a", "b")
ORDERED = (
    ("winner", "loser"),
    ("chosen", "rejected"),
    ("preferred", "dispreferred"),
    ("preferred", "rejected"),
    ("accepted", "rejected"),
    ("win", "lose"),
    ("better", "worse"),
    ("positive", "negative"),
    ("w", "l"),
)
"""Words for the winner and the loser in names of columns."""
SIDES = (("a", "b", "c"), ("0", "1", "2"), ("1", "2", "0", "3"), ("left", "right", "middle"),
         ("first", "second", "third"))  # fmt: skip
"""Words for the first and the second medium, and for others; where there are any, no pairs."""
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
DEGREES = ("preference", "human_preference")
"""Labels of which 1 may mean the second medium, or that the first one is better."""
LIKED = ("liked", "good", "is_good", "desirable", "thumbs_up")
LISTS = ("media", "ranking")
"""Lists that are in order by their names."""
UNORDERED = ("images", "videos", "image_paths", "video_paths", "image_path", "video_path", *LISTS)
"""Lists whose order is told by their ranks."""
RANKS = ("ranks", "rank")
ROLES = ("prompt", "winner", "loser", "a", "b", "label", "media", "image", "liked", "ranks")
FURTHER = {
    "probability": ("probability",),
    "weight": ("weight",),
    "category": ("category", "tag", "task"),
    "annotator": ("annotator", "annotator_id", "user_id", "worker", "rater"),
    "id": ("id", "pair_id", "uid"),
    "source": ("source",),
    "split": ("split",),
    "dimensions": ("dimensions",),
    "scores": ("scores",),
    "metadata": ("metadata",),
}
"""What else is known by its name; a strength or confidence may be anything but a probability."""
KINDS = {"pair": RANKED, "shown": SHOWN, "list": ("media",), "sample": ("image",)}
"""Roles of the media by kind of rows."""
SAID_BY = {"shown": ("label", LABELS), "sample": ("liked", LIKED)}
"""By kind, the role that says who won or whether it was liked, and its usual names."""
EACH = {
    "model": "models",
    "votes": "votes",
    "seed": "seeds",
    "noise_seed": "noise_seeds",
    "region": "regions",
}
"""What may be said of each medium: of two, in columns that end like theirs; else in a list."""
ALONE = ("noise_seed", "region")
"""What may be said of one of two media alone."""


SAY = (
    "say which is which: --columns prompt=NAME,winner=NAME,loser=NAME, or prompt=,a=,b=,label=,\n"
    "or prompt=,media= (a list, best first, or with ranks=), or prompt=,image=,liked="
)
HALVES = 3
"""Columns without a counterpart that an error names."""
_Guess = tuple[str, dict[str, str], list[tuple[str, str]]]
"""Kind of rows, column by role, and how columns about each medium may end."""


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
        return _written(self.role)


def guess_columns(names: Sequence[str], given: Mapping[str, str]) -> Columns:
    """Say which column means what.

    Args:
        names: of all columns.
        given: column of some roles, as the user says.

    Raises:
        DataError: a role or column that is not there, columns that make no record, or that could
            make several.
    """
    _refuse_unknown(names, given)
    free = [name for name in names if name not in given.values()]
    role = dict(given)
    if "prompt" not in role and (found := _first(PROMPTS, free)):
        role["prompt"] = found
    guess = _media_given(free, role) or _guess_media(free, role)
    if "prompt" not in role or guess is None:
        lacking = "no column of prompts" if "prompt" not in role else "no columns of media"
        raise DataError(
            f"{lacking} among {', '.join(f'`{name}`' for name in names) or 'none'}",
            details=_halves(free) if guess is None else [],
            hint=SAY,
        )
    kind, media, ends = guess
    role |= media
    for meaning, words in FURTHER.items():
        found = _first(words, [name for name in free if name not in role.values()])
        if meaning not in role and found:
            role[meaning] = found
    rest = [name for name in free if name not in role.values()]
    return Columns(kind, role | _of_each(kind, rest, ends, role), ends[0] if ends else None)


def _halves(names: Sequence[str]) -> list[str]:
    """Say of columns that might be media what else would have to be there."""
    said = []
    for words in ORDERED:
        columns = [_sided(word, names) for word in words]
        if None in columns:
            there = [*zip(columns, reversed(words), strict=True)]
            said += [f"`{one}` is there, and no `{other}` beside it" for one, other in there if one]
    for first, second, *_ in SIDES:
        shown = _sided(first, names), _sided(second, names)
        if all(shown):
            said.append(f"`{shown[0]}` and `{shown[1]}` are there, and no `label` beside them")
    if found := _first(UNORDERED, names):
        said.append(f"`{found}` is there, and neither `ranks` nor a word that the best is first")
    return list(dict.fromkeys(said))[:HALVES]


def _media_given(names: Sequence[str], given: Mapping[str, str]) -> _Guess | None:
    """Return what the columns of media make that the user named.

    Raises:
        DataError: another one is needed.
    """
    kind = next((kind for kind, roles in KINDS.items() if given.keys() & set(roles)), None)
    if kind is None:
        return None
    found = {role: given.get(role) for role in KINDS[kind]}
    if kind in SAID_BY:
        role, words = SAID_BY[kind]
        found[role] = given.get(role) or _only(words, names, role)
    if kind == "list":
        found["ranks"] = given.get("ranks") or _first(RANKS, names)
    lacking = [role for role, column in found.items() if not column and role != "ranks"]
    if lacking:
        raise DataError(f"no column is given for {' and '.join(lacking)}", hint=SAY)
    columns = {role: column for role, column in found.items() if column}
    return kind, columns, _ends(kind, *[columns[role] for role in KINDS[kind]])


def _guess_media(names: Sequence[str], given: Mapping[str, str]) -> _Guess | None:
    """Return what kind of rows the columns make, the columns of their media, and their ends.

    Raises:
        DataError: they could make several.
    """
    found = [*_guess_pairs(names, given), *_guess_others(names, given)]
    if len(found) > 1:
        raise DataError(
            "the columns can be understood in several ways",
            details=[_written(columns) for _, columns, _ in found],
            hint=f"say which one: --columns {_written(found[0][1])}",
        )
    return found[0] if found else None


def _guess_pairs(names: Sequence[str], given: Mapping[str, str]) -> Iterator[_Guess]:
    for better, worse in ORDERED:
        winner, loser = _sided(better, names), _sided(worse, names)
        if winner and loser:
            yield "pair", {"winner": winner, "loser": loser}, _ends("pair", winner, loser)
    for one, other, *further in SIDES:
        first, second = _sided(one, names), _sided(other, names)
        if first and second and not any(_sided(side, names) for side in further):
            rest = [name for name in names if name not in (first, second)]
            if label := given.get("label") or _only(LABELS, rest, "label"):
                yield "shown", {"a": first, "b": second, "label": label}, [(one, other)]


def _guess_others(names: Sequence[str], given: Mapping[str, str]) -> Iterator[_Guess]:
    medium, liked = _first(MEDIA, names), given.get("liked") or _first(LIKED, names)
    if medium and liked:
        yield "sample", {"image": medium, "liked": liked}, []
    if ranks := given.get("ranks") or _first(RANKS, names):
        if media := _first(UNORDERED, [name for name in names if name != ranks]):
            yield "list", {"media": media, "ranks": ranks}, []
    elif not liked and (media := _only(LISTS, names, "media")):
        yield "list", {"media": media}, []


def _of_each(
    kind: str, names: Sequence[str], ends: Sequence[tuple[str, str]], given: Mapping[str, str]
) -> dict[str, str]:
    """Return the columns that say something of each medium."""
    found = {}
    for meaning, plural in EACH.items():
        if kind in ("list", "sample"):
            if plural not in given and (column := _first((plural,), names)):
                found[plural] = column
            continue
        for pair in ends:
            both = [_called(meaning, end, names) for end in pair]
            roles = [f"{meaning}{place}" for place in range(2)]
            known = any(role in given or role in found for role in roles)
            if not known and (all(both) or (any(both) and meaning in ALONE)):
                found |= {role: name for role, name in zip(roles, both, strict=True) if name}
    return found


def _sided(side: str, names: Sequence[str]) -> str | None:
    """Return the column of the medium of a side: its name with a word for media, or alone."""
    joined = [
        wanted
        for medium in MEDIA
        if medium != "clip"  # clip_a is a score of CLIP's at least as often
        for wanted in (f"{medium}_{side}", f"{medium}{side}", f"{side}_{medium}")
    ]
    return _first(joined if side.isdigit() else [*joined, side], names)


def _called(meaning: str, end: str, names: Sequence[str]) -> str | None:
    return _first((f"{meaning}_{end}", f"{meaning}{end}", f"{end}_{meaning}"), names)


def _ends(kind: str, *columns: str) -> list[tuple[str, str]]:
    """Return how columns about the first and the second medium may end, as theirs do.

    Those of a winner and a loser may also end in w and l. Other columns say of which medium they
    are only where the media's names differ in one word or at their ends.
    """
    if len(columns) < 2:
        return []
    one, other = map(plain, columns)
    words = one.split("_"), other.split("_")
    differing = [each for each in zip(*words, strict=False) if each[0] != each[1]]
    ends = []
    if len(words[0]) == len(words[1]) and len(differing) == 1:
        ends = differing
        first, second = differing[0]
        if first[:-1] == second[:-1]:
            ends = [(first[-1:], second[-1:])]
    return [*ends, ("w", "l"), ("winner", "loser")] if kind == "pair" else ends


def _first(words: Sequence[str], names: Sequence[str]) -> str | None:
    """Return the first word that is the name of a column, whatever its case."""
    written = {plain(name): name for name in reversed(names)}
    return next((written[word] for word in words if word in written), None)


def _only(words: Sequence[str], names: Sequence[str], role: str) -> str | None:
    """Return the one column that one of the words names.

    Raises:
        DataError: there are several.
    """
    found = [name for name in names if plain(name) in words]
    if len(found) > 1:
        raise DataError(
            f"several columns could be the {role}: {', '.join(f'`{name}`' for name in found)}",
            hint=f"say which one: --columns {role}={found[0]}",
        )
    return found[0] if found else None


def plain(name: str) -> str:
    """Return a name as words are compared: `Image A` is image_a."""
    return "_".join(name.lower().replace("-", " ").split())


def _written(role: Mapping[str, str]) -> str:
    return ",".join(f"{role}={column}" for role, column in role.items())


def _refuse_unknown(names: Sequence[str], given: Mapping[str, str]) -> None:
    each = (f"{meaning}{place}" for meaning in EACH for place in "01")
    known = (*ROLES, *FURTHER, *each, *EACH.values())
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
