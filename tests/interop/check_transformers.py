"""Loads a quantized checkpoint with transformers on a CPU and compares it with
the dequantized one.

    check_transformers.py QUANTIZED DEQUANTIZED [--tolerance R]

Exit code 1 when the logits differ by more than R (relative norm; half-precision
kernels give about 0.01, a wrong nibble order or scale about 1), when a linear
that should be quantized is not, or when a name is missing or unexpected.
"""
import argparse
import json
import pathlib
import sys

import torch
from transformers import AutoModelForCausalLM


def quantized_modules(folder):
    names = set()
    for file in pathlib.Path(folder).glob("*.safetensors"):
        head = file.read_bytes()
        size = int.from_bytes(head[:8], "little")
        names |= set(json.loads(head[8:8 + size])) - {"__metadata__"}
    return {n.rsplit(".weight", 1)[0] for n in names
            if n.endswith((".weight.absmax", ".weight_packed"))}


def logits(folder, dtype):
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, device_map="cpu", output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info.get(kind), f"{kind}: {list(info[kind])[:5]}"
    ids = (torch.arange(96).reshape(4, 24) * 37) % model.config.vocab_size
    model.train(False)
    with torch.no_grad():
        return model, model(input_ids=ids).logits.float()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("quantized")
    parser.add_argument("dequantized")
    parser.add_argument("--tolerance", type=float, default=0.02)
    args = parser.parse_args()

    model, got = logits(args.quantized, torch.bfloat16)
    kinds = {name: type(module).__name__
             for name, module in model.named_modules()}
    wanted = quantized_modules(args.quantized)
    assert wanted, "the checkpoint has no quantized module"
    config = json.loads(
        (pathlib.Path(args.quantized) / "config.json").read_text())
    if config["quantization_config"]["quant_method"] == "bitsandbytes":
        linear4 = {n for n, k in kinds.items() if k == "Linear4bit"}
        assert linear4 == wanted, f"engine and file differ: {linear4 ^ wanted}"
    _, want = logits(args.dequantized, torch.bfloat16)
    difference = ((got - want).norm() / want.norm()).item()
    good = torch.isfinite(got).all().item() and difference <= args.tolerance
    print(f"{'ok  ' if good else 'FAIL'} {len(wanted)} quantized modules, "
          f"logits differ by {difference:.1e}")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
