import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from transformers import CLIPConfig, CLIPModel

from tests.benchmarks.random_mask2former import draw, drawn_picture
from vipo_cli.benchmarks import BatchDetector, Detection, Detector, detectors
from vipo_cli.benchmarks.bilinear import fitting, resize
from vipo_cli.benchmarks.clip_colours import (
    ColourNamer,
    check_activation,
    cut_out,
    prepared,
)
from vipo_cli.benchmarks.instances import instances, tight_box
from vipo_cli.benchmarks.mask2former import (
    Mask2Former,
    blank_network,
    load_network,
    predict,
    prepare,
)
from vipo_cli.benchmarks.mask2former_names import UNUSED, converted, respelled, shape_of
from vipo_cli.errors import MissingWeights, ModelError
from vipo_cli.vocabulary import COLOURS, OBJECTS

GOLDEN = Path(__file__).parent / "golden"
SEEN, SCALED, ORIGINAL = (96, 128), (90, 120), (45, 60)


def digest(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


@pytest.fixture(scope="module")
def golden():
    with safe_open(GOLDEN / "mask2former_tiny.safetensors", "numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


@pytest.fixture(scope="module")
def state(golden):
    """A checkpoint's tensors as MMDetection 3 names them."""
    return {
        name: torch.zeros(shape, dtype=torch.int64)
        if name.endswith("position_index")
        else torch.from_numpy(draw(name, shape))
        for name, shape in json.loads(golden[1]["names"]).items()
    }


def older(name):
    """Spell a name as MMDetection 2 does."""
    if ".pixel_decoder.encoder.layers." in name:
        name = name.replace(".self_attn.", ".attentions.0.")
    elif ".transformer_decoder.layers." in name:
        name = name.replace(".cross_attn.", ".attentions.0.")
        name = name.replace(".self_attn.", ".attentions.1.")
    return name.replace(".ffn.", ".ffns.0.") if "coder." in name else name


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIPO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def checkpoint(state, tmp_path_factory):
    """A file in the layout of the published one: beside the weights there is plain metadata."""
    file = tmp_path_factory.mktemp("weights") / "mask2former.pth"
    meta = {"mmdet_version": "2.24.1", "CLASSES": ("person", "bicycle"), "PALETTE": [(1, 2, 3)]}
    tensors = {older(name): tensor for name, tensor in state.items()}
    torch.save({"meta": meta, "state_dict": tensors}, file)
    return file


@pytest.fixture(scope="module")
def network(checkpoint):
    return load_network(checkpoint)


def test_pictures_are_resized_bit_for_bit_as_by_opencv():
    expected = json.loads((GOLDEN / "mask2former_pixels.json").read_text())["resized"]
    for sizes, known in expected.items():
        old, new = (tuple(map(int, size.split("x"))) for size in sizes.split(" to "))
        assert digest(resize(drawn_picture(*old), *new)) == known, sizes


def test_pictures_are_prepared_bit_for_bit_as_by_mmdetection():
    expected = json.loads((GOLDEN / "mask2former_pixels.json").read_text())["prepared"]
    for size, known in expected.items():
        pixels, _ = prepare(Image.fromarray(drawn_picture(*map(int, size.split("x")))))
        assert digest(pixels) == known, size


@pytest.mark.parametrize(
    ("size", "fits"),
    [
        ((1024, 1024), (800, 800)),
        ((512, 512), (800, 800)),
        ((1360, 768), (1333, 753)),
        ((1000, 333), (1333, 444)),
        ((5000, 1), (1333, 1)),
    ],
)
def test_pictures_are_brought_within_1333_by_800(size, fits):
    assert fitting(*size, 1333, 800) == fits
    assert fitting(*size[::-1], 1333, 800) == fits[::-1]


def test_logits_are_those_of_mmdetection(network, golden):
    expected, _ = golden
    classes, masks = predict(network, draw("pixels", (1, 3, *SEEN)), "fp32")
    assert np.abs(classes[0].numpy() - expected["classes"]).max() < 1e-4
    assert np.abs(masks[0].numpy() - expected["masks"]).max() < 1e-4
    assert expected["masks"].std() > 1
    assert expected["classes"].std() > 1


def test_both_spellings_make_the_same_network(network, state, tmp_path):
    file = tmp_path / "newer.pth"
    torch.save({"state_dict": state, "meta": {}}, file)
    newer = load_network(file).state_dict()
    assert all(torch.equal(tensor, newer[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_stays_near(network, golden, precision):
    classes, _ = predict(network, draw("pixels", (1, 3, *SEEN)), precision)
    expected = golden[0]["classes"]
    off = np.abs(classes[0].numpy() - expected)
    assert 0 < off.mean() < 0.1 * expected.std()


def test_objects_are_those_of_mmdetection(golden):
    expected, _ = golden
    said = torch.from_numpy(expected["classes"]), torch.from_numpy(expected["masks"])
    found = instances(*said, SEEN, SCALED, ORIGINAL, 0.0)
    order = np.argsort(expected["scores"], kind="stable")
    ours = np.argsort([each.score for each in found], kind="stable")
    inside = np.unpackbits(expected["inside"]).reshape(-1, *ORIGINAL).astype(bool)
    assert len(found) == 100
    assert [found[i].label for i in ours] == expected["labels"][order].tolist()
    scores = [found[i].score for i in ours]
    np.testing.assert_allclose(scores, expected["scores"][order], rtol=0, atol=1e-6)
    np.testing.assert_array_equal([found[i].box for i in ours], expected["boxes"][order])
    np.testing.assert_array_equal([found[i].mask for i in ours], inside[order])


def test_what_is_left_out_scores_too_low(golden):
    said = (torch.from_numpy(golden[0][name]) for name in ("classes", "masks"))
    classes, masks = said
    every = instances(classes, masks, SEEN, SCALED, ORIGINAL, 0.0)
    likely = instances(classes, masks, SEEN, SCALED, ORIGINAL, 0.3)
    kept = [each.score for each in every if each.score > 0.3]
    assert 0 < len(likely) < len(every)
    assert [each.score for each in likely if each.score > 0.3] == pytest.approx(kept)


def test_a_box_ends_behind_its_masks_last_pixel():
    mask = np.zeros((6, 8), bool)
    assert tight_box(mask) == (0, 0, 0, 0)
    mask[2, 3] = mask[4, 5] = True
    assert tight_box(mask) == (3, 2, 6, 5)


def test_every_tensor_of_the_published_shape_has_its_place():
    about = json.loads((GOLDEN / "mask2former_names.json").read_text())["names"]
    assert len(about) == 649
    published = {
        name: torch.empty([int(side) for side in shape.split("x")], device="meta")
        for name, shape in about.items()
    }
    tensors = respelled(published)
    assert tensors == respelled({older(name): tensor for name, tensor in published.items()})
    shape = shape_of(tensors)
    assert (shape["num_queries"], shape["decoder_layers"], shape["classes"]) == (100, 10, 80)
    assert shape["swin"]["depths"] == [2, 2, 18, 2]
    with torch.device("meta"):
        wanted = blank_network(shape).state_dict()
    found = converted(tensors, wanted)
    assert all(found[name].shape == wanted[name].shape for name in found)
    assert all(UNUSED.fullmatch(name) for name in wanted.keys() - found.keys())


def test_a_missing_and_an_unknown_tensor_are_named(state, tmp_path):
    spoilt = dict(state)
    del spoilt["panoptic_head.level_embed.weight"]
    spoilt["panoptic_head.mystery"] = torch.zeros(1)
    file = tmp_path / "spoilt.pth"
    torch.save({"state_dict": spoilt}, file)
    with pytest.raises(ModelError, match="1 tensors are missing and 1 have no place") as error:
        load_network(file)
    assert error.value.details == (
        "missing: panoptic_head.level_embed.weight",
        "no place for: panoptic_head.mystery",
    )


def test_another_kind_of_model_is_refused(tmp_path):
    file = tmp_path / "resnet.pth"
    torch.save({"state_dict": {"backbone.conv1.weight": torch.zeros(1)}}, file)
    with pytest.raises(ModelError, match="not a Mask2Former with a Swin backbone"):
        load_network(file)


def test_a_panoptic_checkpoint_is_refused(state, tmp_path):
    panoptic = dict(state)
    for part, shape in (("weight", (134, 32)), ("bias", (134,))):
        panoptic[f"panoptic_head.cls_embed.{part}"] = torch.zeros(shape)
    file = tmp_path / "panoptic.pth"
    torch.save({"state_dict": panoptic}, file)
    with pytest.raises(ModelError, match="knows 133 classes"):
        load_network(file)


def test_a_file_that_is_not_what_its_name_says_is_refused(checkpoint, tmp_path):
    named = tmp_path / "mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco_20220504_001756-743b7d99.pth"
    named.write_bytes(checkpoint.read_bytes())
    with pytest.raises(ModelError, match="does not begin with 743b7d99"):
        load_network(named)


def test_without_weights_one_sentence_says_what_is_missing(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(MissingWeights) as error:
        detectors["mask2former"]()
    assert error.value.message.startswith(
        "the weights of `mask2former` and `openai/clip-vit-large-patch14` are not on this machine"
    )
    assert "https://download.openmmlab.com/mmdetection/v2.0/mask2former" in error.value.hint


def named(network, least_score=0.3):
    return Mask2Former("fingerprint", network, None, "fp32", 2, least_score)


def test_a_batch_finds_what_single_pictures_show(network):
    detector = named(network)
    pictures = [Image.fromarray(drawn_picture(*size)) for size in ((200, 9), (200, 6), (200, 9))]
    pictures[2] = pictures[2].transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert isinstance(detector, Detector)
    assert isinstance(detector, BatchDetector)
    together = detector.detect_batch(pictures)
    for picture, found in zip(pictures, together, strict=True):
        alone = detector.detect(picture)
        assert found
        assert [each.label for each in found] == [each.label for each in alone]
        assert all(each.mask.shape == picture.size[::-1] for each in found)
        np.testing.assert_allclose(
            [each.score for each in found], [each.score for each in alone], atol=1e-5
        )


def test_classes_have_the_names_that_geneval_gives_them():
    text = "".join(f"{name}\n" for name in OBJECTS)
    assert hashlib.sha256(text.encode()).hexdigest().startswith("608f6a0e")


class Words:
    """A tokenizer that knows a few texts by heart."""

    def __init__(self, tokens):
        self.tokens = tokens

    def __call__(self, texts, padding, return_tensors):
        rows = [self.tokens[text] for text in texts]
        ids = torch.full((len(rows), max(map(len, rows))), 49407)
        for row, known in zip(ids, rows, strict=True):
            row[: len(known)] = torch.tensor(known)
        mask = torch.tensor([[i < len(row) for i in range(ids.shape[1])] for row in rows])
        return type("Tokens", (), {"input_ids": ids, "attention_mask": mask.long()})


@pytest.fixture(scope="module")
def colours():
    return json.loads((GOLDEN / "geneval_colours.json").read_text())


def small_clip(activation="quick_gelu"):
    seeing = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2}
    reading = {"hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 2}
    config = CLIPConfig(
        text_config=reading
        | {
            "num_attention_heads": 2,
            "hidden_act": activation,
            "bos_token_id": 49406,
            "eos_token_id": 49407,
            "vocab_size": 49408,
        },
        vision_config=seeing
        | {"num_attention_heads": 2, "image_size": 32, "patch_size": 8, "hidden_act": activation},
        projection_dim=16,
    )
    return CLIPModel(config).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def namer(colours):
    model = small_clip()
    known = {
        name: torch.from_numpy(np.asarray(draw(name, tensor.shape), np.float32))
        for name, tensor in model.state_dict().items()
        if name != "logit_scale"
    }
    model.load_state_dict(known, strict=False)
    return ColourNamer(model, Words(colours["tokens"]))


def ellipse(box, width, height):
    y, x = np.mgrid[:height, :width]
    left, top, right, bottom = box
    across = (2 * x - left - right + 1) ** 2 * (bottom - top) ** 2
    down = (2 * y - top - bottom + 1) ** 2 * (right - left) ** 2
    return across + down <= (right - left) ** 2 * (bottom - top) ** 2


@pytest.mark.parametrize("name", ["computer mouse", "skis"])
def test_colours_are_as_likely_as_for_the_public_code(namer, colours, name):
    picture = Image.fromarray(drawn_picture(90, 70))
    for box, cosines, colour in zip(
        colours["boxes"], colours["cosines"][name], colours["colours"][name], strict=True
    ):
        detection = Detection(name, 0.9, tuple(map(float, box)), ellipse(box, 90, 70))
        np.testing.assert_allclose(namer.likenesses(picture, detection), cosines, atol=1e-5)
        assert namer.colour(picture, detection) == colour
    assert np.std(colours["cosines"][name]) > 0.01


def test_the_likeliest_colour_is_named(namer, monkeypatch):
    for place, colour in enumerate(COLOURS):
        likely = np.eye(len(COLOURS), dtype=np.float32)[place]
        monkeypatch.setattr(ColourNamer, "likenesses", lambda *_, likely=likely: likely)
        assert namer.colour(None, None) == colour


def test_around_the_mask_all_is_grey_and_outside_the_picture_black():
    picture = Image.new("RGB", (4, 3), "red")
    mask = np.zeros((3, 4), bool)
    mask[1, 1] = True
    cut = np.asarray(cut_out(picture, Detection("cup", 0.9, (1.0, 1.0, 6.0, 2.0), mask)))
    assert cut.tolist() == [[[255, 0, 0], [0x99] * 3, [0x99] * 3, [0] * 3, [0] * 3]]
    plain = np.asarray(cut_out(picture, Detection("cup", 0.9, (3.0, 2.0, 5.0, 3.0))))
    assert plain.tolist() == [[[255, 0, 0], [0, 0, 0]]]


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (300, 40), (224, 224)])
def test_crops_of_any_shape_become_square(size):
    assert prepared(Image.new("RGB", size, "red"), 32).shape == (3, 32, 32)


def test_a_clip_without_quickgelu_is_refused():
    check_activation(small_clip(), "folder")
    with pytest.raises(ModelError, match=r"has gelu where OpenAI's has quick_gelu"):
        check_activation(small_clip("gelu"), "folder")
