"""Decodes quantized checkpoints from their file formats alone.

    dequantize.py QUANTIZED...

QUANTIZED-float beside each becomes an ordinary float checkpoint with the
weights that an engine should compute with; every other tensor is the quantized
checkpoint's own (AWQ changes norms too). Nothing of quantd or of an engine is
used: torch only. Tested by dequantize_test.py.
"""
import json
import pathlib
import re
import shutil
import sys

import torch
from safetensors.torch import save_file

import agreement


def decode_bitsandbytes(name, tensors):
    """`name` is the weight's; takes its side tensors out of `tensors`."""
    side = {k[len(name) + 1:]: tensors.pop(k)
            for k in list(tensors) if k.startswith(name + ".")}
    state = next(k for k in side if k.startswith("quant_state."))
    info = json.loads(bytes(side[state].tolist()))
    absmax = side["absmax"]
    if "nested_absmax" in side:
        scale = side["nested_absmax"].repeat_interleave(
            info["nested_blocksize"])[:absmax.numel()]
        offset = torch.tensor(info["nested_offset"], dtype=torch.float32)
        absmax = side["nested_quant_map"][absmax.long()] * scale + offset
    packed = tensors.pop(name).reshape(-1)
    codes = torch.stack([packed >> 4, packed & 15], 1).reshape(-1)
    count = torch.Size(info["shape"]).numel()
    levels = side["quant_map"][codes[:count].long()]
    weight = levels * absmax.repeat_interleave(info["blocksize"])[:count]
    return weight.reshape(info["shape"]).to(getattr(torch, info["dtype"]))


def unpack(words, bits, count):
    """[rows, words] int32 -> [rows, count or all] codes, dense along a row."""
    if count is None:
        count = words.shape[1] * 32 // bits
    position = torch.arange(count) * bits
    wide = words.long() & 0xFFFFFFFF
    wide = torch.cat([wide, torch.zeros_like(wide[:, :1])], 1)
    index = position // 32
    pair = wide[:, index] | (wide[:, index + 1] << 32)
    return (pair >> (position % 32)) & ((1 << bits) - 1)


def scheme_of(module, groups):
    """Of compressed-tensors' config groups the one for a module: by its name,
    an expression, or the class of all linears, in this order."""
    def matches(target, kind):
        if kind == "expression":
            return target.startswith("re:") and re.match(target[3:], module)
        return target == (module if kind == "name" else "Linear")

    for kind in ("name", "expression", "class"):
        for group in groups.values():
            if any(matches(target, kind) for target in group["targets"]):
                return group["weights"]
    raise KeyError(module)


def decode_compressed(module, tensors, scheme):
    bits = scheme["num_bits"]
    rows, cols = tensors.pop(module + ".weight_shape").tolist()
    codes = unpack(tensors.pop(module + ".weight_packed"), bits, cols)
    scale = tensors.pop(module + ".weight_scale")
    if scheme["symmetric"]:
        zero = torch.full(scale.shape, 1 << (bits - 1))
    else:
        words = tensors.pop(module + ".weight_zero_point")
        zero = unpack(words.T.contiguous(), bits, rows).T
    repeat = cols // scale.shape[1]
    return scale_codes(codes, zero.repeat_interleave(repeat, 1),
                       scale.repeat_interleave(repeat, 1))


def decode_gptq(module, tensors, config):
    bits = config["bits"]
    groups = tensors.pop(module + ".g_idx").long()
    scale = tensors.pop(module + ".scales")
    rows, cols = scale.shape[1], groups.numel()
    codes = unpack(tensors.pop(module + ".qweight").T, bits, cols)
    zero = unpack(tensors.pop(module + ".qzeros"), bits, rows).T
    if config["checkpoint_format"] == "gptq":  # version 1
        zero = zero + 1
    return scale_codes(codes, zero[:, groups], scale.T[:, groups])


