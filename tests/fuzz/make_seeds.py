#!/usr/bin/env python3
"""Makes the seeds of safetensors_fuzz: one small legal input of each kind.

The first byte is the fuzzer's choice of reader, see safetensors_fuzz.cc.
"""
import json
import pathlib
import struct

SEEDS = pathlib.Path(__file__).resolve().parent / "seeds" / "safetensors"


def safetensors(tensors):
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, (dtype, shape, content) in tensors.items():
        begin = len(data)
        data += content
        header[name] = {"dtype": dtype, "shape": shape,
                        "data_offsets": [begin, len(data)]}
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + data


def quant_state(kind, nested):
    state = {"quant_type": kind, "blocksize": 64, "dtype": "bfloat16",
             "shape": [3, 43]}
    if nested:
        state.update(nested_blocksize=256, nested_dtype="float32",
                     nested_offset=0.035499997437000275)
    return json.dumps(state).encode()


def bitsandbytes(kind, nested):
    state = quant_state(kind, nested)
    tensors = {"w": ("U8", [65, 1], b"\x77" * 64 + b"\x70"),
               "w.absmax": (("U8", [3], b"\1\2\3") if nested else
                            ("F32", [3], b"\0\0\x80\x3f" * 3)),
               "w.quant_map": ("F32", [16], bytes(64))}
    if nested:
        tensors["w.nested_absmax"] = ("F32", [1], b"\0\0\x80\x3f")
        tensors["w.nested_quant_map"] = ("F32", [256], bytes(1024))
    tensors[f"w.quant_state.bitsandbytes__{kind}"] = ("U8", [len(state)],
                                                      state)
    return safetensors(tensors)


def compressed_tensors(bits, asymmetric):
    words = (6 * bits + 31) // 32
    tensors = {"a.weight_packed": ("I32", [5, words], bytes(20 * words)),
               "a.weight_scale": ("BF16", [5, 2], b"\x80\x3f" * 10)}
    if asymmetric:
        tensors["a.weight_zero_point"] = (
            "I32", [(5 * bits + 31) // 32, 2], bytes((5 * bits + 31) // 32 * 8))
    tensors["a.weight_shape"] = ("I64", [2], struct.pack("<qq", 5, 6))
    return safetensors(tensors)


def main():
    index = {"metadata": {"total_size": 8},
             "weight_map": {"a": "model-1.safetensors",
                            "b.c": "model-2.safetensors"}}
    config = {"architectures": ["A"], "hidden_size": 64, "rope_theta": 1e6,
              "nested": {"x": [None, True, -2.5e-07, "\u00e9"]},
              "quantization_config": {"bits": 4}}
    config_text = json.dumps(config, indent=2).encode()
    seeds = {
        "file_empty": b"\0" + b"\4\3" + safetensors({}),
        "file_kinds": b"\0" + b"\4\3" + safetensors({
            "scalar": ("F64", [], bytes(8)), "none": ("I8", [0, 3], b""),
            "bool": ("BOOL", [2], b"\0\1"), "f8": ("F8_E4M3", [1, 2], b"ab")}),
        "file_nf4": b"\0" + b"\4\3" + bitsandbytes("nf4", False),
        "file_fp4_nested": b"\0" + b"\4\3" + bitsandbytes("fp4", True),
        "file_w4": b"\0" + b"\4\3" + compressed_tensors(4, False),
        "file_w3_asymmetric": b"\0" + b"\x85\3" + compressed_tensors(3, True),
        "index": b"\1" + json.dumps(index, indent=2).encode(),
        "json": b"\2" + config_text,
        "config": b"\3" + config_text + b'\0{"bits":4}',
        "quant_state": b"\4\0" + quant_state("nf4", False),
        "quant_state_nested": b"\4\1" + quant_state("nf4", True),
    }
    SEEDS.mkdir(parents=True, exist_ok=True)
    for name, data in seeds.items():
        (SEEDS / name).write_bytes(data)


if __name__ == "__main__":
    main()
