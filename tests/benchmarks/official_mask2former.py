"""Run MMDetection's own Mask2Former on drawn weights; writes what the tests compare with.

    python tests/benchmarks/official_mask2former.py

It needs mmdet 3.3.0, mmcv-lite 2.1.0, mmengine, OpenCV and PyTorch, in an environment of their own.
Its compiled operations are stubbed: on a CPU its own plain PyTorch attention is used anyway.
"""

import hashlib
import importlib.machinery
import json
import sys
import types
from pathlib import Path

import numpy as np
import torch
from random_mask2former import draw, drawn_picture

CONFIG = ".mim/configs/mask2former/mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco.py"
GOLDEN = Path(__file__).parent / "golden"
SEEN, SCALED, ORIGINAL = (96, 128), (90, 120), (45, 60)
RESIZED = ((40, 30, 100, 75), (100, 75, 40, 30), (64, 48, 32, 24), (7, 5, 7, 5), (1, 9, 13, 4))
PREPARED = ((30, 200), (300, 9))


def stub_compiled_operations():
    def attribute(name):
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_: None

    module = types.ModuleType("mmcv._ext")
    module.__spec__ = importlib.machinery.ModuleSpec("mmcv._ext", None)
    module.__getattr__ = attribute
    sys.modules["mmcv._ext"] = module


def build(tiny):
    import mmdet
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules
    from mmengine.config import Config

    register_all_modules()
    model = Config.fromfile(Path(mmdet.__file__).parent / CONFIG).model
    model.backbone.init_cfg = None
    model.data_preprocessor.batch_augments = None
    if tiny:
        shrink(model)
    built = MODELS.build(model).eval()
    state = {
        name: tensor if "position_index" in name else torch.from_numpy(draw(name, tensor.shape))
        for name, tensor in built.state_dict().items()
    }
    built.load_state_dict(state)
    return built


def shrink(model):
    model.backbone.update(embed_dims=8, depths=[1, 1, 2, 1], num_heads=[1, 2, 2, 4])
    head = model.panoptic_head
    head.update(in_channels=[8, 16, 32, 64], feat_channels=32, out_channels=32, num_queries=20)
    head.pixel_decoder.encoder.num_layers = 2
    head.transformer_decoder.num_layers = 3
    for layer, width in (
        (head.pixel_decoder.encoder.layer_cfg, 48),
        (head.transformer_decoder.layer_cfg, 40),
    ):
        layer.self_attn_cfg.embed_dims = layer.ffn_cfg.embed_dims = 32
        layer.ffn_cfg.feedforward_channels = width
        if "cross_attn_cfg" in layer:
            layer.cross_attn_cfg.embed_dims = 32
    head.pixel_decoder.positional_encoding.num_feats = 16
    head.positional_encoding.num_feats = 16


@torch.no_grad()
def look(model, pixels, scaled, original):
    from mmdet.structures import DetDataSample

    seen = tuple(pixels.shape[-2:])
    about = DetDataSample(
        metainfo={"img_shape": scaled, "ori_shape": original, "batch_input_shape": seen}
    )
    features = model.extract_feat(torch.from_numpy(pixels)[None])
    classes, masks = model.panoptic_head(features, [about])
    predicted = model.panoptic_head.predict(features, [about])
    fused = model.panoptic_fusion_head.predict(*predicted, [about], rescale=True)
    found = fused[0]["ins_results"]
    return {
        "classes": classes[-1][0].numpy(),
        "masks": masks[-1][0].numpy(),
        "labels": found.labels.numpy(),
        "scores": found.scores.numpy(),
        "boxes": found.bboxes.numpy(),
        "inside": np.packbits(found.masks.numpy()),
    }


def prepare(rgb):
    """Do what the pipeline of MMDetection 2 does: resize, pad with 128, normalise."""
    import mmcv

    mean = np.array([123.675, 116.28, 103.53], np.float32)
    spread = np.array([58.395, 57.12, 57.375], np.float32)
    scaled = mmcv.imrescale(np.ascontiguousarray(rgb[..., ::-1]), (1333, 800), backend="cv2")
    padded = mmcv.impad_to_multiple(scaled, 32, pad_val=(128, 128, 128))
    return np.ascontiguousarray(mmcv.imnormalize(padded, mean, spread, True).transpose(2, 0, 1))


def main():
    stub_compiled_operations()
    import cv2
    import mmcv
    import mmdet
    from safetensors.numpy import save_file

    versions = f"mmdet {mmdet.__version__}, mmcv {mmcv.__version__}, OpenCV {cv2.__version__}"
    tiny = build(tiny=True)
    names = {name: list(tensor.shape) for name, tensor in tiny.state_dict().items()}
    pixels = draw("pixels", (3, *SEEN))
    save_file(
        look(tiny, pixels, SCALED, ORIGINAL),
        GOLDEN / "mask2former_tiny.safetensors",
        {"from": f"{versions}, torch {torch.__version__}", "names": json.dumps(names)},
    )
    full = build(tiny=False).state_dict()
    shapes = {name: "x".join(map(str, tensor.shape)) for name, tensor in full.items()}
    digests = {
        "from": versions,
        "resized": {
            f"{w}x{h} to {W}x{H}": digest(cv2.resize(drawn_picture(w, h), (W, H)))
            for w, h, W, H in RESIZED
        },
        "prepared": {f"{w}x{h}": digest(prepare(drawn_picture(w, h))) for w, h in PREPARED},
    }
    write("mask2former_names.json", {"from": versions, "names": shapes})
    write("mask2former_pixels.json", digests)


def digest(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def write(name, value):
    (GOLDEN / name).write_text(json.dumps(value, indent=1) + "\n")


if __name__ == "__main__":
    main()
