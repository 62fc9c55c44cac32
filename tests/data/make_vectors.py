#!/usr/bin/env python3
"""Makes proto/quant/v1/packed_format_vectors.json.

    python3 make_vectors.py            writes the file
    python3 make_vectors.py --check    says whether it is up to date

Both first compare packed_formats.py with every file of golden/nf4,
golden/compressed_tensors and golden/formats, made by bitsandbytes 0.50.2 and
compressed-tensors 0.20.0: nothing is written unless all bytes agree. Needs
nothing but Python 3.9.
"""
import json
import math
import pathlib
import struct
import sys

import packed_formats as pf

HERE = pathlib.Path(__file__).resolve().parent
GOLDEN = HERE / "golden"
VECTORS = HERE.parents[1] / "proto/quant/v1/packed_format_vectors.json"


def read_safetensors(path):
    """(metadata, {name: (dtype, shape, bytes)})."""
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + length])
    metadata = header.pop("__metadata__", {})
    base = 8 + length
    return metadata, {
        name: (t["dtype"], t["shape"],
               data[base + t["data_offsets"][0]:base + t["data_offsets"][1]])
        for name, t in header.items()}


def require(holds, what):
    if not holds:
        sys.exit(f"packed_formats.py does not reproduce {what}")


# ------------------------------------------------------- against the libraries


def check_nf4_file(path):
    metadata, tensors = read_safetensors(path)
    if "input" not in tensors or "not_finite" in path.name:
        return 0
    dtype_name, shape, data = tensors["input"]
    dtype = pf.Dtype(dtype_name)
    weight = dtype.unpack(data)
    if len(weight) > 20000:  # slow in plain Python; the C++ tests read them
        return 0
    floats = pf.Dtype("F32").pack
    cases = json.loads(metadata["cases"])
    for case in cases:
        prefix = case["prefix"]
        rule = case["rule"].removeprefix("ref-")
        packed, absmax = pf.encode_4bit(case["quant_type"], rule,
                                        case["blocksize"], weight)
        def same(part, got):
            require(tensors[f"{prefix}.{part}"][2] == got,
                    f"{path.name} {prefix}.{part}")
        same("packed", packed)
        if not case["double_quant"]:
            same("absmax", floats(absmax))
            continue
        same("absmax_plain", floats(absmax))
        codes, scales, offset = pf.encode_nested(rule, absmax)
        same("absmax", bytes(codes))
        same("nested_absmax", floats(scales))
        same("nested_offset", floats([offset]))
    return len(cases)


def check_serialized_file(path):
    _, dtype_name, kind, *nested = path.stem.split("_")
    if dtype_name not in ("f32", "f16", "bf16") or kind == "input" \
            or "storage" in path.stem:
        return 0
    name = "model.layers.0.mlp.up_proj.weight"
    _, inputs = read_safetensors(
        path.with_name(f"serialized_{dtype_name}_input.safetensors"))
    _, want = read_safetensors(path)
    dtype = pf.Dtype(inputs[name][0])
    spec = {"method": kind, "block_size": 64, "rule": "cpu",
            "double_quant": bool(nested)}
    got, _ = pf.bitsandbytes(spec, name, dtype, inputs[name][1],
                             dtype.unpack(inputs[name][2]))
    for tensor, *rest in got:
        require(want.pop(tensor) == tuple(rest), f"{path.name} {tensor}")
    require(list(want) == ["model.layers.0.mlp.up_proj.bias"], path.name)
    return 1


def check_rtn_file(path):
    metadata, tensors = read_safetensors(path)
    params = json.loads(metadata["params"])
    if not path.name.startswith("rtn_"):
        return 0
    dtype_name, shape, data = tensors["weight"]
    dtype = pf.Dtype(dtype_name)
    spec = {"bits": params["bits"], "group_size": params["group_size"],
            "symmetric": params["sym"]}
    got, decoded = pf.compressed_tensors(spec, "weight", dtype, shape,
                                         dtype.unpack(data))
    for tensor, *rest in got:
        require(tensors[tensor] == tuple(rest), f"{path.name} {tensor}")
    require(tensors["dequantized"][2] == decoded, f"{path.name} dequantized")
    return 1


def check_golden():
    total = 0
    for folder, check in (("nf4", check_nf4_file),
                          ("formats", check_serialized_file),
                          ("compressed_tensors", check_rtn_file)):
        pattern = ("serialized_*.safetensors" if folder == "formats"
                   else "*.safetensors")
        done = sum(check(path) for path in sorted(GOLDEN.joinpath(folder)
                                                  .glob(pattern)))
        require(done > 0, f"anything of golden/{folder}: no file there")
        print(f"golden/{folder}: {done} cases equal")
        total += done
    return total


# -------------------------------------------------------------------- vectors


def ramp():
    return [(i - 32) / 32 for i in range(64)]


def steps(count):
    return [((37 * i) % 101 - 50) / 64 for i in range(count)]


def waves(dtype, count, scale=0.05):
    return [dtype.round(scale * math.sin(i)) for i in range(count)]


def around(bounds):
    """1.0, then each bound with its neighbours in float32."""
    values = [1.0]
    for bound in bounds:
        bits = pf.to_bits(bound)
        values += [pf.from_bits(bits + d) for d in (-1, 0, 1)]
    return values


def nested_example():
    """Ten blocks of 32 whose absmax is 0.03 + 0.001 * (7 i mod 13)."""
    weight = []
    for i in range(10):
        absmax = pf.f32(0.03 + 0.001 * (7 * i % 13))
        weight += [absmax] + [pf.f32(absmax * math.sin(j) / 2)
                              for j in range(1, 32)]
    return weight


