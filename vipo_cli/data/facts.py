"""What is known of pairs without a look at their media: who drew them, who judged, how surely."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vipo_cli.data.parquet import ParquetRecords
from vipo_cli.data.record import PreferencePair
from vipo_cli.data.stored import StoredRecords

TEXTS = ("category", "annotator", "model_w", "model_l", "id")
PICKAPIC_NAMES = {"user_id": "annotator", "ranking_id": "id"}
"""What Pick-a-Pic v2 calls some of these."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Columns with a cell for each pair.

    Attributes:
        prompts: an Arrow array of strings, or a dictionary array.
        probability: of the label; 0.5 is a tie.
        texts: likewise by name, of `TEXTS`, where anything is known.
    """

    prompts: Any
    probability: NDArray[np.float64]
    texts: Mapping[str, Any]


def facts_of(pairs: Sequence[Any]) -> Facts | None:
    """Return what the columns of a data set say of its pairs; None if it has no columns."""
    if isinstance(pairs, StoredRecords):
        return _of_stored(pairs)
    if isinstance(pairs, ParquetRecords):
        return _of_parquet(pairs)
    return None


def told_by(pairs: Sequence[PreferencePair]) -> Facts:
    """Return what some pairs say themselves."""
    import pyarrow as pa

    told = {
        name: pa.array([_text(pair.metadata.get(name)) for pair in pairs], pa.string())
        for name in TEXTS
    }
    return Facts(
        pa.array([pair.prompt for pair in pairs], pa.string()),
        np.array([pair.probability for pair in pairs], float),
        _known(told),
    )


def taken(facts: Facts, rows: NDArray[np.int64]) -> Facts:
    """Return what is known of some of the pairs."""
    texts = {name: _some(column, rows) for name, column in facts.texts.items()}
    return Facts(_some(facts.prompts, rows), facts.probability[rows], texts)


def _some(texts: Any, rows: NDArray[np.int64]) -> Any:
    """Return some of the texts; a dictionary of all of them would tell of others, too."""
    from pyarrow import types

    chosen = texts.take(rows)
    return chosen.cast("string") if types.is_dictionary(chosen.type) else chosen


def _of_stored(pairs: StoredRecords) -> Facts:
    import pyarrow.compute as pc

    names = ("prompt", "label", "probability", "votes", "models", "category", "annotator", "id")
    repeated = ("prompt", "category", "annotator")
    columns = pairs.columns(names, repeated)
    table = {name: column.combine_chunks() for name, column in columns.items()}
    second = pc.equal(table["label"], "b")
    texts = {name: table[name] for name in ("category", "annotator", "id")}
    if table["models"].null_count < len(pairs):
        one, other = (pc.list_element(_padded(table["models"]), place) for place in (0, 1))
        texts["model_w"] = pc.if_else(second, other, one)
        texts["model_l"] = pc.if_else(second, one, other)
    probability = np.array(table["probability"].to_numpy(zero_copy_only=False), float)
    if table["votes"].null_count < len(pairs):
        votes = np.stack(
            [
                pc.list_element(_padded(table["votes"]), place).to_numpy(zero_copy_only=False)
                for place in (0, 1)
            ]
        ).astype(float)
        total = votes.sum(0)
        won = np.where(second.to_numpy(zero_copy_only=False), votes[1], votes[0])
        counted = np.isnan(probability) & (total > 0)
        probability[counted] = won[counted] / total[counted]
    probability[np.isnan(probability)] = 1.0
    probability[pc.equal(table["label"], "tie").to_numpy(zero_copy_only=False)] = 0.5
    return Facts(table["prompt"], probability, _known(texts))


def _padded(lists: Any) -> Any:
    """Return lists of two, with two nulls where there is no list."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.fill_null(lists, pa.scalar([None, None], lists.type)) if lists.null_count else lists


def _of_parquet(pairs: ParquetRecords) -> Facts:
    import pyarrow.compute as pc

    numbers = ("probability", "votes_w", "votes_l", "label_w")
    found = pairs.columns([*TEXTS, *PICKAPIC_NAMES, *numbers])
    for theirs, ours in PICKAPIC_NAMES.items():
        if theirs in found:
            found.setdefault(ours, found[theirs])
    texts = {name: pc.cast(found[name], "string") for name in TEXTS if name in found}
    probability = np.ones(len(pairs))
    if "label_w" in found:
        probability = np.minimum(1.0, _floats(found["label_w"]))
    elif "probability" in found:
        probability = _floats(found["probability"])
    elif "votes_w" in found and "votes_l" in found:
        won, lost = _floats(found["votes_w"]), _floats(found["votes_l"])
        probability = won / np.maximum(won + lost, 1)
    return Facts(pairs.prompt_texts(), probability, _known(texts))


def _floats(column: Any) -> NDArray[np.float64]:
    import pyarrow.compute as pc

    values = pc.cast(column, "double", safe=False).to_numpy(zero_copy_only=False)
    found: NDArray[np.float64] = np.nan_to_num(np.array(values, float), nan=1.0)
    return found


def _known(texts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: column for name, column in texts.items() if column.null_count < len(column)}


def _text(value: Any) -> str | None:
    return None if value in (None, "") else str(value)