def decode_awq(module, tensors, config):
    codes, zero = (unpack(tensors.pop(module + end), 4, None)
                   for end in (".qweight", ".qzeros"))
    order = [0, 4, 1, 5, 2, 6, 3, 7]  # the nibble of each row of a word's eight
    codes, zero = (x.unflatten(1, (-1, 8))[:, :, order].flatten(1).T
                   for x in (codes, zero))
    scale = tensors.pop(module + ".scales").T
    size = config["group_size"] if config["group_size"] > 0 else codes.shape[1]
    return scale_codes(codes, zero.repeat_interleave(size, 1),
                       scale.repeat_interleave(size, 1))


def scale_codes(codes, zero, scale):
    """In float32, where the product is exact: each engine then rounds it to the
    dtype that it computes in."""
    return (codes - zero).float() * scale.float()


def decode_hqq(module, tensors):
    side = {k[len(module) + 1:]: tensors.pop(k)
            for k in list(tensors) if k.startswith(module + ".")}
    bits, axis, size = (int(side[k]) for k in ("nbits", "axis", "group_size"))
    rows, cols = side["shape"].tolist()
    shape = ((rows * cols // size, size) if axis == 1
             else (size, rows * cols // size))
    parts, top = (10, 27) if bits == 3 else (8 // bits, 8 - bits)
    codes = torch.cat([(side["W_q"].long() >> (top - bits * part))
                       & ((1 << bits) - 1) for part in range(parts)])
    difference = codes[:shape[0]].to(side["scale"].dtype) - side["zero"]
    weight = (difference * side["scale"]).reshape(rows, cols)
    if "bias" in side:
        tensors[module + ".bias"] = side["bias"]
    return weight


def decode(folder):
    """Float tensors under the original checkpoint's names."""
    quantization = agreement.config_of(folder)["quantization_config"]
    method = quantization["quant_method"]
    if method == "compressed-tensors":
        groups = quantization["config_groups"]
    end, decode_one = {
        "bitsandbytes": (".weight.absmax",
                         lambda m, t: decode_bitsandbytes(m + ".weight", t)),
        "compressed-tensors": (".weight_packed",
                               lambda m, t: decode_compressed(
                                   m, t, scheme_of(m, groups))),
        "gptq": (".qweight", lambda m, t: decode_gptq(m, t, quantization)),
        "awq": (".qweight", lambda m, t: decode_awq(m, t, quantization)),
        "hqq": (".W_q", decode_hqq),
    }[method]
    tensors = agreement.load_tensors(folder)
    modules = [k[:-len(end)] for k in tensors if k.endswith(end)]
    assert modules, f"{folder}: nothing is quantized"
    for module in modules:
        weight = decode_one(module, tensors)
        tensors[module + ".weight"] = weight
    return tensors


def stack_llama4(tensors):
    """Llama-4's experts as the float model has them: [experts, in, out], gate
    before up."""
    pattern = re.compile(r"(.*\.experts)\.(\d+)\.(\w+)\.weight")
    experts = {}
    for name in list(tensors):
        found = pattern.fullmatch(name)
        if found:
            experts.setdefault(found[1], {})[int(found[2]), found[3]] = (
                tensors.pop(name).T)
    for base, linears in experts.items():
        count = 1 + max(expert for expert, _ in linears)
        tensors[base + ".gate_up_proj"] = torch.stack(
            [torch.cat([linears[e, "gate_proj"], linears[e, "up_proj"]], 1)
             for e in range(count)])
        tensors[base + ".down_proj"] = torch.stack(
            [linears[e, "down_proj"] for e in range(count)])
    return tensors


def write_dequantized(folder, out):
    folder, out = pathlib.Path(folder), pathlib.Path(out)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for file in folder.iterdir():
        if file.is_file() and not file.name.startswith("model"):
            shutil.copy(file, out)
    config = agreement.config_of(folder)
    del config["quantization_config"]
    (out / "config.json").write_text(json.dumps(config, indent=2))
    decoded = decode(folder)
    if config["model_type"].startswith("llama4"):
        decoded = stack_llama4(decoded)
    weights = {k: v.contiguous() for k, v in decoded.items()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    for quantized in sys.argv[1:]:
        write_dequantized(quantized, agreement.float_folder(quantized))
