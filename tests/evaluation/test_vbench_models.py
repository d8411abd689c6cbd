import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import ViTConfig, ViTModel

from vipo_cli.errors import MissingWeights
from vipo_cli.evaluation.vbench_models import load_scorer


@pytest.fixture
def network():
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    return ViTModel(config, add_pooling_layer=False).eval()


def test_dino_is_read_from_tensors_and_from_the_pickle_that_some_mirrors_hold(tmp_path, network):
    frames = [np.full((24, 32, 3), level, np.uint8) for level in (40, 90, 160)]
    found = []
    for kind in ("tensors", "pickle"):
        folder = tmp_path / kind / "dino-b16"
        folder.mkdir(parents=True)
        network.config.to_json_file(folder / "config.json")
        if kind == "tensors":
            save_file(network.state_dict(), folder / "model.safetensors")
        else:
            torch.save(network.state_dict(), folder / "pytorch_model.bin")
        scorer = load_scorer("subject_consistency", tmp_path / kind, "cpu")
        found.append(scorer.score(np.stack(frames), {"prompt": "a cat"}).value)
    assert found[0] == found[1]
    assert 0 < found[0] < 1


def test_weights_that_are_not_there_are_named(tmp_path):
    with pytest.raises(MissingWeights, match="dino-b16"):
        load_scorer("subject_consistency", tmp_path, "cpu")
