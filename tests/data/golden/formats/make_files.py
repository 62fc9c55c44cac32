#!/usr/bin/env python3
"""Makes the files that the safetensors library writes and our writer must equal.

    pip install safetensors==0.8.0 && python3 make_files.py

Writes all_dtypes, no_metadata and no_tensors.safetensors beside itself.
"""
import ctypes
import pathlib

import safetensors

HERE = pathlib.Path(__file__).resolve().parent
# Name in the library's call and bytes of an element.
DTYPES = {
    "bool": 1, "uint8": 1, "int8": 1, "float8_e5m2": 1, "float8_e4m3fn": 1,
    "int16": 2, "uint16": 2, "float16": 2, "bfloat16": 2, "int32": 4,
    "uint32": 4, "float32": 4, "float64": 8, "int64": 8, "uint64": 8,
}


def tensor(dtype, shape, seed):
    count = DTYPES[dtype]
    for size in shape:
        count *= size
    # A byte of a bool is 0 or 1.
    data = bytes((seed * 37 + i * 11) % (2 if dtype == "bool" else 251)
                 for i in range(count))
    return dtype, shape, data


def all_dtypes():
    tensors = {}
    for seed, dtype in enumerate(DTYPES):
        # Descending names, so that the order in the file is not that of calls.
        tensors[f"z{99 - seed}.{dtype}"] = tensor(dtype, [3, 5], seed)
        tensors[f"scalar.{dtype}"] = tensor(dtype, [], seed + 50)
    tensors["empty"] = tensor("bfloat16", [0, 7], 1)
    tensors["caf\u00e9 \U0001f600"] = tensor("uint8", [2], 2)
    tensors['quote " back \\ slash / tab \t bell \x07 del \x7f'] = tensor(
        "uint8", [1, 1, 1, 3], 3)
    return tensors


def serialize(tensors, metadata):
    specs, kept = {}, []  # the library reads through raw pointers
    for name, (dtype, shape, data) in tensors.items():
        kept.append(ctypes.create_string_buffer(data, max(1, len(data))))
        specs[name] = safetensors.TensorSpec(
            dtype=dtype, shape=shape, data_ptr=ctypes.addressof(kept[-1]),
            data_len=len(data))
    return bytes(safetensors.serialize(specs, metadata))


def main():
    files = {
        "all_dtypes": (all_dtypes(), {"format": "pt"}),
        "no_metadata": ({"a": tensor("float32", [2, 3], 7),
                         "b": tensor("uint8", [5], 8)}, None),
        "no_tensors": ({}, {"format": "pt"}),
    }
    for name, (tensors, metadata) in files.items():
        (HERE / f"{name}.safetensors").write_bytes(serialize(tensors, metadata))


if __name__ == "__main__":
    main()
