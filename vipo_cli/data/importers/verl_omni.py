"""verl-omni's offline pairs: Parquet with img_win and img_lose, paths of pictures, and scores.

Checked against the public code of verl-project/verl-omni that writes and reads them: the columns
data_source, prompt and negative_prompt (lists of messages), img_win and img_lose (paths that start
in the file's folder), win_score, lose_score, and extra_info (raw_prompt, win_seed, lose_seed,
index, split). Beside them stand latents and prompt embeddings, which are passed over unread:
latents belong to one model and cannot be turned back into pictures here. Pairs whose winner has
the lower score are refused there too. No such data set is published, so none was tried.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vipo_cli.data.cells import name, number, text, whole
from vipo_cli.data.entry import Entry, Found, Unusable
from vipo_cli.data.importers.files import Row, count_rows, header, rows_of, tables_in
from vipo_cli.data.importers.importer import folder_of, importer
from vipo_cli.data.importers.paths import is_file
from vipo_cli.data.row_groups import read_medium

MEDIA = ("img_win", "img_lose")
LATENTS = ("img_win_latents", "img_lose_latents")
SCORES = ("win_score", "lose_score")
READ = ("prompt", "negative_prompt", *MEDIA, *SCORES, "data_source", "uid", "extra_info")
"""All columns but those of tensors."""
FACTS = ("num_candidates", "candidate_scores")


def _is_ours(file: Path) -> bool:
    names = set(header(file))
    return "prompt" in names and (set(MEDIA) <= names or set(LATENTS) <= names)


def _fits(place: Path) -> bool:
    return any(map(_is_ours, tables_in(place, (".parquet", ".jsonl"))[:1]))


@importer(fits=_fits, count=count_rows, beside=folder_of)
def verl_omni(place: Path) -> Iterator[Found]:
    """verl-omni's offline DPO: Parquet with prompt, img_win, img_lose, win_score, lose_score."""
    for file in filter(_is_ours, tables_in(place, (".parquet", ".jsonl"))):
        latents = set(LATENTS) <= set(header(file))
        for where, row in rows_of(file, READ):
            yield row if isinstance(row, Unusable) else _entry(where, row, file.parent, latents)


def _entry(where: str, row: Row, folder: Path, latents: bool) -> Found:
    media = [read_medium(row.get(column), folder) or b"" for column in MEDIA]
    there = all(is_file(each) if isinstance(each, Path) else bool(each) for each in media)
    if latents and not there:
        return Unusable(where, "holds latents, but its pictures are not there")
    best, worst = (number(row.get(column)) for column in SCORES)
    if best is not None and worst is not None and best < worst:
        return Unusable(where, "win_score is below lose_score")
    info: Any = row.get("extra_info")
    extra: dict[str, Any] = info if isinstance(info, dict) else {}
    seeds = tuple(whole(extra.get(key)) for key in ("win_seed", "lose_seed"))
    negative = text(extra.get("raw_negative_prompt")) or _said(row.get("negative_prompt"))
    return Entry(
        text(extra.get("raw_prompt")) or _said(row.get("prompt")),
        tuple(media),
        "tie" if best is not None and best == worst else "a",
        scores={} if best is None or worst is None else {"score": (best, worst)},
        seeds=seeds if any(seed is not None for seed in seeds) else None,
        id=name(row.get("uid")) or name(extra.get("index")),
        source=name(row.get("data_source")),
        split=name(extra.get("split")),
        metadata={key: extra[key] for key in FACTS if extra.get(key) is not None}
        | ({"negative_prompt": negative} if negative else {}),
    )


def _said(messages: Any) -> str:
    """Return what the user says in a list of messages, or a text as it is."""
    if not isinstance(messages, list):
        return text(messages)
    users = [each for each in messages if isinstance(each, dict) and each.get("role") == "user"]
    return "\n".join(filter(None, (text(each.get("content")) for each in users)))
