#!/usr/bin/env python3
"""Writes tiny-llama-calibration.safetensors: inputs of every linear of
tests/data/tiny-llama for a few tokens of a text.

    make_calibration.py TEXT [OUT]      (needs torch, transformers, safetensors)

Tensor NAME, F16 [tokens, inputs], for each distinct input; metadata `inputs`
says which modules read it. The tokens are spread over the whole text: two of
each window of 256. So few that the file stays small: fewer than inputs.
"""
import json
import os
import sys

import safetensors.torch
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
MODEL = os.path.join(HERE, "tiny-llama")
WINDOW, WINDOWS, PLACES = 256, 60, (100, 240)
READERS = {"self_attn.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
           "self_attn.o": ("self_attn.o_proj",),
           "mlp.gate_up": ("mlp.gate_proj", "mlp.up_proj"),
           "mlp.down": ("mlp.down_proj",)}


def windows(text):
    ids = AutoTokenizer.from_pretrained(MODEL)(text)["input_ids"]
    step = (len(ids) - WINDOW) // (WINDOWS - 1)
    return torch.tensor([ids[i * step:i * step + WINDOW] for i in range(WINDOWS)])


@torch.inference_mode()
def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        tokens = windows(file.read())
    out = sys.argv[2] if len(sys.argv) > 2 else os.path.join(HERE, "tiny-llama-calibration.safetensors")
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    inputs, kept = {}, {}
    for layer in range(model.config.num_hidden_layers):
        for name, readers in READERS.items():
            site = f"model.layers.{layer}.{name}"
            inputs[site] = [f"model.layers.{layer}.{reader}" for reader in readers]

            def keep(module, arguments, site=site):
                kept[site] = arguments[0][:, PLACES, :].flatten(0, 1).half().contiguous()
            model.get_submodule(inputs[site][0]).register_forward_pre_hook(keep)
    model.model(input_ids=tokens, use_cache=False)
    safetensors.torch.save_file(kept, out, metadata={"inputs": json.dumps(inputs)})


if __name__ == "__main__":
    main()
