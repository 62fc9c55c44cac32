"""Loads quantized checkpoints with transformers on a CPU and compares them with
the dequantized ones.

    check_transformers.py QUANTIZED...

Exit code 1 when logits differ (agreement.py), when a linear that should be
quantized is not or the other way round, or when a name is missing or
unexpected.
"""
import os

# Without these GPTQModel's layers compile code for minutes.
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
os.environ.setdefault("GPTQMODEL_DISABLE_PACK_EXT", "1")

import torch
from transformers import AwqConfig, GPTQConfig

import agreement

# By quant_method: the dtype it computes in, what logits may differ by, and the
# classes of quantized modules.
ENGINES = {
    "bitsandbytes": (torch.bfloat16, 0.01, {"Linear4bit"}),
    "compressed-tensors": (torch.float32, 1e-4, {"CompressedLinear"}),
    "gptq": (torch.float16, 4e-3, {"TorchLinear"}),
    "awq": (torch.float16, 4e-3, {"AwqTorchLinear"}),
}


def quantized_modules(folder):
    return {name[:-len(end)] for name in agreement.load_tensors(folder)
            for end in (".weight.absmax", ".weight_packed", ".qweight")
            if name.endswith(end)}


def named_as_loaded(names, model):
    """Names in the file as transformers has them: those of a language model
    below towers begin otherwise."""
    modules = {name for name, _ in model.named_modules()}
    parent = "model.language_model."
    return {name if name in modules else
            parent + name.removeprefix("language_model.").removeprefix("model.")
            for name in names}


def is_quantized(module, classes):
    """compressed-tensors keeps the class and gives the module a scheme."""
    return (type(module).__name__ in classes
            or hasattr(module, "quantization_scheme"))


def merged_experts(model, wanted):
    """Experts that the engine decodes into one parameter for all of a layer."""
    parameters = dict(model.named_parameters())
    found = set()
    for name in wanted:
        layer, experts, _ = name.partition(".experts.")
        layer = layer.replace("block_sparse_moe", "mlp")
        if experts and layer + ".experts.gate_up_proj" in parameters:
            found.add(name)
    return found


def kernel_choice(quantization):
    """GPTQModel's plain torch kernel; it would compile one of its own."""
    method, bits = quantization["quant_method"], quantization.get("bits")
    if method == "gptq":
        return {"quantization_config": GPTQConfig(
            bits=bits, backend="gptq_torch")}
    if method == "awq":
        return {"quantization_config": AwqConfig(
            bits=bits, backend="torch_awq")}
    return {}


def check(folder):
    quantization = agreement.config_of(folder)["quantization_config"]
    method = quantization["quant_method"]
    dtype, tolerance, classes = ENGINES[method]
    model, info = agreement.load_model(
        folder, dtype=dtype, output_loading_info=True,
        **kernel_choice(quantization))
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info.get(kind), f"{kind}: {list(info[kind])[:5]}"
    wanted = quantized_modules(folder)
    merged = merged_experts(model, wanted)
    wanted = named_as_loaded(wanted - merged, model)
    made = {name for name, module in model.named_modules()
            if is_quantized(module, classes)}
    assert made == wanted, (f"not quantized when loaded: {wanted - made}, "
                            f"quantized: {made - wanted}")
    got = agreement.logits_of(model)
    count = len(wanted) + len(merged)
    return agreement.judge(folder, count, got, tolerance)


if __name__ == "__main__":
    agreement.check_all(check)
