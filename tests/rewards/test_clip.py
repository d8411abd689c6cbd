import io

import numpy as np
import pytest
import torch
from PIL import Image

from tests.tiny.clip import save_clip
from vipo_cli.errors import MissingWeights, ModelError
from vipo_cli.media import encode_png
from vipo_cli.rewards import Reward, rewards
from vipo_cli.rewards.pixels import MEAN, SPREAD, clip_crop, pickscore_crop
from vipo_cli.shapes.build import make_tokenizer

PROMPTS = [
    "a red circle",
    "two squares on grey",
    "a cross above a triangle",
    "a circle",
    "a square",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A complete CLIP model with random weights."""
    return save_clip(make_tokenizer(), tmp_path_factory.mktemp("clip"))


def pictures(number=5):
    rng = np.random.default_rng(0)
    return [encode_png(rng.integers(0, 256, (20, 30, 3), np.uint8)) for _ in range(number)]


@pytest.mark.parametrize(("name", "dimension"), [("pickscore", "overall"), ("clip", "alignment")])
def test_scores_are_scaled_cosines_of_embeddings(folder, name, dimension):
    from transformers import CLIPModel, CLIPTokenizer

    reward = rewards[name](path=str(folder), device="cpu")
    assert isinstance(reward, Reward)
    assert (reward.name, reward.dimension) == (name, dimension)
    scores = reward.score(pictures(), PROMPTS)

    model = CLIPModel.from_pretrained(folder).eval()
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    expected = []
    for data, prompt in zip(pictures(), PROMPTS, strict=True):
        picture = Image.open(io.BytesIO(data)).resize((24, 16), Image.Resampling.BICUBIC)
        pixels = (np.asarray(picture.crop((4, 0, 20, 16)), np.float32) / 255 - MEAN) / SPREAD
        with torch.no_grad():
            output = model(
                pixel_values=torch.tensor(pixels.transpose(2, 0, 1))[None],
                **tokenizer(prompt, return_tensors="pt"),
            )
        expected.append(output.logits_per_image.item())
    if name == "clip":
        expected = np.array(expected) / model.logit_scale.exp().item()
    assert scores.shape == (5,)
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, expected, rtol=2e-4, atol=1e-5)
    assert np.std(scores) > 0


def test_batches_change_nothing_and_broken_pictures_are_nan(folder):
    media = pictures()
    media[2] = b"no picture"
    whole = rewards["pickscore"](path=str(folder)).score(media, PROMPTS)
    pieces = rewards["pickscore"](path=str(folder), batch_size=2).score(media, PROMPTS)
    assert np.isnan(whole).tolist() == [False, False, True, False, False]
    np.testing.assert_allclose(pieces, whole, rtol=1e-5)
    assert np.isnan(rewards["clip"](path=str(folder)).score([b""], ["a circle"])).all()
    assert rewards["clip"](path=str(folder)).score([], []).shape == (0,)


def test_long_prompts_are_cut(folder):
    scores = rewards["clip"](path=str(folder)).score(pictures(1), ["a red circle and " * 50])
    assert np.isfinite(scores).all()


def test_fingerprints_name_weights_and_preprocessing(folder, tmp_path):
    from transformers import CLIPModel

    pickscore, clip = (rewards[name](path=str(folder)) for name in ("pickscore", "clip"))
    assert pickscore.fingerprint == rewards["pickscore"](path=str(folder)).fingerprint
    assert pickscore.fingerprint != clip.fingerprint
    model = CLIPModel.from_pretrained(folder)
    model.logit_scale.data += 1
    model.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    assert rewards["pickscore"](path=str(tmp_path)).fingerprint != pickscore.fingerprint


def test_the_crop_of_pickscore_rounds_down_where_clip_rounds_half_to_even():
    # 40 x 62 scales to 224 x 347, which leaves 61.5 rows to each side
    rows = np.arange(62, dtype=np.uint8)[:, None, None] * 4
    data = encode_png(np.broadcast_to(rows, (62, 40, 3)).copy())
    scaled = Image.open(io.BytesIO(data)).resize((224, 347), Image.Resampling.BICUBIC)
    assert np.array_equal(pickscore_crop(data, 224), scaled.crop((0, 61, 224, 285)))
    assert np.array_equal(clip_crop(data, 224), scaled.crop((0, 62, 224, 286)))


def saved(picture):
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def test_clip_weighs_transparent_pixels_less_and_pickscore_does_not():
    pixels = np.zeros((32, 32, 4), np.uint8)
    pixels[:, :16] = (255, 0, 0, 255)
    pixels[:, 16:] = (0, 255, 0, 0)
    data = saved(Image.fromarray(pixels))
    assert np.asarray(pickscore_crop(data, 8))[:, 4:].max() == 255
    assert not np.array_equal(pickscore_crop(data, 8), clip_crop(data, 8))


def test_clip_does_not_mix_palette_colours():
    stripes = Image.fromarray(np.tile(np.array([[0, 1]], np.uint8), (32, 16)))
    palette = Image.new("P", stripes.size)
    palette.putdata(list(stripes.tobytes()))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    data = saved(palette)
    assert {tuple(p) for p in np.asarray(clip_crop(data, 8)).reshape(-1, 3).tolist()} <= {
        (255, 0, 0),
        (0, 0, 255),
    }
    assert np.ptp(np.asarray(pickscore_crop(data, 8))) < 255


@pytest.mark.parametrize(
    ("name", "repositories"),
    [
        ("pickscore", ("yuvalkirstain/PickScore_v1", "laion/CLIP-ViT-H-14-laion2B-s32B-b79K")),
        ("clip", ("openai/clip-vit-large-patch14",)),
    ],
)
def test_missing_weights_name_the_download_and_its_size(name, repositories, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingWeights, match=r"not on this machine \(\d\.\d GB\)") as caught:
        rewards[name]()
    for repository in repositories:
        assert f"hf download {repository} " in caught.value.hint
    with pytest.raises(MissingWeights, match=r"holds no `model.safetensors`") as caught:
        rewards[name](path=str(tmp_path))
    assert f"--local-dir {tmp_path}" in caught.value.hint


def test_damaged_weights_are_a_users_error(folder, tmp_path):
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="cannot load the model"):
        rewards["clip"](path=str(tmp_path))
