"""MMDetection's Mask2Former checkpoints in the names, the order and the shapes of transformers.

MMDetection 2 and 3 spell some names differently; both become those of 3 first. Which tensor goes
where is then asked of the live transformers module, whose own names differ between versions.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from vipo_cli.errors import ModelError

Tensors = Mapping[str, Any]

SPELLINGS = (
    (r"(pixel_decoder\.encoder\.layers\.\d+\.)attentions\.0\.", r"\1self_attn."),
    (r"(transformer_decoder\.layers\.\d+\.)attentions\.0\.", r"\1cross_attn."),
    (r"(transformer_decoder\.layers\.\d+\.)attentions\.1\.", r"\1self_attn."),
    (r"(coder\.layers\.\d+\.)ffns\.0\.", r"\1ffn."),
)
"""What MMDetection 2 calls something, and what version 3 calls it."""

DERIVED = re.compile(r"backbone\..*\.relative_position_index")
"""What both packages compute from the size of a window."""
UNUSED = re.compile(r"model\.pixel_level_module\.encoder\.(swin\.)?layernorm\..*")
"""Swin's norm after its last block: Mask2Former has one of its own for each stage."""

HEADS, POINTS, LEVELS = 8, 4, 3
"""Of the attention in both decoders: no tensor's shape tells them apart."""

SWIN = {
    r"embeddings\.patch_embeddings\.projection\.": "patch_embed.projection.",
    r"embeddings\.norm\.": "patch_embed.norm.",
    r"encoder\.layers\.(\d+)\.downsample\.(norm|reduction)\.": r"stages.\1.downsample.\2.",
    r"hidden_states_norms\.stage1\.": "norm0.",
    r"hidden_states_norms\.stage2\.": "norm1.",
    r"hidden_states_norms\.stage3\.": "norm2.",
    r"hidden_states_norms\.stage4\.": "norm3.",
}
BLOCK = {
    r"layernorm_before\.": "norm1.",
    r"layernorm_after\.": "norm2.",
    r"attention\.(?:self\.query|q_proj)\.": "attn.w_msa.qkv[0].",
    r"attention\.(?:self\.key|k_proj)\.": "attn.w_msa.qkv[1].",
    r"attention\.(?:self\.value|v_proj)\.": "attn.w_msa.qkv[2].",
    r"attention\.(?:output\.dense|o_proj)\.": "attn.w_msa.proj.",
    r"attention\..*relative_position_bias_table": "attn.w_msa.relative_position_bias_table",
    r"(?:mlp\.fc1|intermediate\.dense)\.": "ffn.layers.0.0.",
    r"(?:mlp\.fc2|output\.dense)\.": "ffn.layers.1.",
}
PIXEL_DECODER = {
    r"level_embed": "level_encoding.weight",
    r"input_projections\.(\d)\.0\.": r"input_convs.\1.conv.",
    r"input_projections\.(\d)\.1\.": r"input_convs.\1.gn.",
    r"adapter_1\.0\.": "lateral_convs.0.conv.",
    r"adapter_1\.1\.": "lateral_convs.0.gn.",
    r"layer_1\.0\.": "output_convs.0.conv.",
    r"layer_1\.1\.": "output_convs.0.gn.",
    r"mask_projection\.": "mask_feature.",
}
PIXEL_DECODER_LAYER = {
    r"self_attn\.": "self_attn.",
    r"self_attn_layer_norm\.": "norms.0.",
    r"final_layer_norm\.": "norms.1.",
    r"(?:mlp\.)?fc1\.": "ffn.layers.0.0.",
    r"(?:mlp\.)?fc2\.": "ffn.layers.1.",
}
QUERIES = {
    r"queries_embedder\.": "query_embed.",
    r"queries_features\.": "query_feat.",
    r"level_embed\.": "level_embed.",
    r"decoder\.layernorm\.": "transformer_decoder.post_norm.",
    r"decoder\.mask_predictor\.mask_embedder\.0\.0\.": "mask_embed.0.",
    r"decoder\.mask_predictor\.mask_embedder\.1\.0\.": "mask_embed.2.",
    r"decoder\.mask_predictor\.mask_embedder\.2\.0\.": "mask_embed.4.",
}
DECODER_LAYER = {
    r"cross_attn\.": "cross_attn.attn.",
    r"cross_attn_layer_norm\.": "norms.0.",
    r"self_attn\.q_proj\.": "self_attn.attn.in_proj[0].",
    r"self_attn\.k_proj\.": "self_attn.attn.in_proj[1].",
    r"self_attn\.v_proj\.": "self_attn.attn.in_proj[2].",
    r"self_attn\.o(?:ut)?_proj\.": "self_attn.attn.out_proj.",
    r"self_attn_layer_norm\.": "norms.1.",
    r"final_layer_norm\.": "norms.2.",
    r"(?:mlp\.)?fc1\.": "ffn.layers.0.0.",
    r"(?:mlp\.)?fc2\.": "ffn.layers.1.",
}

