#!/usr/bin/env python3
"""Makes proto/quant/v1/packed_format_vectors.json.

    python3 make_vectors.py            writes the file
    python3 make_vectors.py --check    says whether it is up to date

Both first compare packed_formats.py with every file of golden/nf4,
golden/compressed_tensors, golden/formats, golden/gptq_pack, golden/awq_pack and
golden/hqq_pack, made by bitsandbytes 0.50.2, compressed-tensors 0.20.0,
GPTQModel 7.7.0, AutoAWQ 0.2.9 and hqq 0.2.8.post1: nothing is written unless
all bytes agree. Needs nothing but Python 3.9.
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


def integers(tensor):
    """Rows of a U8 or I32 matrix."""
    kind, shape, data = tensor
    values = struct.unpack(
        f"<{shape[0] * shape[1]}{'B' if kind == 'U8' else 'i'}", data)
    return [list(values[i:i + shape[1]])
            for i in range(0, len(values), shape[1])]


def grid_weight(metadata, tensors):
    """The codes, zeros and scales of a golden file of GPTQ or AWQ."""
    params = json.loads(metadata["params"])
    codes = integers(tensors["codes"])
    size = params["group_size"]
    _, shape, data = tensors["scales"]
    scales = pf.Dtype("F16").unpack(data)
    by_group = [scales[i:i + shape[1]]
                for i in range(0, len(scales), shape[1])]
    return {"bits": params["bits"], "codes": codes,
            "group_size": -1 if size >= len(codes[0]) else size,
            "zeros": integers(tensors["zeros"]),
            "scales": pf.transposed(by_group)}


def same_but_for_minus_zero(a, b):
    """F16 bytes; a library writes -0.0 for 0 times a negative."""
    half = pf.Dtype("F16")
    return half.unpack(a) == half.unpack(b)


def check_grid_outputs(path, tensors, outputs, decoded):
    for name, *rest in outputs:
        part = name.removeprefix("m.")
        require(tensors[part] == tuple(rest), f"{path.name} {part}")
    if "dequantized" in tensors:
        require(same_but_for_minus_zero(tensors["dequantized"][2], decoded),
                f"{path.name} dequantized")


def check_gptq_file(path):
    metadata, tensors = read_safetensors(path)
    weight = grid_weight(metadata, tensors)
    g_idx = struct.unpack(f"<{tensors['g_idx'][1][0]}i", tensors["g_idx"][2])
    versions = [2] if min(map(min, weight["zeros"])) == 0 else [1, 2]
    for version in versions:
        outputs, decoded = pf.gptq(weight, "m", version, list(g_idx))
        wanted = {**tensors, "qzeros": tensors[f"qzeros_v{version}"]}
        check_grid_outputs(path, wanted, outputs, decoded)
    return len(versions)


def check_awq_file(path):
    metadata, tensors = read_safetensors(path)
    outputs, decoded = pf.awq(grid_weight(metadata, tensors), "m")
    check_grid_outputs(path, tensors, outputs, decoded)
    return 1


def check_hqq_file(path):
    metadata, tensors = read_safetensors(path)
    if "cases" not in metadata:
        return check_hqq_state_dict(path, tensors)
    cases = json.loads(metadata["cases"])
    for case in cases:
        prefix = case["prefix"]
        codes = sum(integers(tensors[f"{prefix}.codes"]), [])
        size = case["group_size"]
        cols = size if case["axis"] == 1 else len(codes) // size
        matrix = [codes[i:i + cols] for i in range(0, len(codes), cols)]
        require(tensors[f"{prefix}.W_q"] == pf.hqq_pack(case["nbits"], matrix),
                f"{path.name} {prefix}.W_q")
    return len(cases)


def check_hqq_state_dict(path, tensors):
    """Names, types and metadata: codes cannot be had without unpacking."""
    module = "model.layers.0.self_attn.q_proj"
    def number(key):
        return struct.unpack("<i", tensors[f"{module}.{key}"][2])[0]
    dtype = pf.Dtype(tensors[f"{module}.scale"][0])
    shape = struct.unpack("<qq", tensors[f"{module}.shape"][2])
    weight = {"bits": number("nbits"), "group_size": number("group_size"),
              "codes": [0] * (shape[0] * shape[1]),
              "scales": dtype.unpack(tensors[f"{module}.scale"][2]),
              "zeros": dtype.unpack(tensors[f"{module}.zero"][2])}
    outputs, _ = pf.hqq(weight, module, dtype, shape, number("axis"))
    names = {name for name, *_ in outputs}
    require(names | {module + ".bias"} == set(tensors), f"{path.name} names")
    for name, kind, sizes, data in outputs:
        if name.endswith(".W_q"):
            data = tensors[name][2]
        require(tensors[name] == (kind, sizes, data), f"{path.name} {name}")
    return 1


def check_golden():
    total = 0
    for folder, check in (("nf4", check_nf4_file),
                          ("formats", check_serialized_file),
                          ("compressed_tensors", check_rtn_file),
                          ("gptq_pack", check_gptq_file),
                          ("awq_pack", check_awq_file),
                          ("hqq_pack", check_hqq_file)):
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


def example_codes(bits, rows, cols):
    """Code (n, k) is (3 k + 5 n + k // 8) mod 2^bits."""
    return [[(3 * k + 5 * n + k // 8) % 2**bits for k in range(cols)]
            for n in range(rows)]


def grid_example(bits, rows, cols, group_size, zero_of):
    groups = 1 if group_size == -1 else pf.ceil_div(cols, group_size)
    half = pf.Dtype("F16")
    return {"bits": bits, "group_size": group_size,
            "codes": example_codes(bits, rows, cols),
            "zeros": [[zero_of(n, g) for g in range(groups)]
                      for n in range(rows)],
            "scales": [[half.round((1 + n % 5 + g) / 300)
                        for g in range(groups)] for n in range(rows)]}


def grid_cases():
    """(name, format, weight, symmetric, g_idx)."""
    for bits in (2, 3, 4, 8):
        middle, last = 2**(bits - 1), 2**bits - 1
        def some(n, g, last=last):
            return 1 + (n + g) % last
        yield (f"gptq_w{bits}_example", "gptq",
               grid_example(bits, 32, 32, -1, lambda n, g, m=middle: m), True,
               None)
        yield (f"gptq_w{bits}_zero_points", "gptq",
               grid_example(bits, 32, 32, 16, some), False, None)
        yield (f"gptq_v2_w{bits}_zero_points", "gptq_v2",
               grid_example(bits, 32, 32, 16,
                            lambda n, g, count=2**bits: (n + g) % count),
               False, None)
    yield ("gptq_act_order", "gptq",
           grid_example(4, 8, 32, 16, lambda n, g: 8), True,
           [(7 * k + 3) % 32 // 16 for k in range(32)])
    yield ("gptq_short_last_group", "gptq_v2",
           grid_example(4, 8, 40, 16, lambda n, g: (2 * n + g) % 16), False,
           None)
    yield ("awq_example", "awq",
           grid_example(4, 8, 32, -1, lambda n, g: n + 1), False, None)
    yield ("awq_groups", "awq",
           grid_example(4, 24, 48, 16, lambda n, g: (n + 5 * g) % 16), False,
           None)
    yield ("awq_symmetric", "awq",
           grid_example(4, 8, 16, 16, lambda n, g: 8), True, None)


def json_of(outputs):
    return [{"name": n, "dtype": t, "shape": s, "data": data.hex()}
            for n, t, s, data in outputs]


def grid_vector(name, kind, weight, symmetric, g_idx):
    if kind == "awq":
        outputs, decoded = pf.awq(weight, "layer")
    else:
        outputs, decoded = pf.gptq(weight, "layer", 1 if kind == "gptq" else 2,
                                   g_idx)
    scales = pf.Dtype("F16").pack(sum(weight["scales"], []))
    result = {"name": name, "format": kind, "bits": weight["bits"],
              "group_size": weight["group_size"], "symmetric": symmetric,
              "shape": [len(weight["codes"]), len(weight["codes"][0])],
              "dtype": "F16", "codes": bytes(sum(weight["codes"], [])).hex(),
              "zero_points": bytes(sum(weight["zeros"], [])).hex(),
              "scales": scales.hex()}
    if g_idx:
        result["g_idx"] = g_idx
    return {**result, "outputs": json_of(outputs), "decoded": decoded.hex()}


def hqq_vector(bits, axis, dtype):
    rows, cols, size = 8, 40, 8
    codes = sum(example_codes(bits, rows, cols), [])
    groups = rows * cols // size
    weight = {"bits": bits, "group_size": size, "codes": codes,
              "scales": [dtype.round((1 + g % 7) / 300)
                         for g in range(groups)],
              "zeros": [dtype.round((2**bits - 1) / 2 + math.sin(g))
                        for g in range(groups)]}
    outputs, decoded = pf.hqq(weight, "layer", dtype, [rows, cols], axis)
    return {"name": f"hqq_w{bits}_axis{axis}_{dtype.name.lower()}",
            "format": "hqq", "bits": bits, "group_size": size, "axis": axis,
            "shape": [rows, cols], "dtype": dtype.name,
            "codes": bytes(codes).hex(),
            "zeros": dtype.pack(weight["zeros"]).hex(),
            "scales": dtype.pack(weight["scales"]).hex(),
            "outputs": json_of(outputs), "decoded": decoded.hex()}


def packing_vectors():
    result = [grid_vector(*case) for case in grid_cases()]
    for bits in (8, 4, 3, 2, 1):
        for axis, dtype in ((0, "F32"), (1, "F16"), (1, "BF16")):
            result.append(hqq_vector(bits, axis, pf.Dtype(dtype)))
    return result


def text_of(vectors, packing):
    lines = ",\n".join(json.dumps(v) for v in vectors)
    more = ",\n".join(json.dumps(v) for v in packing)
    note = ("`vectors`: weights quantized with profile REFERENCE. `packing`: "
            "codes, zero points and scales [out, groups] in, files out. `data` and the "
            "other long strings are bytes in hexadecimal, little-endian "
            "elements. Made by tests/data/make_vectors.py; see "
            "packed_formats.md.")
    return (f'{{"note": {json.dumps(note)},\n"version": 1,\n"vectors": [\n'
            f'{lines}\n],\n"packing": [\n{more}\n]}}\n')


def main():
    check_golden()
    vectors = [vector(*case) for case in (*bitsandbytes_cases(),
                                          *compressed_tensors_cases())]
    packing = packing_vectors()
    text = text_of(vectors, packing)
    if "--check" in sys.argv[1:]:
        require(VECTORS.read_text() == text, str(VECTORS.name))
        print(f"{len(vectors)} + {len(packing)} vectors are up to date")
    else:
        VECTORS.write_text(text)
        print(f"wrote {len(vectors)} + {len(packing)} vectors to {VECTORS.name}")


if __name__ == "__main__":
    main()
