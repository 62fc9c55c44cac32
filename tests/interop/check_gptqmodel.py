"""Loads GPTQ (v1, v2) and AWQ checkpoints with GPTQModel on a CPU and compares
them with the dequantized ones: every weight, and the logits.

    check_gptqmodel.py QUANTIZED...
"""
import os

# Without these it compiles code for minutes.
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
os.environ.setdefault("GPTQMODEL_DISABLE_PACK_EXT", "1")

import torch
from gptqmodel import BACKEND, GPTQModel

import agreement

KERNELS = {"gptq": (BACKEND.GPTQ_TORCH, "TorchLinear"),
           "awq": (BACKEND.TORCH_AWQ, "AwqTorchLinear")}


def weight_of(module):
    """[out, in], as the library decodes it."""
    if type(module).__name__ == "TorchLinear":
        return module.dequantize_weight().t()
    probe = torch.zeros(1, module.in_features, dtype=torch.float16)
    return module._dequantize_weight_for_inference(
        probe, dtype=torch.float16).t()


def weights_agree(folder, model, kind):
    """How many modules it quantized; all of the file's, all values equal."""
    want = agreement.load_tensors(agreement.float_folder(folder))
    packed = {name[:-len(".qweight")] for name in agreement.load_tensors(folder)
              if name.endswith(".qweight")}
    made = {name: module for name, module in model.named_modules()
            if type(module).__name__ == kind}
    assert set(made) == packed, f"engine and file differ: {set(made) ^ packed}"
    for name, module in made.items():
        got = weight_of(module)
        expected = want[name + ".weight"].to(got.dtype)
        assert torch.equal(got, expected), (
            f"{folder}: {name} differs by "
            f"{(got - expected).abs().max().item()}")
    return len(made)


def check(folder):
    method = agreement.config_of(folder)["quantization_config"]["quant_method"]
    backend, kind = KERNELS[method]
    loaded = GPTQModel.load(folder, device="cpu", backend=backend,
                            dtype=torch.float16)
    count = weights_agree(folder, loaded.model, kind)
    got = agreement.logits_of(loaded.model)
    return agreement.judge(folder, count, got, 4e-3)


if __name__ == "__main__":
    agreement.check_all(check)