PLACES = (
    (r"model\.pixel_level_module\.encoder\.(?:swin\.)?", "backbone.", SWIN),
    (
        r"model\.pixel_level_module\.encoder\.(?:swin\.)?encoder\.layers\.(\d+)\.blocks\.(\d+)\.",
        r"backbone.stages.\1.blocks.\2.",
        BLOCK,
    ),
    (r"model\.pixel_level_module\.decoder\.", "panoptic_head.pixel_decoder.", PIXEL_DECODER),
    (
        r"model\.pixel_level_module\.decoder\.encoder\.layers\.(\d+)\.",
        r"panoptic_head.pixel_decoder.encoder.layers.\1.",
        PIXEL_DECODER_LAYER,
    ),
    (r"model\.transformer_module\.", "panoptic_head.", QUERIES),
    (
        r"model\.transformer_module\.decoder\.layers\.(\d+)\.",
        r"panoptic_head.transformer_decoder.layers.\1.",
        DECODER_LAYER,
    ),
    (r"", "panoptic_head.", {r"classes\.": "cls_embed."}),
)
"""How a name begins in transformers and in MMDetection, and how it goes on.

A number in brackets is the third of a stacked projection that is meant.
"""


def respelled(tensors: Tensors) -> dict[str, Any]:
    """Return a checkpoint's tensors in the spelling of MMDetection 3, without derived ones."""
    found = {}
    for name, tensor in tensors.items():
        for old, new in SPELLINGS:
            name = re.sub(old, new, name)
        if not DERIVED.fullmatch(name):
            found[name] = tensor
    return found


def shape_of(tensors: Tensors) -> dict[str, Any]:
    """Read off respelled tensors how large the model is: arguments of `Mask2FormerConfig`.

    Raises:
        ModelError: they are not of such a model.
    """
    try:
        return _shape(tensors)
    except (KeyError, ZeroDivisionError) as error:
        raise ModelError(
            f"not a Mask2Former with a Swin backbone: there is no `{error.args[0]}`",
            details=[f"{len(tensors)} tensors, such as {', '.join(list(tensors)[:3])}"],
            hint="GenEval's detector is mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco",
        ) from error


