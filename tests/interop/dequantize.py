"""Decodes a quantized checkpoint from its file formats alone.

    dequantize.py QUANTIZED OUT

OUT is an ordinary float checkpoint with the weights that an engine should
compute with. Nothing of quantd or of an engine is used: torch and numpy only.
"""
import json
import pathlib
import shutil
import sys

import torch
from safetensors import safe_open
from safetensors.torch import save_file


def load(folder):
    tensors = {}
    for file in sorted(pathlib.Path(folder).glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            for name in opened.keys():
                assert name not in tensors, f"{name} is in two files"
                tensors[name] = opened.get_tensor(name)
    return tensors


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
    """[rows, words] int32 -> [rows, count] codes, dense along a row."""
    position = torch.arange(count) * bits
    wide = words.long() & 0xFFFFFFFF
    wide = torch.cat([wide, torch.zeros_like(wide[:, :1])], 1)
    index = position // 32
    pair = wide[:, index] | (wide[:, index + 1] << 32)
    return (pair >> (position % 32)) & ((1 << bits) - 1)


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
    weight = ((codes - zero.repeat_interleave(repeat, 1)).to(scale.dtype)
              * scale.repeat_interleave(repeat, 1))
    return weight.reshape(rows, cols)


def decode(folder):
    """Float tensors under the original checkpoint's names."""
    config = json.loads((pathlib.Path(folder) / "config.json").read_text())
    quantization = config["quantization_config"]
    tensors = load(folder)
    if quantization["quant_method"] == "bitsandbytes":
        for name in [k for k in tensors if k.endswith(".weight.absmax")]:
            weight = name[:-len(".absmax")]
            tensors[weight] = decode_bitsandbytes(weight, tensors)
    else:
        scheme = quantization["config_groups"]["group_0"]["weights"]
        for name in [k for k in tensors if k.endswith(".weight_packed")]:
            module = name[:-len(".weight_packed")]
            tensors[module + ".weight"] = decode_compressed(
                module, tensors, scheme)
    return tensors


def write_dequantized(folder, out):
    folder, out = pathlib.Path(folder), pathlib.Path(out)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for file in folder.iterdir():
        if file.is_file() and not file.name.startswith("model"):
            shutil.copy(file, out)
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    (out / "config.json").write_text(json.dumps(config, indent=2))
    weights = {k: v.contiguous() for k, v in decode(folder).items()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    write_dequantized(sys.argv[1], sys.argv[2])
