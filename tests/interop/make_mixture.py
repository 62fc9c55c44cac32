"""Makes small mixtures of experts with random weights, as transformers saves
them.

    make_mixture.py mixtral|llama4|qwen3_5_moe OUT

Llama-4's experts are stacks [experts, in, out], Qwen3.5's [experts, out, in],
Mixtral's one weight for each linear. OUT gets, beside the model,
calibration.safetensors for Mixtral's inputs. Weights are float32, so that
scales are, too, and what an engine decodes can be compared closely.
"""
import json
import pathlib
import sys

import torch
from safetensors.torch import save_file

SIZES = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 512,
         "max_position_embeddings": 256}
EXPERTS, INNER = 4, 256


def make_model(family):
    import transformers as t
    if family == "mixtral":
        return t.MixtralForCausalLM(t.MixtralConfig(
            **SIZES, intermediate_size=INNER, num_local_experts=EXPERTS,
            num_experts_per_tok=2, bos_token_id=0, eos_token_id=1))
    if family == "llama4":
        return t.Llama4ForCausalLM(t.Llama4TextConfig(
            **SIZES, intermediate_size=INNER, intermediate_size_mlp=INNER,
            num_local_experts=EXPERTS, num_experts_per_tok=1, pad_token_id=0,
            bos_token_id=1, eos_token_id=2))
    assert family == "qwen3_5_moe", family
    return t.Qwen3_5MoeForCausalLM(t.Qwen3_5MoeTextConfig(
        **SIZES, moe_intermediate_size=INNER, num_experts=EXPERTS,
        shared_expert_intermediate_size=128, num_experts_per_tok=2,
        linear_num_key_heads=4, linear_num_value_heads=4,
        linear_key_head_dim=32, linear_value_head_dim=32,
        layer_types=["linear_attention", "full_attention"]))


def write_calibration(path):
    """Inputs of every linear of a block of the Mixtral above."""
    generator = torch.Generator().manual_seed(2)
    tensors, inputs = {}, {}

    def add(modules, size):
        values = torch.randn(200, size, generator=generator)
        values[:, ::9] *= 10
        tensors[modules[0]], inputs[modules[0]] = values, modules

    for layer in range(SIZES["num_hidden_layers"]):
        block = f"model.layers.{layer}."
        add([f"{block}self_attn.{p}_proj" for p in "qkv"], SIZES["hidden_size"])
        add([block + "self_attn.o_proj"], SIZES["hidden_size"])
        for expert in range(EXPERTS):
            base = f"{block}block_sparse_moe.experts.{expert}."
            add([base + "w1", base + "w3"], SIZES["hidden_size"])
            add([base + "w2"], INNER)
    save_file(tensors, path, metadata={"inputs": json.dumps(inputs)})


def main(family, out):
    torch.manual_seed(1)
    model = make_model(family)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.08)
    out = pathlib.Path(out)
    # Qwen3.5 as it is published: its class would save single experts.
    model.save_pretrained(out, save_original_format=family != "qwen3_5_moe")
    if family == "mixtral":
        write_calibration(out / "calibration.safetensors")


if __name__ == "__main__":
    main(*sys.argv[1:])
