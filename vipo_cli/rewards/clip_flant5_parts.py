"""The parts of CLIP-FlanT5, built from the tensors of a checkpoint by their names there.

The checkpoint's config describes its T5; the sizes of CLIP and of the layers between the two are
read off their tensors.
"""

from collections.abc import Mapping
from typing import Any

from vipo_cli.errors import ModelError
from vipo_cli.rewards.open_clip import count_layers
from vipo_cli.rewards.options import filled, required

HEAD = 64
"""Width of an attention head of CLIP, which no tensor's shape tells."""
BUILT = {
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_select_layer": -2,
    "mm_vision_select_feature": "patch",
}
"""What the config of a CLIP-FlanT5 says beside what it says of T5."""
LOOK, PROJECT = "vision_tower.vision_tower.vision_model.", "mm_projector."
SHARED = (
    "shared.weight",
    "embed_tokens.weight",
    "encoder.embed_tokens.weight",
    "decoder.embed_tokens.weight",
)
"""Names of one and the same tensor; a checkpoint has all or some of them."""
IGNORED = (
    f"{LOOK}embeddings.position_ids",  # stored by older releases of transformers
    "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",  # likewise, of T5
)


def build(
    described: Mapping[str, Any], tensors: Mapping[str, Any], where: str
) -> tuple[Any, Any, Any]:
    """Build what looks, what projects and what reads from the tensors of a checkpoint.

    Raises:
        ModelError: a tensor is missing, left over, or of another shape, or the model is built in
            another way.
    """
    if other := [name for name, value in BUILT.items() if described.get(name, value) != value]:
        raise ModelError(
            f"`{where}` is built in another way than the published CLIP-FlanT5",
            details=[f"{name} is {described[name]}, not {BUILT[name]}" for name in other],
        )
    left = {name: each for name, each in tensors.items() if name not in IGNORED}
    look = _taken(left, LOOK)
    project = _taken(left, PROJECT)
    return (
        build_look(look, where),
        build_project(project, where),
        build_read(described, unshared(left, where), where),
    )


def _taken(tensors: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Take what begins with a prefix out of some tensors, and return it without the prefix."""
    names = [name for name in tensors if name.startswith(prefix)]
    return {name.removeprefix(prefix): tensors.pop(name) for name in names}


def unshared(tensors: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return tensors with the one that has several names under those that T5 looks for.

    Raises:
        ModelError: what should be one tensor is several.
    """
    import torch

    found = {name: each for name, each in tensors.items() if name not in SHARED}
    same = [tensors[name] for name in SHARED if name in tensors]
    if not all(torch.equal(same[0], each) for each in same[1:]):
        raise ModelError(
            f"`{where}` holds other weights: its words differ between the parts that read and tell",
            hint="see that it is the published file of this very model",
        )
    names = [name for name in SHARED if name != "embed_tokens.weight"]
    return found | (dict.fromkeys(names, same[0]) if same else {})


def build_look(tensors: Mapping[str, Any], where: str) -> Any:
    """Build CLIP up to the last layer but one, whose states are what is seen.

    Raises:
        ModelError: a tensor is missing, left over, or of another shape.
    """
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModel

    places, patches, inner = required(
        tensors,
        (
            "embeddings.position_embedding.weight",
            "embeddings.patch_embedding.weight",
            "encoder.layers.0.mlp.fc1.weight",
        ),
        where,
    )
    width, patch = places.shape[1], patches.shape[2]
    config = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=len(inner),
        num_hidden_layers=count_layers(tensors, "encoder.layers."),
        num_attention_heads=max(1, width // HEAD),
        image_size=round((len(places) - 1) ** 0.5) * patch,
        patch_size=patch,
        hidden_act="quick_gelu",
    )
    with torch.device("meta"):
        model: Any = CLIPVisionModel(config)
    look = filled(getattr(model, "vision_model", model), tensors, where)
    look.encoder.layers = look.encoder.layers[:-1]
    return look


def build_project(tensors: Mapping[str, Any], where: str) -> Any:
    """Build the two layers between CLIP and T5.

    Raises:
        ModelError: a tensor is missing, left over, or of another shape.
    """
    import torch
    from torch import nn

    first, second = required(tensors, ("0.weight", "2.weight"), where)
    with torch.device("meta"):
        layers = nn.Linear(*reversed(first.shape)), nn.GELU(), nn.Linear(*reversed(second.shape))
    return filled(nn.Sequential(*layers), tensors, where)


def build_read(described: Mapping[str, Any], tensors: Mapping[str, Any], where: str) -> Any:
    """Build a T5 as a config describes it.

    Raises:
        ModelError: a tensor is missing, left over, or of another shape.
    """
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from transformers import T5Config, T5ForConditionalGeneration

    own = {name: value for name, value in described.items() if name != "model_type"}
    own.setdefault("decoder_start_token_id", own.get("pad_token_id", 0))
    try:
        with torch.device("meta"):
            model = T5ForConditionalGeneration(T5Config(**own))
    except (StrictDataclassError, ValueError, TypeError, KeyError) as error:
        raise ModelError(f"`{where}` describes no T5: {str(error).splitlines()[0]}") from error
    read = filled(model, tensors, where)
    read.set_input_embeddings(read.shared)  # which would else be kept three times
    return read
