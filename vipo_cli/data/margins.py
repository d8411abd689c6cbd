"""How much higher rewards score winners than losers: told by the data, or by a file beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vipo_cli.data.census import Census
from vipo_cli.data.entries import Entries
from vipo_cli.data.entry import Entry
from vipo_cli.data.scores import SCORES, MediaKeys, media_keys, prompt_hash, stored_scores
from vipo_cli.errors import DataError, UnknownName

Margins = NDArray[np.float64]
PAIR = "pair"
"""Column of a table of scores: the number of the pair, as `vipo analyze conflict` counts them."""
NO_REWARDS = ("winner_probability", "probability", "weight")
"""Columns of numbers in such a table that are no reward's."""
TIES = b"vipo.ties"
"""In the metadata of such a table: whether pairs whose label is a tie count: keep or drop."""


@dataclass
class OwnScores:
    """What the entries themselves say, gathered while they are read.

    Attributes:
        entries: how many there are.
        margins: by reward; NaN where an entry does not say.
        prompts: hash of the prompt of each entry, if scores beside the data need them.
    """

    entries: int
    hash_prompts: bool = False
    margins: dict[str, Margins] = field(default_factory=dict)
    prompts: list[str] = field(default_factory=list)

    def visit(self, index: int, entry: Entry) -> None:
        """Take down the scores of an entry."""
        if self.hash_prompts:
            self.prompts.append(prompt_hash(entry.prompt))
        if entry.label in ("a", "b"):
            winner = "ab".index(entry.label)
            for name, values in entry.scores.items():
                reward = reward_name(name)
                if reward not in self.margins:
                    self.margins[reward] = np.full(self.entries, np.nan)
                self.margins[reward][index] = values[winner] - values[1 - winner]


def reward_name(column: str) -> str:
    """Return how a reward is called whose scores stand in a column."""
    return column.lower().replace("_", "-")


def find_scores(entries: Entries, wanted: Path | None) -> Path | None:
    """Return the folder of scores or the table of a score for each pair, if there is any.

    Raises:
        DataError: the user names something that is not there.
    """
    if wanted is not None:
        if not wanted.exists():
            raise DataError(f"no such file or folder: `{wanted}`")
        return wanted
    beside = Path(entries.name).expanduser() / SCORES
    return beside if beside.is_dir() else None


def all_margins(census: Census, own: OwnScores, scores: Path | None) -> dict[str, Margins]:
    """Return the margin of every entry by every reward; what stands beside the data counts more.

    Raises:
        DataError: scores that are damaged, or belong to other pairs.
    """
    if scores is None:
        return own.margins
    if scores.is_file():
        return own.margins | _of_table(scores, census)
    found = stored_scores(scores)
    if not found:
        raise DataError(
            f"`{scores}` holds no scores", hint="vipo data score DATA --rewards A,B makes them"
        )
    folder = census.entries.folder
    keys = media_keys(folder) if folder is not None else _keys(census, own.prompts)
    rows, best, worst = census.best_and_worst()
    margins = {}
    for reward, scored in found.items():
        values = scored.of(keys)
        margins[reward] = np.full(len(census), np.nan)
        margins[reward][rows] = values[best] - values[worst]
    return own.margins | margins


def chosen_margins(margins: Mapping[str, Margins], names: Sequence[str]) -> dict[str, Margins]:
    """Return the margins of some rewards; of all if none is named.

    Raises:
        UnknownName: nothing is known of a reward.
        DataError: no scores at all.
    """
    if not margins:
        raise DataError(
            "there are no scores to choose by",
            hint="vipo data score DATA --rewards A,B computes them; or name a file: --scores FILE",
        )
    for name in names:
        if reward_name(name) not in margins:
            raise UnknownName("reward", name, margins)
    return {name: margins[name] for name in (map(reward_name, names) if names else margins)}


