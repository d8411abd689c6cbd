import io
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vipo_cli.shapes.source import shapes


def as_jpeg(png):
    buffer = io.BytesIO()
    Image.open(io.BytesIO(png)).save(buffer, format="JPEG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def columns():
    """Eight rows of Pick-a-Pic v2: 0 to 5 are labelled, 6 is a tie, 7 has no label."""
    pairs = list(islice(shapes(kind="clean", pairs=8, seed=3), 8))
    label_0 = np.array([1, 0, 1, 0, 1, 0, 0.5, 0.5])
    first = [p.winner if label else p.loser for p, label in zip(pairs, label_0, strict=True)]
    second = [p.loser if label else p.winner for p, label in zip(pairs, label_0, strict=True)]
    return {
        "jpg_0": [as_jpeg(data) for data in first],
        "jpg_1": [as_jpeg(data) for data in second],
        "caption": [pair.prompt for pair in pairs],
        "label_0": label_0,
        "label_1": 1 - label_0,
        "has_label": [True] * 7 + [False],
        "model_0": [f"first-{row}" for row in range(8)],
        "model_1": [f"second-{row}" for row in range(8)],
        "pickscore_0": label_0 + 20,
        "pickscore_1": 21 - label_0,
    }


@pytest.fixture
def write(tmp_path):
    """Write columns to a Parquet file of small row groups, and return its path."""

    def write(columns, name="train-00000-of-00001.parquet", rows=3):
        file = tmp_path / "set" / name
        file.parent.mkdir(exist_ok=True)
        pq.write_table(pa.table(columns), file, row_group_size=rows)
        return file

    return write
