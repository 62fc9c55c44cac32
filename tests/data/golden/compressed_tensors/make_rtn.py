#!/usr/bin/env python3
"""Makes the round-to-nearest cases of 5, 6 and 7 bits, with the library itself.

    pip install compressed-tensors==0.20.0 && python3 make_rtn.py

Writes rtn_b{5,6,7}_*.safetensors beside itself: a weight, and what
compressed-tensors makes of it by min and max: scales, zero points, packed
codes, and the values that it reads back.
"""
import json
import pathlib
from importlib.metadata import version

import numpy as np
import torch
from compressed_tensors.compressors.pack_quantized import (
    PackedQuantizationCompressor)
from compressed_tensors.quantization import (QuantizationArgs,
                                             QuantizationScheme)
from compressed_tensors.quantization.utils import calculate_qparams
from safetensors.torch import save

HERE = pathlib.Path(__file__).resolve().parent
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
ROWS, COLS = 16, 128
# Group size, 0 for whole rows, and dtype.
CASES = ((0, "f32"), (32, "bf16"), (128, "f16"))


def make_weight(dtype, seed):
    """Random, but for rows of one sign, zero, constant, tiny and large ones."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_t(5, (ROWS, COLS)) * 0.02
    weight[0] = np.abs(weight[0]) + 1e-4
    weight[1] = -np.abs(weight[1]) - 1e-4
    weight[2] = 0
    weight[3, :32] = 0
    weight[4] = 0.0125
    weight[5] = -0.0125
    weight[6] *= 1e-4
    weight[7] *= 1e3
    return torch.from_numpy(weight).to(DTYPES[dtype]).contiguous()


def quantize(weight, args):
    """The tensors of a file."""
    grouped = (weight.unflatten(-1, (-1, args.group_size)) if args.group_size
               else weight.unsqueeze(1))
    scale, zero_point = calculate_qparams(grouped.amin(-1), grouped.amax(-1),
                                          args)
    state = {"weight": weight.clone(), "weight_scale": scale}
    if not args.symmetric:
        state["weight_zero_point"] = zero_point
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    packed = PackedQuantizationCompressor.compress(state, scheme)
    decoded = PackedQuantizationCompressor.decompress(packed, scheme)
    return {"weight": weight, "zero_points": zero_point.to(torch.int8),
            "dequantized": decoded["weight"], **packed}


def canonical(data):
    """The library writes metadata in random order: equal content, equal bytes."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + size])
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + size:]


def make_case(bits, symmetric, group_size, dtype):
    args = QuantizationArgs(
        num_bits=bits, symmetric=symmetric, group_size=group_size or None,
        strategy="group" if group_size else "channel")
    name = (f"rtn_b{bits}_g{group_size or 'row'}_"
            f"{'sym' if symmetric else 'asym'}_{dtype}")
    params = {"bits": bits, "sym": symmetric, "group_size": group_size or -1,
              "dtype": dtype, "rows": ROWS, "cols": COLS}
    metadata = {"library": "compressed-tensors",
                "version": version("compressed-tensors"),
                "torch": torch.__version__, "role": "case", "case": name,
                "quantization_args": args.model_dump_json(),
                "params": json.dumps(params, sort_keys=True)}
    tensors = quantize(make_weight(dtype, 41 + bits), args)
    data = save({key: value.contiguous() for key, value in tensors.items()},
                metadata)
    (HERE / f"{name}.safetensors").write_bytes(canonical(data))


def main():
    for bits in (5, 6, 7):
        for symmetric in (True, False):
            for group_size, dtype in CASES:
                make_case(bits, symmetric, group_size, dtype)


if __name__ == "__main__":
    main()