def bitsandbytes_cases():
    """(name, dtype, shape, weight, spec without method's defaults)."""
    f, h, b = (pf.Dtype(n) for n in ("F32", "F16", "BF16"))
    zero_block = [0.0] * 64 + ramp()
    nf4_bounds = around(pf.NF4_CUDA_BOUNDS)
    fp4_bounds = around(pf.FP4_CUDA_BOUNDS + [-x for x in pf.FP4_CUDA_BOUNDS])
    rows = [
        ("nf4_example", f, [2, 4], [0.5, -0.25, 0.0, 0.125, -1.0, 2.0, 0.75,
                                    -0.6], {}),
        ("nf4_ramp", f, [8, 8], ramp(), {}),
        ("nf4_partial_block", f, [10, 7], steps(70), {}),
        ("nf4_odd_count", f, [67], steps(67), {}),
        ("nf4_bf16", b, [4, 16], waves(b, 64), {}),
        ("nf4_f16_across_rows", h, [3, 50], waves(h, 150), {"block_size": 32}),
        ("nf4_four_dimensions", b, [4, 3, 3, 3], waves(b, 108),
         {"block_size": 128}),
        ("nf4_zero_block", f, [2, 64], zero_block, {}),
        ("nf4_all_zero_odd", f, [65], [0.0] * 65, {}),
        ("nf4_bounds", f, [len(nf4_bounds)], nf4_bounds, {}),
        ("nf4_double_quant", f, [10, 32], nested_example(),
         {"block_size": 32, "double_quant": True}),
        ("nf4_double_quant_equal_blocks", b, [2, 64], waves(b, 64) * 2,
         {"double_quant": True}),
        ("fp4_levels", f, [16], [12 * x for x in pf.FP4_LEVELS],
         {"method": "fp4"}),
        ("fp4_bounds", f, [len(fp4_bounds)], fp4_bounds, {"method": "fp4"}),
        ("fp4_double_quant_bf16", b, [3, 50], waves(b, 150),
         {"method": "fp4", "block_size": 32, "double_quant": True}),
    ]
    for name, dtype, shape, weight, changes in rows:
        for rule in ("cuda", "cpu"):
            spec = {"method": "nf4", "block_size": 64, "double_quant": False,
                    "rule": rule, **changes}
            yield f"{name}_{rule}", dtype, shape, weight, spec


def compressed_tensors_cases():
    f, h, b = (pf.Dtype(n) for n in ("F32", "F16", "BF16"))
    special = ([0.0] * 8 + [0.25] * 8 + [-0.25] * 8 +
               [2.0**-20, -2.0**-20] * 4)
    rows = [
        ("rtn_example", f, [2, 4], [0.5, -0.25, 0.0, 0.125, -1.0, 2.0, 0.75,
                                    -0.5], 4, 4, True),
        ("rtn_example_asymmetric", f, [2, 4],
         [0.5, -0.25, 0.0, 0.125, -1.0, 2.0, 0.75, -0.5], 4, 4, False),
        ("rtn_w4_bf16", b, [3, 64], waves(b, 192), 4, 32, True),
        ("rtn_w4_asymmetric_f16", h, [10, 16], waves(h, 160), 4, 8, False),
        ("rtn_w4_special_groups", f, [2, 16], special, 4, 8, True),
        ("rtn_w4_special_groups_asymmetric", f, [2, 16], special, 4, 8, False),
        ("rtn_w8_rows_bf16", b, [2, 13], waves(b, 26), 8, -1, True),
        ("rtn_w8_asymmetric_bf16", b, [5, 12], waves(b, 60), 8, 4, False),
        ("rtn_w3_asymmetric_rows", f, [33, 11],
         [pf.f32(math.sin(i)) for i in range(363)], 3, -1, False),
    ]
    for bits in (2, 3, 5, 6, 7):
        rows.append((f"rtn_w{bits}_f16", h, [2, 35], waves(h, 70), bits, -1,
                     True))
    for name, dtype, shape, weight, bits, group_size, symmetric in rows:
        yield name, dtype, shape, weight, {
            "method": "rtn", "bits": bits, "group_size": group_size,
            "symmetric": symmetric}


def vector(name, dtype, shape, weight, spec):
    write = (pf.compressed_tensors if spec["method"] == "rtn"
             else pf.bitsandbytes)
    weight = [dtype.round(w) for w in weight]
    outputs, decoded = write(spec, "layer.weight", dtype, shape, weight)
    return {
        "name": name, "spec": spec,
        "input": {"name": "layer.weight", "dtype": dtype.name, "shape": shape,
                  "data": dtype.pack(weight).hex()},
        "outputs": [{"name": n, "dtype": t, "shape": s, "data": data.hex()}
                    for n, t, s, data in outputs],
        "decoded": decoded.hex(),
    }


def text_of(vectors):
    lines = ",\n".join(json.dumps(v) for v in vectors)
    note = ("Profile REFERENCE. `data` and `decoded` are the tensor's bytes in "
            "hexadecimal, little-endian elements. Made by "
            "tests/data/make_vectors.py; see packed_formats.md.")
    return (f'{{"note": {json.dumps(note)},\n"version": 1,\n"vectors": [\n'
            f'{lines}\n]}}\n')


def main():
    check_golden()
    vectors = [vector(*case) for case in (*bitsandbytes_cases(),
                                          *compressed_tensors_cases())]
    text = text_of(vectors)
    if "--check" in sys.argv[1:]:
        require(VECTORS.read_text() == text, str(VECTORS.name))
        print(f"{len(vectors)} vectors are up to date")
    else:
        VECTORS.write_text(text)
        print(f"wrote {len(vectors)} vectors to {VECTORS.name}")


if __name__ == "__main__":
    main()
