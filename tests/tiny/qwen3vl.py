"""A Qwen3-VL with random weights that answers in single bytes, in the layout of the hub."""

from tests.tiny import qwen2vl


def build(folder):
    """Write one whose first layers are shown the picture again, as in the published ones."""
    import torch
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    qwen2vl.build(folder)
    first = 256
    config = Qwen3VLConfig(
        vision_start_token_id=first + 3,
        vision_end_token_id=first + 4,
        image_token_id=first + 6,
        video_token_id=first + 7,
        text_config={
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "vocab_size": 320,
            "bos_token_id": first,
            "eos_token_id": first + 2,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [2, 3, 3],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "patch_size": 14,
            "out_hidden_size": 64,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        },
    )
    torch.manual_seed(0)
    model = Qwen3VLForConditionalGeneration(config)
    for weights in model.parameters():
        weights.data.mul_(4)
    model.save_pretrained(folder)
    return folder
