"""Ways to divide pairs, by what is known of them without a look at their media."""

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vipo_cli.analysis.strata import Stratum
from vipo_cli.data.facts import Facts

LENGTHS = (5, 10, 20, 40)
"""Words up to which a prompt belongs to a class of lengths."""
STRENGTHS = (0.6, 0.75, 0.9, 1.0)
"""Probabilities of a label from which on it belongs to another class of strengths."""
SURE = 1 - 1e-9
SPACES = b" \t\n\f\r"


def strata_of(facts: Facts) -> tuple[NDArray[np.int64], dict[str, Stratum]]:
    """Return numbers of the prompts of pairs, and strata by what else is known of the pairs.

    These are category, models, length of prompt, label and annotator, where they are known.
    """
    prompts = _encoded(facts.prompts)
    found = {"category": _by_text(facts.texts.get("category"))}
    if "model_w" in facts.texts and "model_l" in facts.texts:
        found["models"] = _by_both(facts.texts["model_w"], facts.texts["model_l"])
    found["prompt_words"] = _by_length(*prompts)
    found["label"] = _by_strength(facts.probability)
    found["annotator"] = _by_text(facts.texts.get("annotator"))
    known = {name: stratum for name, stratum in found.items() if stratum is not None}
    return prompts[1], known


def _encoded(texts: Any) -> tuple[list[str], NDArray[np.int64]]:
    """Return the different texts of an Arrow array, and which each is; -1 for none."""
    import pyarrow as pa

    whole = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    encoded = whole.dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return encoded.dictionary.to_pylist(), np.asarray(codes, np.int64)


def _by_text(texts: Any) -> Stratum | None:
    if texts is None:
        return None
    names, codes = _encoded(texts)
    return _most_frequent_first(names, codes)


def _by_both(first: Any, second: Any) -> Stratum:
    """Divide by the models of both media, whichever won."""
    import pyarrow as pa

    chunks = [
        chunk
        for texts in (first, second)
        for chunk in (texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts])
    ]
    names, codes = _encoded(pa.chunked_array(chunks))
    sides = codes.reshape(2, -1)
    one, other = sides.min(0), sides.max(0)
    keys = np.where(one >= 0, one * len(names) + other, -1)
    if len(names) ** 2 <= len(keys):
        there = np.flatnonzero(np.bincount(keys[keys >= 0], minlength=1))
        numbers = np.full(len(names) ** 2 + 1, -1)  # -1 is the last, and stays
        numbers[there] = np.arange(len(there))
        places = numbers[keys]
    else:  # a table of all models by all models would be vast
        there, places = np.unique(keys, return_inverse=True)
        places = np.where(keys >= 0, places, -1)
    titles = [f"{names[key // len(names)]}, {names[key % len(names)]}" for key in there.tolist()]
    return _most_frequent_first(titles, places)


def _by_length(names: list[str], codes: NDArray[np.int64]) -> Stratum:
    words = _count_words(names)
    edges = np.array(LENGTHS)
    starts = [1, *(edges[:-1] + 1).tolist()]
    titles = [f"{start} to {end} words" for start, end in zip(starts, LENGTHS, strict=True)]
    of_names = np.searchsorted(edges, words)
    return Stratum((*titles, f"over {LENGTHS[-1]} words"), of_names[codes])


def _count_words(texts: list[str]) -> NDArray[np.int64]:
    """Return how many words each text has: a word begins after a space, or where the text does."""
    encoded = [text.encode() for text in texts]
    ends = np.cumsum([0, *map(len, encoded)])
    space = np.isin(np.arange(256), list(SPACES))[np.frombuffer(b"".join(encoded), np.uint8)]
    after = np.append(True, space[:-1])[: len(space)]
    after[ends[:-1][ends[:-1] < len(space)]] = True
    counted = np.append(0, np.cumsum(~space & after))
    return np.asarray(np.diff(counted[ends]), np.int64)


def _by_strength(probability: NDArray[np.float64]) -> Stratum:
    classes = [f"{low:g} to {high:g}" for low, high in pairwise(STRENGTHS)]
    names = ("a tie", f"under {STRENGTHS[0]:g}", *classes, "certain")
    codes = 1 + np.searchsorted((*STRENGTHS[:-1], SURE), probability, side="right")
    return Stratum(names, np.where(probability == 0.5, 0, codes))


def _most_frequent_first(names: list[str], codes: NDArray[np.int64]) -> Stratum:
    counts = np.bincount(codes[codes >= 0], minlength=len(names))
    order = np.argsort(-counts, kind="stable")
    order = order[counts[order] > 0]
    places = np.full(len(names) + 1, -1)  # -1 is the last, and stays
    places[order] = np.arange(len(order))
    return Stratum(tuple(names[place] for place in order), places[codes])
