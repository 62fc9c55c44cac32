"""The packed formats in plain Python: slow, and independent of the C++ code.

Written from proto/quant/v1/packed_formats.md alone. make_vectors.py checks it
against files that the real libraries made. Tensors are lists of floats whose
values are exact in their dtype; every operation below rounds once to float32
(`f32`) or to the named dtype (`Dtype.round`).
"""
import bisect
import functools
import json
import math
import struct


def f32(x):
    """Nearest float32 of a double; exact for one +, -, *, / of two float32."""
    if math.isnan(x) or math.isinf(x):
        return x
    try:
        return struct.unpack("<f", struct.pack("<f", x))[0]
    except OverflowError:
        return math.copysign(math.inf, x)


def from_bits(bits):
    return struct.unpack("<f", struct.pack("<I", bits))[0]


def to_bits(x):
    return struct.unpack("<I", struct.pack("<f", x))[0]


class Dtype:
    """F32, F16 or BF16: names, rounding, bytes."""

    EPSILON = {"F32": 2.0**-23, "F16": 2.0**-10, "BF16": 2.0**-7}
    TORCH = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}

    def __init__(self, name):
        self.name = name
        self.torch_name = self.TORCH[name]
        self.epsilon = self.EPSILON[name]
        self.size = 4 if name == "F32" else 2

    def encode(self, x):
        if self.name == "F32":
            return struct.pack("<f", x)
        if self.name == "F16":
            try:
                return struct.pack("<e", x)
            except OverflowError:
                return struct.pack("<H", 0x7C00 | (0x8000 if x < 0 else 0))
        bits = to_bits(f32(x))
        return struct.pack("<H", (bits + 0x7FFF + (bits >> 16 & 1)) >> 16)

    def decode(self, data):
        if self.name == "F32":
            return struct.unpack("<f", data)[0]
        if self.name == "F16":
            return struct.unpack("<e", data)[0]
        return from_bits(struct.unpack("<H", data)[0] << 16)

    def round(self, x):
        return self.decode(self.encode(f32(x)))

    def pack(self, values):
        return b"".join(self.encode(x) for x in values)

    def unpack(self, data):
        return [self.decode(data[i:i + self.size])
                for i in range(0, len(data), self.size)]


