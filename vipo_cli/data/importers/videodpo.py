"""VideoDPO's lists: pair.json, whose pairs point into metadata.json beside it.

Checked against the public code of CIntellifusion/VideoDPO, which writes and reads them:
metadata.json is an array of clips (basic.clip_path, basic.clip_duration, misc.frame_caption, and
basic.score where they were scored), pair.json an array of pairs (video1, video2, frame_caption,
label, and score and diff_score where they were weighted). video1 and video2 are places in the
array of clips; video1 always won, whatever label says, which its readers ignore. Training there
weighs a pair by (0.72 / score) ** alpha, score being the product of the two clips' OmniScores.
Clips are counted as they are written; its own reader drops clips that are too short before it
counts, which shifts all places after them. Not checked against the published clips
(vidpro-vc2-dataset), which could not be had: whether their paths are relative. Where a path is not
there, its last two parts (winvideos/000001.mp4) are looked for beside the list.
"""

from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from vipo_cli.data.cells import number, text
from vipo_cli.data.entry import Entry, Found, Unusable
from vipo_cli.data.importers.arrays import elements_of
from vipo_cli.data.importers.importer import folder_of, importer
from vipo_cli.data.importers.paths import is_file
from vipo_cli.errors import DataError

CLIPS, PAIRS = "metadata.json", "pair.json"
USUAL = 0.72
"""Product of the scores of a pair that is to count once."""
BROKEN = float("nan")


def _folders(place: Path, pairs: str = PAIRS) -> list[Path]:
    """Return the folders that hold both lists: the place itself, or those in it."""
    candidates = [place] if place.is_dir() else [place.parent] if place.name == pairs else []
    if place.is_dir() and not (place / CLIPS).is_file():
        candidates = sorted(each for each in place.iterdir() if each.is_dir())
    return [each for each in candidates if all((each / it).is_file() for it in (CLIPS, pairs))]


def _fits(place: Path) -> bool:
    try:
        return any("video1" in row for folder in _folders(place)[:1] for row in _first(folder))
    except (DataError, OSError):
        return False


def _first(folder: Path) -> Iterator[dict[str, Any]]:
    for _, row in elements_of(folder / PAIRS):
        if isinstance(row, dict):
            yield row
        return


@importer(fits=_fits, beside=folder_of)
def videodpo(
    place: Path,
    *,
    pairs: Annotated[
        str, Field(description="Name of the list of pairs, such as pair_score_25P.json.")
    ] = PAIRS,
    alpha: Annotated[
        float, Field(ge=0, description="Weigh pairs by (0.72 / score) ** alpha; 0 weighs none.")
    ] = 0.0,
) -> Iterator[Found]:
    """VideoDPO's lists: a folder with pair.json and metadata.json, the winner first."""
    folders = _folders(place, pairs)
    if not folders:
        raise DataError(f"`{place}` holds no {pairs} with a {CLIPS} beside it")
    for folder in folders:
        paths, scores = _clips(folder / CLIPS)
        for where, row in elements_of(folder / pairs):
            if isinstance(row, Unusable):
                yield row
            else:
                yield _entry(where, row, folder, paths, scores, alpha)


def _clips(file: Path) -> tuple[list[str], Sequence[float]]:
    """Return path and score of each clip; a million pairs have two million of them."""
    paths, scores = [], array("d")
    for _, row in elements_of(file):
        basic = row.get("basic") if isinstance(row, dict) else None
        known = basic if isinstance(basic, dict) else {}
        score = number(known.get("score"))
        paths.append(text(known.get("clip_path")))
        scores.append(BROKEN if score is None else score)
    return paths, scores


def _entry(
    where: str,
    row: dict[str, Any],
    folder: Path,
    paths: Sequence[str],
    scores: Sequence[float],
    alpha: float,
) -> Found:
    places = [row.get("video1"), row.get("video2")]
    chosen = [each for each in places if type(each) is int and 0 <= each < len(paths)]
    if len(chosen) < 2:
        return Unusable(where, f"video1 or video2 is no place in {CLIPS}")
    media = tuple(_medium(paths[each], folder) for each in chosen)
    if None in media:
        return Unusable(where, "missing medium")
    said = row.get("frame_caption")
    captions = said if isinstance(said, list) else [said]
    score = number(row.get("score"))
    if alpha and (score is None or score <= 0):
        return Unusable(where, "no score above 0 that it could be weighed by")
    both = tuple(scores[each] for each in chosen)
    facts = {"score": score, "diff_score": number(row.get("diff_score"))}
    return Entry(
        text(captions[0]) if captions else "",
        tuple(each for each in media if each is not None),
        "a",
        weight=(USUAL / score) ** alpha if alpha and score is not None else 1.0,
        scores={} if any(each != each for each in both) else {"omniscore": both},
        metadata={key: value for key, value in facts.items() if value is not None},
    )


def _medium(path: str, folder: Path) -> Path | None:
    """Return the file that a path means; None if it says nothing."""
    if not path:
        return None
    written = folder / path
    if is_file(written):
        return written
    moved = folder.joinpath(*Path(path).parts[-2:])
    return moved if is_file(moved) else written
