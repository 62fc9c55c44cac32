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


def gptq(bits):
    rows, cols = 32, 64
    return safetensors({
        "a.qweight": ("I32", [cols * bits // 32, rows],
                      bytes(range(256)) * (rows * cols * bits // 8 // 256)),
        "a.qzeros": ("I32", [2, rows * bits // 32],
                     b"\x11" * (rows * bits // 4)),
        "a.scales": ("F16", [2, rows], b"\0\x3c" * 2 * rows),
        "a.g_idx": ("I32", [cols], struct.pack("<64i", *[
            7 * k % 64 // 32 for k in range(64)]))})


def awq():
    return safetensors({
        "a.qweight": ("I32", [6, 2], bytes(range(48))),
        "a.qzeros": ("I32", [2, 2], bytes(range(16))),
        "a.scales": ("F16", [2, 16], b"\0\x3c" * 32)})


def hqq(bits, axis):
    """8 x 10 codes, groups of 10 (axis 1) or 8 (axis 0)."""
    length, kind = (1, "I32") if bits == 3 else (8 * bits // 8, "U8")
    side = [8, 1] if axis == 1 else [1, 10]
    def text(value):
        return "U8", [len(value)], value
    def number(value):
        return "I32", [], struct.pack("<i", value)
    tensors = {"W_q": (kind, [length, 10],
                       bytes(length * 10 * (4 if bits == 3 else 1))),
               "nbits": number(bits), "axis": number(axis),
               "group_size": number(10 if axis == 1 else 8),
               "shape": ("I64", [2], struct.pack("<qq", 8, 10)),
               "scale": ("BF16", side, b"\x80\x3f" * max(side)),
               "zero": ("BF16", side, b"\x80\x3f" * max(side)),
               "packing": text(b"3bit_32" if bits == 3 else b"%dbit_u8" % bits),
               "unpack_view_dtype": text(b"torch.int32" if bits == 3 else
                                         b"torch.uint8"),
               "compute_dtype": text(b"torch.bfloat16")}
    for key in ("view_as_float", "quant_scale", "quant_zero", "offload_meta"):
        tensors[key] = ("U8", [], b"\0")
    for key in ("encoded_state_dict", "stores_quant_config", "channel_wise",
                "optimize", "round_zero"):
        tensors[key] = ("U8", [], b"\1")
    return safetensors({f"a.{key}": value for key, value in tensors.items()})


def index_of(weight_map):
    return {"metadata": {"total_size": 8}, "weight_map": weight_map}


def two_indexes(index, contents):
    """What is said of shards, and what they hold."""
    return b"\1" + b"\0".join(
        json.dumps(document).encode() for document in (index, contents))


def main():
    index = index_of({"a": "model-1.safetensors",
                      "b.c": "model-2.safetensors"})
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
        "file_gptq4": b"\0" + b"\4\x20" + gptq(4),
        "file_gptq3": b"\0" + b"\x85\x20" + gptq(3),
        "file_awq": b"\0" + b"\x86\3" + awq(),
        "file_hqq4": b"\0" + b"\4\3" + hqq(4, 1),
        "file_hqq3_axis0": b"\0" + b"\4\3" + hqq(3, 0),
        "index": b"\1" + json.dumps(index, indent=2).encode(),
        "index_and_shards": two_indexes(index, index),
        "index_and_moved": two_indexes(index, index_of(
            {"a": "model-2.safetensors", "b.c": "model-2.safetensors"})),
        "index_and_fewer": two_indexes(index, index_of(
            {"a": "model-1.safetensors"})),
        "index_and_more": two_indexes(index_of(
            {"a": "model-1.safetensors"}), index),
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