def ceil_div(a, b):
    return -(-a // b)


# ---------------------------------------------------------------- bitsandbytes

NF4_LEVELS = [from_bits(b) for b in (
    0xBF800000, 0xBF3239B1, 0xBF066B30, 0xBECA32A0, 0xBE91A24D, 0xBE3D353F,
    0xBDBA7871, 0x00000000, 0x3DA2FAFF, 0x3E24CAE3, 0x3E7C04DD, 0x3EAD033A,
    0x3EE1A4B8, 0x3F1007AB, 0x3F3913B3, 0x3F800000)]
# By code: 0, 1/192, 2/3, 1, 1/3, 1/2, 1/6, 1/4; then the negatives, with +0.0.
FP4_POSITIVE = [f32(f32(x) / 12) for x in (0, 0.0625, 8, 12, 4, 6, 2, 3)]
FP4_LEVELS = FP4_POSITIVE + [0.0] + [-x for x in FP4_POSITIVE[1:]]
LEVELS = {"nf4": NF4_LEVELS, "fp4": FP4_LEVELS}

NF4_CUDA_BOUNDS = [from_bits(b) for b in (
    0xBF591CD9, 0xBF1C5270, 0xBEEB8480, 0xBEADEA76, 0xBE703CEC, 0xBE0D38BC,
    0xBD3A7871, 0x3D22FAFF, 0x3DF64863, 0x3E5067E0, 0x3E9582D4, 0x3EC753F9,
    0x3F006D03, 0x3F248DAF, 0x3F5C89D9)]
FP4_CUDA_BOUNDS = [from_bits(b) for b in (
    0x3B2AAAB9, 0x3DB00000, 0x3E555555, 0x3E955555, 0x3ED55556, 0x3F155550,
    0x3F555555)]
FP4_BY_MAGNITUDE = [0, 1, 6, 7, 4, 5, 2, 3]
# The CPU's stable sort of the levels: code 0 before code 8.
FP4_SORTED = [11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3]
ZERO_CODE = {"nf4": 7, "fp4": 0}

SMALLEST_NORMAL = 2.0**-126
CPU_FLOOR = f32(1e-38)
NESTED_BLOCK = 256


def flush(x):
    return 0.0 if abs(x) < SMALLEST_NORMAL else x


def rank(bounds, t):
    """How many of the ascending bounds are strictly below t."""
    return bisect.bisect_left(bounds, t)


def cuda_code(kind, t):
    if kind == "nf4":
        return rank(NF4_CUDA_BOUNDS, t)
    code = FP4_BY_MAGNITUDE[rank(FP4_CUDA_BOUNDS, abs(t))]
    return code + 8 if t < 0 else code


@functools.lru_cache
def cpu_order_and_bounds(kind):
    order = list(range(16)) if kind == "nf4" else FP4_SORTED
    levels = [LEVELS[kind][code] for code in order]
    return order, [f32(f32(a + b) / 2) for a, b in zip(levels, levels[1:])]


def cpu_code(kind, t):
    order, bounds = cpu_order_and_bounds(kind)
    return order[rank(bounds, t)]


def encode_block_cuda(kind, block):
    absmax = max(abs(flush(w)) for w in block)
    if absmax == 0:
        return absmax, [0] * len(block)  # 0 * infinity is above no bound
    reciprocal = flush(f32(1 / absmax))
    return absmax, [cuda_code(kind, flush(f32(flush(w) * reciprocal)))
                    for w in block]


def clamp(x, low, high):
    return min(max(x, low), high)


def encode_block_cpu(kind, block, full):
    absmax = max(abs(w) for w in block)
    floored = max(absmax, CPU_FLOOR)
    if full:
        reciprocal = f32(1 / floored)
        scaled = [f32(w * reciprocal) for w in block]
    else:
        scaled = [f32(w / floored) for w in block]
    codes = [cpu_code(kind, clamp(t, -1.0, 1.0)) for t in scaled]
    return (absmax if full else floored), codes


def encode_4bit(kind, rule, block_size, weight):
    """(packed bytes, absmax of each block)."""
    absmax, codes = [], []
    for begin in range(0, len(weight), block_size):
        block = weight[begin:begin + block_size]
        if rule == "cuda":
            m, block_codes = encode_block_cuda(kind, block)
        else:
            m, block_codes = encode_block_cpu(kind, block,
                                              len(block) == block_size)
        absmax.append(m)
        codes += block_codes
    if len(codes) % 2:
        zero_block = rule == "cuda" and absmax[-1] == 0
        codes.append(0 if zero_block else ZERO_CODE[kind])
    packed = bytes(codes[i] << 4 | codes[i + 1]
                   for i in range(0, len(codes), 2))
    return packed, absmax


def decode_4bit(kind, packed, absmax, block_size, count):
    codes = [c for byte in packed for c in (byte >> 4, byte & 15)][:count]
    return [f32(LEVELS[kind][c] * absmax[i // block_size])
            for i, c in enumerate(codes)]


@functools.lru_cache
def nested_levels():
    """The 256 levels: seven decades of midpoints, mirrored, with 0 and 1."""
    def fma(a, b, c):  # the products here fit a double
        return f32(a * b + c)
    positive = [1.0]
    low = f32(0.1)
    for i in range(7):
        steps = 2**i
        step = f32(f32(1 - low) / steps)
        points = [fma(step, j, low) if j < (steps + 1) // 2
                  else fma(-step, steps - j, 1.0) for j in range(steps + 1)]
        power = f32(10.0**(i - 6))
        for a, b in zip(points, points[1:]):
            positive.append(f32(power * f32(f32(a + b) / 2)))
    negative = [-x for x in positive[1:]]
    return sorted(positive + negative + [0.0])


def cascade_sum(rows):
    """Sum of equally long rows, in torch's order."""
    width = len(rows[0])
    def add(into, row):
        for i in range(width):
            into[i] = f32(into[i] + row[i])
    quads = len(rows) // 4
    shift = max(4, max(0, (quads - 1).bit_length()) // 4)
    levels = [[[0.0] * width for _ in range(4)] for _ in range(4)]
    for q in range(quads):
        for k in range(4):
            add(levels[0][k], rows[4 * q + k])
        done, j = q + 1, 1
        while j < 4 and done % 2**shift == 0:
            for k in range(4):
                add(levels[j][k], levels[j - 1][k])
                levels[j - 1][k] = [0.0] * width
            done >>= shift
            j += 1
    for j in range(1, 4):
        for k in range(4):
            add(levels[0][k], levels[j][k])
    for row in rows[4 * quads:]:
        add(levels[0][0], row)
    for k in range(1, 4):
        add(levels[0][0], levels[0][k])
    return levels[0][0]


def torch_mean(values):
    count, lanes = len(values), 8
    if count < lanes:
        total = cascade_sum([[x] for x in values])[0]
    else:
        whole = count // lanes * lanes
        sums = cascade_sum([values[i:i + lanes]
                            for i in range(0, whole, lanes)])
        total = 0.0
        for x in values[whole:] + sums:
            total = f32(total + x)
    return f32(total / count)


def nested_code_cuda(midpoints, t):
    below = rank(midpoints, t)
    tie = below < 255 and midpoints[below] == t
    return below + (below % 2 if tie else 0)  # a tie goes to the even code


def nested_code_cpu(midpoints, d, reciprocal):
    t = 0.0 if d == 0 else f32(d * reciprocal)
    v = clamp(t, -1.0, 1.0)
    h = f32(f32(v + 1) * 0.5)
    j = int(f32(h * 65535 + 0.5))
    grid = f32(-1 + f32(f32(2 * j) / 65535))
    return rank(midpoints, grid)


def encode_nested(rule, absmax):
    """(codes, nested_absmax, offset)."""
    levels = nested_levels()
    midpoints = [f32(f32(a + b) * 0.5) for a, b in zip(levels, levels[1:])]
    offset = torch_mean(absmax)
    ftz = flush if rule == "cuda" else lambda x: x
    codes, scales = [], []
    for begin in range(0, len(absmax), NESTED_BLOCK):
        d = [ftz(f32(m - offset)) for m in absmax[begin:begin + NESTED_BLOCK]]
        scale = max(abs(x) for x in d)
        scales.append(scale)
        if scale == 0:
            codes += [0] * len(d)
        elif rule == "cuda":
            reciprocal = flush(f32(1 / scale))
            codes += [nested_code_cuda(midpoints, flush(f32(x * reciprocal)))
                      for x in d]
        else:
            reciprocal = f32(1 / scale)
            codes += [nested_code_cpu(midpoints, x, reciprocal) for x in d]
    return codes, scales, offset


def decode_nested(codes, scales, offset):
    levels = nested_levels()
    return [f32(f32(levels[c] * scales[i // NESTED_BLOCK]) + offset)
            for i, c in enumerate(codes)]


def bitsandbytes(spec, name, dtype, shape, weight):
    """([(name, dtype, shape, bytes)] in the format's order, decoded bytes)."""
    kind, block_size = spec["method"], spec["block_size"]
    floats = Dtype("F32").pack
    packed, absmax = encode_4bit(kind, spec["rule"], block_size, weight)
    state = {"quant_type": kind, "blocksize": block_size,
             "dtype": dtype.torch_name, "shape": shape}
    if spec["double_quant"]:
        codes, scales, offset = encode_nested(spec["rule"], absmax)
        absmax = decode_nested(codes, scales, offset)
        state.update(nested_blocksize=NESTED_BLOCK, nested_dtype="float32",
                     nested_offset=offset)
        parts = [(".absmax", "U8", [len(codes)], bytes(codes)),
                 (".quant_map", "F32", [16], floats(LEVELS[kind])),
                 (".nested_absmax", "F32", [len(scales)], floats(scales)),
                 (".nested_quant_map", "F32", [256], floats(nested_levels()))]
    else:
        parts = [(".absmax", "F32", [len(absmax)], floats(absmax)),
                 (".quant_map", "F32", [16], floats(LEVELS[kind]))]
    text = json.dumps(state).encode()
    parts.insert(0, ("", "U8", [len(packed), 1], packed))
    parts.append((f".quant_state.bitsandbytes__{kind}", "U8", [len(text)],
                  text))
    decoded = decode_4bit(kind, packed, absmax, block_size, len(weight))
    return [(name + suffix, *rest) for suffix, *rest in parts], \
        dtype.pack(decoded)


# ---------------------------------------------------------- compressed-tensors


def pack_bits(codes, bits):
    """One dense little-endian bit stream, filled up to whole words."""
    stream = sum(code << i * bits for i, code in enumerate(codes))
    return stream.to_bytes(4 * ceil_div(len(codes) * bits, 32), "little")


def affine_group(dtype, bits, symmetric, group):
    """(scale, zero point, codes), signed; every step rounds to the dtype."""
    fl = dtype.round
    lowest, highest = -2**(bits - 1), 2**(bits - 1) - 1
    low, high = min(0.0, min(group)), max(0.0, max(group))
    if symmetric:
        scale = fl(max(abs(low), abs(high)) / ((2**bits - 1) / 2))
    else:
        scale = fl(fl(high - low) / (2**bits - 1))
    zero = 0
    if not symmetric and scale > 0:
        zero = round(clamp(fl(lowest - fl(low / scale)), lowest, highest))
    elif not symmetric and low < 0:  # the scale underflowed: infinity, clamped
        zero = highest
    if scale == 0:
        scale = dtype.epsilon
    codes = [round(clamp(fl(fl(w / scale) + zero), lowest, highest))
             for w in group]
    return scale, zero, codes


def compressed_tensors(spec, name, dtype, shape, weight):
    """([(name, dtype, shape, bytes)] in the format's order, decoded bytes)."""
    rows, cols = shape
    bits, middle = spec["bits"], 2**(spec["bits"] - 1)
    size = cols if spec["group_size"] == -1 else spec["group_size"]
    groups = cols // size
    words, scales, zeros, decoded = b"", [], [], []
    for row in range(rows):
        row_codes = []
        for g in range(groups):
            begin = row * cols + g * size
            scale, zero, codes = affine_group(
                dtype, bits, spec["symmetric"], weight[begin:begin + size])
            scales.append(scale)
            zeros.append(zero + middle)
            row_codes += [code + middle for code in codes]
            decoded += [f32((code - zero) * scale) for code in codes]
        words += pack_bits(row_codes, bits)
    parts = [("_packed", "I32", [rows, ceil_div(cols * bits, 32)], words),
             ("_scale", dtype.name, [rows, groups], dtype.pack(scales))]
    if not spec["symmetric"]:
        columns = [pack_bits(zeros[g::groups], bits) for g in range(groups)]
        num_words = ceil_div(rows * bits, 32)
        zero_words = b"".join(column[4 * i:4 * i + 4]
                              for i in range(num_words) for column in columns)
        parts.append(("_zero_point", "I32", [num_words, groups], zero_words))
    parts.append(("_shape", "I64", [2], struct.pack("<qq", rows, cols)))
    return [(name + suffix, *rest) for suffix, *rest in parts], \
        dtype.pack(decoded)


# --------------------------------------------- GPTQ, AWQ, hqq: packing alone
#
# A weight is a dict: bits, group_size (-1: the row), codes (rows of integers),
# zeros and scales (rows of one a group). What comes back is
# ([(name, dtype, shape, bytes)] in the format's order, decoded bytes).


def transposed(rows):
    return [list(column) for column in zip(*rows)]


def columns_of_words(rows, bits):
    """Each row a bit stream down a column: I32 [words of a row, rows]."""
    streams = [pack_bits(row, bits) for row in rows]
    count = len(streams[0]) // 4
    return count, b"".join(stream[4 * i:4 * i + 4]
                           for i in range(count) for stream in streams)


def decode_grid(weight, group_of, out):
    """(code - zero point) * scale, rounded once to `out`."""
    return out.pack([
        out.round((code - zeros[group_of(k)]) * scales[group_of(k)])
        for codes, zeros, scales in zip(weight["codes"], weight["zeros"],
                                        weight["scales"])
        for k, code in enumerate(codes)])


def gptq(weight, module, version, g_idx=None):
    """GPTQ v1 (zero points minus 1) or v2."""
    bits, half = weight["bits"], Dtype("F16")
    out, cols = len(weight["codes"]), len(weight["codes"][0])
    size = cols if weight["group_size"] == -1 else weight["group_size"]
    g_idx = g_idx or [k // size for k in range(cols)]
    words, qweight = columns_of_words(weight["codes"], bits)
    minus = 1 if version == 1 else 0
    zeros = [[z - minus for z in column]
             for column in transposed(weight["zeros"])]
    assert min(map(min, zeros)) >= 0, "v1 holds no zero point of 0"
    qzeros = b"".join(pack_bits(column, bits) for column in zeros)
    scales = transposed(weight["scales"])
    parts = [("qweight", "I32", [words, out], qweight),
             ("qzeros", "I32", [len(zeros), out * bits // 32], qzeros),
             ("scales", "F16", [len(scales), out],
              b"".join(half.pack(row) for row in scales)),
             ("g_idx", "I32", [cols], struct.pack(f"<{cols}i", *g_idx))]
    return [(f"{module}.{part}", *rest) for part, *rest in parts], \
        decode_grid(weight, lambda k: g_idx[k], half)


AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]  # the output of each nibble of a word


def awq_words(rows):
    """[out][lines] values to I32 [lines, out / 8]."""
    data = b""
    for line in transposed(rows):
        for c in range(0, len(line), 8):
            word = sum(line[c + AWQ_ORDER[i]] << 4 * i for i in range(8))
            data += struct.pack("<I", word)
    return data


def awq(weight, module):
    """AWQ GEMM."""
    half = Dtype("F16")
    out, cols = len(weight["codes"]), len(weight["codes"][0])
    size = cols if weight["group_size"] == -1 else weight["group_size"]
    scales = transposed(weight["scales"])
    parts = [("qweight", "I32", [cols, out // 8], awq_words(weight["codes"])),
             ("qzeros", "I32", [cols // size, out // 8],
              awq_words(weight["zeros"])),
             ("scales", "F16", [len(scales), out],
              b"".join(half.pack(row) for row in scales))]
    return [(f"{module}.{part}", *rest) for part, *rest in parts], \
        decode_grid(weight, lambda k: k // size, half)


HQQ_PACKING = {8: "8bit_u8", 4: "4bit_u8", 3: "3bit_32", 2: "2bit_u8",
               1: "1bit_u8"}


def hqq_pack(bits, matrix):
    """Code matrix to (dtype, shape, bytes): part after part of its rows."""
    per = 10 if bits == 3 else 8 // bits
    length = ceil_div(len(matrix), per)
    cols = len(matrix[0])
    padded = matrix + [[0] * cols] * (per * length - len(matrix))
    assert bits == 3 or len(padded) == len(matrix)
    values = []
    for row in range(length):
        for col in range(cols):
            value = 0
            for part in range(per):
                value = value << bits | padded[row + part * length][col]
            values.append(value)
    data = struct.pack(f"<{len(values)}{'I' if bits == 3 else 'B'}", *values)
    return "I32" if bits == 3 else "U8", [length, cols], data


def hqq(weight, module, dtype, shape, axis):
    """hqq's encoded state dict; codes, zeros and scales are flat lists."""
    bits, size, codes = (weight[k] for k in ("bits", "group_size", "codes"))
    groups = len(codes) // size
    cols = size if axis == 1 else groups
    matrix = [codes[i:i + cols] for i in range(0, len(codes), cols)]
    side = [groups, 1] if axis == 1 else [1, groups]
    def flag(value):
        return "U8", [], bytes([value])
    def number(value):
        return "I32", [], struct.pack("<i", value)
    def text(value):
        return "U8", [len(value)], value.encode()
    parts = [
        ("W_q", *hqq_pack(bits, matrix)), ("nbits", *number(bits)),
        ("group_size", *number(size)),
        ("shape", "I64", [2], struct.pack("<qq", *shape)),
        ("scale", dtype.name, side, dtype.pack(weight["scales"])),
        ("zero", dtype.name, side, dtype.pack(weight["zeros"])),
        ("axis", *number(axis)), ("packing", *text(HQQ_PACKING[bits])),
        ("unpack_view_dtype",
         *text("torch.int32" if bits == 3 else "torch.uint8")),
        ("view_as_float", *flag(0)), ("quant_scale", *flag(0)),
        ("quant_zero", *flag(0)),
        ("compute_dtype", *text("torch." + dtype.torch_name)),
        ("offload_meta", *flag(0)), ("encoded_state_dict", *flag(1)),
        ("stores_quant_config", *flag(1)), ("channel_wise", *flag(1)),
        ("optimize", *flag(1)), ("round_zero", *flag(bits == 4))]
    decoded = []
    for i, code in enumerate(codes):
        group = i // size if axis == 1 else i % groups
        difference = dtype.round(code - weight["zeros"][group])
        decoded.append(dtype.round(difference * weight["scales"][group]))
    return [(f"{module}.{part}", *rest) for part, *rest in parts], \
        dtype.pack(decoded)
