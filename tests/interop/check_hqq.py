"""Loads hqq's encoded state dicts with hqq on a CPU and compares them with the
dequantized checkpoints: every weight, and the logits.

    check_hqq.py QUANTIZED...

hqq has no loader for a directory of safetensors, and transformers none for
hqq's tensors: the model is transformers' with every quantized linear replaced
by an HQQLinear, which then loads its own state dict.
"""
import torch
from hqq.core.quantize import HQQLinear
from transformers import AutoConfig, AutoModelForCausalLM

import agreement

DTYPE = torch.bfloat16


def put_layers(folder, model):
    """Replaces the quantized linears; their names, and the tensors left."""
    tensors = agreement.load_tensors(folder)
    modules = [name[:-len(".W_q")] for name in tensors if name.endswith(".W_q")]
    for name in modules:
        state = {key[len(name) + 1:]: tensors.pop(key) for key in list(tensors)
                 if key.startswith(name + ".")}
        layer = HQQLinear(None, None, compute_dtype=DTYPE, device="cpu")
        layer.load_state_dict(state)
        parent, _, last = name.rpartition(".")
        assert type(getattr(model.get_submodule(parent), last)).__name__ == (
            "Linear"), name
        setattr(model.get_submodule(parent), last, layer)
    return modules, tensors


def check(folder):
    config = AutoConfig.from_pretrained(folder)
    assert config.quantization_config["quant_method"] == "hqq"
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=DTYPE)
    modules, others = put_layers(folder, model)
    ordinary = set(model.state_dict()) - {
        key for key in model.state_dict()
        if any(key.startswith(name + ".") for name in modules)}
    if model.config.tie_word_embeddings:
        ordinary.discard("lm_head.weight")
    assert ordinary == set(others), ordinary ^ set(others)
    for name, value in others.items():
        model.get_parameter(name).data.copy_(value)
    want = agreement.load_tensors(agreement.float_folder(folder))
    for name in modules:
        got = model.get_submodule(name).dequantize()
        assert torch.equal(got, want[name + ".weight"].to(got.dtype)), name
    got = agreement.logits_of(model)
    return agreement.judge(folder, len(modules), got, 0.01)


if __name__ == "__main__":
    agreement.check_all(check)