def _keys(census: Census, prompts: Sequence[str]) -> MediaKeys:
    import pyarrow as pa

    digests = census.media["digest"].astype(">u8").tobytes().hex()
    media = [digests[start : start + 32] for start in range(0, len(digests), 32)]
    numbers = np.repeat(np.arange(len(census)), census.counts)
    each = pa.array(list(prompts), pa.string()).take(pa.array(numbers))
    return MediaKeys(pa.array(media, pa.string()), each, census.counts)


def _of_table(file: Path, census: Census) -> dict[str, Margins]:
    """Read a table with a row for each pair: REWARD_w and REWARD_l, or REWARD for the margin.

    Raises:
        DataError: it cannot be read, or its rows are not the pairs of this data set.
    """
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    try:
        table = pq.read_table(file)
    except (ArrowException, OSError) as error:
        raise DataError(f"cannot read `{file}`: {error}") from error
    names = table.column_names
    rows = _rows_of(file, table, census)
    found: dict[str, Margins] = {}
    for reward, values in _table_margins(table).items():
        margin = found.setdefault(reward_name(reward), _unknown(census))
        margin[rows] = values
    if not found:
        raise DataError(
            f"`{file}` holds no scores",
            details=[f"found: {', '.join(names) or 'no columns'}"],
            hint="a table of scores has REWARD_w and REWARD_l, or REWARD alone for the margin",
        )
    return found


def _table_margins(table: Any) -> dict[str, Margins]:
    """Return the margins in a table, by reward, with a value for each row.

    Of both media in REWARD_w and REWARD_l, or of the margin in REWARD_margin or REWARD alone.

    Of a reward that has REWARD_vote, what it calls a tie has the margin 0, however small a margin
    is one to it: so rewards agree on as many pairs as `vipo analyze conflict` counted.
    """
    schema = table.schema
    floats = {field.name for field in schema if str(field.type) in ("float", "double")}
    floats -= set(NO_REWARDS)
    columns = {name: table.column(name).to_numpy().astype(np.float64) for name in floats}
    found: dict[str, Margins] = {}
    for name in filter(floats.__contains__, table.column_names):
        stem, _, end = name.rpartition("_")
        paired = {f"{stem}_w", f"{stem}_l"} <= floats
        if end == "w" and paired:
            found[stem] = columns[name] - columns[f"{stem}_l"]
        elif not (paired and end in ("l", "margin")):
            found[stem if end == "margin" else name] = columns[name]
    for reward in found:
        if (vote := f"{reward}_vote") in table.column_names:
            votes = table.column(vote).to_numpy(zero_copy_only=False)
            found[reward] = np.where(votes == 0, 0.0, found[reward])
    return found


def _rows_of(file: Path, table: Any, census: Census) -> NDArray[np.int64]:
    """Return the entries that the rows of a table are about."""
    labelled = np.flatnonzero(~census.is_named("label", "none", "candidates", "tie"))
    with_ties = np.flatnonzero(~census.is_named("label", "none", "candidates"))
    everything = np.arange(len(census))
    if PAIR in table.column_names:
        numbers = np.asarray(table.column(PAIR).to_numpy(), np.int64)
        # pairs are counted as training reads them: without ties, unless it was told to keep these
        pairs = labelled if numbers.max(initial=-1) < len(labelled) else everything
        if said := (table.schema.metadata or {}).get(TIES):
            pairs = with_ties if said == b"keep" else labelled
        if numbers.min(initial=0) >= 0 and numbers.max(initial=-1) < len(pairs):
            return np.asarray(pairs[numbers], np.int64)
    elif len(table) in (len(labelled), len(everything)):
        return labelled if len(table) == len(labelled) else everything
    raise DataError(
        f"`{file}` is not about these pairs: {len(table):,} rows, {len(labelled):,} pairs with a "
        f"winner, {len(everything):,} in all",
        hint=f"a column `{PAIR}` says which pair each row is about, counted from 0",
    )


def _unknown(census: Census) -> Margins:
    return np.full(len(census), np.nan)
