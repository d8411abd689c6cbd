"""A table of what rewards say of each pair, for `vipo data filter --scores` and for anything else.

pair, id                number of the pair as training counts them, and what the source calls it
REWARD_w, REWARD_l      scores of winner and loser
REWARD_margin           their difference
REWARD_vote             1 for the winner, -1 for the loser, 0 a tie, null where it cannot judge
votes                   rewards that vote for the winner
class                   unanimous-right, unanimous-wrong, mixed, or unjudged
winner_probability      of the label; 0.5 where it is a tie, and either is the winner
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vipo_cli.analysis.conflict import CLASSES, classify, vote
from vipo_cli.analysis.dominance import in_own_scale
from vipo_cli.data.margins import PAIR, TIES
from vipo_cli.data.pair_scores import Scores
from vipo_cli.run import writing


@dataclass(frozen=True, slots=True)
class PairTable:
    """What rewards say of pairs.

    Attributes:
        rewards: names.
        rows: numbers of the pairs.
        scores: of winners and losers, (n, 2), by each reward.
        probability: of the label of each pair.
        ids: an Arrow array, where the source has any.
        tie_bands: margins of each reward up to which it calls two media equal.
    """

    rewards: tuple[str, ...]
    rows: NDArray[np.int64]
    scores: list[Scores]
    probability: NDArray[np.float64]
    ids: Any
    tie_bands: dict[str, float]

    def margins(self) -> NDArray[np.float64]:
        """Return by how much winners score higher, (n, k)."""
        return np.stack([scores[:, 0] - scores[:, 1] for scores in self.scores]).T


def telling_pairs(table: PairTable, count: int) -> dict[str, NDArray[np.int64]]:
    """Return places of a few pairs worth a look: against the label, and most contested.

    Against it are pairs whose every reward prefers the loser, the more by the least sure of them
    the sooner. Contested are those with the largest margins both ways. Margins are in units of each
    reward's median.
    """
    votes = vote(table.margins(), table.rewards, table.tie_bands)
    margins = in_own_scale(table.margins())
    kinds = classify(votes, table.probability != 0.5)
    against = np.where(kinds == CLASSES.index("unanimous-wrong"), -margins.max(1), 0.0)
    contested = np.minimum(margins.max(1), -margins.min(1))
    contested = np.where(kinds == CLASSES.index("mixed"), contested, 0.0)
    found = {}
    for name, size in (("against the label", against), ("most contested", contested)):
        order = np.argsort(-size, kind="stable")[:count]
        found[name] = order[size[order] > 0]
    return found


def write_pair_table(file: Path, table: PairTable, data: str) -> None:
    """Write a table as Parquet, whole or not at all.

    Args:
        file: where it goes.
        table: what to write.
        data: name of the data set.

    Raises:
        VipoError: it cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {PAIR: table.rows}
    if table.ids is not None:
        columns["id"] = table.ids
    margins = table.margins()
    votes = vote(margins, table.rewards, table.tie_bands)
    for column, (reward, scores) in enumerate(zip(table.rewards, table.scores, strict=True)):
        said = votes[:, column]
        unknown = np.isnan(said)
        columns[f"{reward}_w"], columns[f"{reward}_l"] = scores[:, 0], scores[:, 1]
        columns[f"{reward}_margin"] = margins[:, column]
        columns[f"{reward}_vote"] = pa.array(
            np.where(unknown, 0, said).astype(np.int8), mask=unknown
        )
    tied = table.probability == 0.5
    kinds = classify(votes, ~tied).astype(np.int8)
    columns["votes"] = (votes > 0).sum(1).astype(np.int8)
    columns["class"] = pa.DictionaryArray.from_arrays(pa.array(kinds), list(CLASSES))
    columns["winner_probability"] = table.probability
    about = {"data": data, "rewards": table.rewards, "tie_bands": table.tie_bands}
    metadata = {b"vipo.pairs": json.dumps(about).encode(), TIES: b"keep" if tied.any() else b"drop"}
    arrow = pa.table(columns).replace_schema_metadata(metadata)
    with writing(file) as temporary:
        pq.write_table(arrow, temporary, compression="zstd")
