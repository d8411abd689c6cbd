import numpy as np
from PIL import Image

from vipo_cli.evaluation.evaluate import evaluate
from vipo_cli.evaluation.plan import Options
from vipo_cli.reporting.read import read_evaluation
from vipo_cli.run import finish


def test_a_lora_of_a_real_pipeline_is_evaluated_against_its_base(tmp_path, tiny):
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import LoraConfig, get_peft_model_state_dict
    from safetensors import safe_open
    from safetensors.torch import save_file

    from vipo_cli.models import find_model, load_pipeline

    pipeline = load_pipeline(find_model(str(tiny)))
    pipeline.unet.add_adapter(
        LoraConfig(r=4, target_modules=["to_q", "to_v"], init_lora_weights=False)
    )
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(pipeline.unet))
    run = tmp_path / "runs" / "lora"
    folder = run / "checkpoints" / "step-000003"
    pipeline.save_lora_weights(folder, unet_lora_layers=layers)
    file = folder / "pytorch_lora_weights.safetensors"
    with safe_open(file, "pt") as written:
        tensors = {name: written.get_tensor(name) * 20 for name in written.keys()}  # noqa: SIM118
        header = dict(written.metadata() or {})
    save_file(tensors, file, metadata=header | {"vipo.base": str(tiny)})
    (run / "recipe.yaml").write_text(f"model:\n  name: {tiny}\n  train: lora\n")

    options = Options("shapes", images_per_prompt=1, prompts=1, steps=2, guidance=2.0)
    found = finish(evaluate("geneval", str(run), options))
    assert found.results["n_samples"]["scored"] == 6
    assert set(found.comparison["differences"]) == {"overall", *found.results["subtasks"]}
    one, other = (read_evaluation(where).media for where in (found.out, found.baseline))
    changed = [
        np.any(np.asarray(Image.open(one[key])) != np.asarray(Image.open(other[key])))
        for key in one
    ]
    assert len(changed) == 6
    assert all(changed)  # the LoRA was really loaded