def _shape(tensors: Tensors) -> dict[str, Any]:
    def rows(name: str) -> int:
        return int(tensors[name].shape[0])

    backbone, decoder = "backbone.stages.", "panoptic_head.transformer_decoder.layers."
    pixels = "panoptic_head.pixel_decoder."
    stages = range(_count(tensors, backbone))
    blocks = [f"{backbone}{stage}.blocks." for stage in stages]
    bias = "0.attn.w_msa.relative_position_bias_table"
    width = rows("backbone.patch_embed.projection.weight")
    positions = rows(f"{blocks[0]}{bias}")
    swin = {
        "embed_dim": width,
        "patch_size": int(tensors["backbone.patch_embed.projection.weight"].shape[-1]),
        "depths": [_count(tensors, stage) for stage in blocks],
        "num_heads": [int(tensors[f"{stage}{bias}"].shape[1]) for stage in blocks],
        "window_size": (math.isqrt(positions) + 1) // 2,
        "mlp_ratio": rows(f"{blocks[0]}0.ffn.layers.0.0.weight") / width,
    }
    return {
        "swin": swin,
        "classes": rows("panoptic_head.cls_embed.weight") - 1,
        "hidden_dim": int(tensors["panoptic_head.query_feat.weight"].shape[1]),
        "num_queries": rows("panoptic_head.query_feat.weight"),
        "feature_size": rows(f"{pixels}lateral_convs.0.conv.weight"),
        "mask_feature_size": rows(f"{pixels}mask_feature.weight"),
        "encoder_layers": _count(tensors, f"{pixels}encoder.layers."),
        "encoder_feedforward_dim": rows(f"{pixels}encoder.layers.0.ffn.layers.0.0.weight"),
        "decoder_layers": _count(tensors, decoder) + 1,
        "dim_feedforward": rows(f"{decoder}0.ffn.layers.0.0.weight"),
    }


def _count(tensors: Tensors, prefix: str) -> int:
    """Return how many layers there are of those that are numbered after a prefix."""
    inside = (name.removeprefix(prefix) for name in tensors if name.startswith(prefix))
    return len({rest.partition(".")[0] for rest in inside})


def converted(tensors: Tensors, wanted: Iterable[str]) -> dict[str, Any]:
    """Return respelled tensors by their names in a live transformers module.

    Args:
        tensors: of a checkpoint in the spelling of MMDetection 3.
        wanted: the names in the module's state dict.

    Raises:
        ModelError: a tensor is missing, or there is one that nothing takes.
    """
    found, taken, missing = {}, set(), []
    for name in wanted:
        if UNUSED.fullmatch(name):
            continue
        source, part = _source(name)
        if source not in tensors:
            missing.append(source)
            continue
        taken.add(source)
        tensor = tensors[source] if part is None else tensors[source].chunk(3)[part]
        found[name] = _regrouped(tensor) if ".downsample." in source else tensor
    left_over = [name for name in tensors if name not in taken]
    if missing or left_over:
        raise ModelError(
            "the checkpoint does not fit the detector: "
            f"{len(missing)} tensors are missing and {len(left_over)} have no place",
            details=[
                *(f"missing: {name}" for name in missing[:5]),
                *(f"no place for: {name}" for name in left_over[:5]),
            ],
            hint="GenEval's detector is mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco, as "
            "MMDetection 2 or 3 saved it",
        )
    return found


def _source(name: str) -> tuple[str, int | None]:
    """Return what a tensor of transformers is in MMDetection, and which third of that."""
    for start, place, rest in PLACES:
        for tail, new in rest.items():
            head = re.match(start, name)
            if head and (match := re.match(tail, name[head.end() :])):
                source = head.expand(place) + match.expand(new) + name[head.end() + match.end() :]
                break
        else:
            continue
        break
    else:
        return name, None
    part = re.search(r"\[(\d)\]\.", source)
    if part is None:
        return source, None
    # torch's own attention joins its stacked projections' names with an underscore
    joint = "_" if source[: part.start()].endswith("in_proj") else "."
    return source[: part.start()] + joint + source[part.end() :], int(part[1])


def _regrouped(tensor: Any) -> Any:
    """Bring what merges four patches from `nn.Unfold`'s order, channel by channel, to Swin's.

    There the four follow each other patch by patch: top left, bottom left, top right, bottom right.
    """
    *rows, columns = tensor.shape
    by_channel = tensor.reshape(*rows, columns // 4, 2, 2)
    return by_channel.permute(*range(len(rows)), -1, -2, -3).reshape(tensor.shape)
