import numpy as np
import pytest
import torch

from vipo_cli.training.arrays import ArrayStore, RaggedArray, open_arrays


@pytest.fixture
def store(tmp_path):
    return ArrayStore(tmp_path)


def test_rows_of_one_shape_are_read_together_in_any_order(store, tmp_path):
    values = torch.arange(24.0).reshape(4, 2, 3)
    store.append("x", values[:3])
    store.append("x", values[3:])
    store.complete()
    found = open_arrays(tmp_path)["x"]
    assert len(found) == 4
    assert torch.equal(found.read(np.array([3, 0, 3])), values[[3, 0, 3]])
    assert np.array_equal(found.whole, values)


def test_rows_may_come_out_of_order_and_differ_in_shape(store, tmp_path):
    wide, tall = torch.rand(2, 1, 2, 4), torch.rand(1, 1, 4, 2)
    store.append("x", wide, np.array([2, 0]))
    store.append("x", tall, np.array([1]))
    store.complete()
    found = open_arrays(tmp_path)["x"]
    assert [found.shape(row) for row in range(3)] == [(1, 2, 4), (1, 4, 2), (1, 2, 4)]
    assert found.whole is None
    assert torch.equal(found.read(np.array([0, 2])), wide[[1, 0]])
    assert np.array_equal(found.row(1), tall[0])
    with pytest.raises(ValueError, match="same shape"):
        found.read(np.array([0, 1]))


def test_bfloat16_keeps_its_bits(store, tmp_path):
    values = torch.randn(3, 5).bfloat16()
    store.append("x", values)
    store.complete()
    found = open_arrays(tmp_path)["x"].read(np.array([2, 1]))
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, values[[2, 1]])


def test_an_array_in_memory_is_one_too():
    values = np.random.default_rng(0).random((3, 2, 2), np.float32)
    found = RaggedArray.of(values)
    assert np.shares_memory(found.whole, values)
    assert torch.equal(found.read(np.array([-1])), torch.from_numpy(values[[-1]]))
