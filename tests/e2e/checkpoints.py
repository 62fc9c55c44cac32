"""Checkpoints read, decoded and made by few lines of Python, for comparison."""
import array
import json
import pathlib
import random
import shutil
import struct

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = ROOT / "tests" / "data" / "tiny-llama"
CALIBRATION = ROOT / "tests" / "data" / "tiny-llama-calibration.safetensors"
INDEX = "model.safetensors.index.json"
SEED = 20251124


def read_safetensors(path):
    """{name: (dtype, shape, bytes)} and the metadata."""
    data = pathlib.Path(path).read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    metadata = header.pop("__metadata__", {})
    body = memoryview(data)[8 + size:]
    tensors, filled = {}, 0
    for name, item in sorted(header.items(),
                             key=lambda kv: kv[1]["data_offsets"]):
        begin, end = item["data_offsets"]
        assert begin == filled, (path, name, "hole or overlap")
        filled = end
        tensors[name] = (item["dtype"], item["shape"], bytes(body[begin:end]))
    assert filled == len(body), (path, "bytes after the last tensor")
    return tensors, metadata


def write_safetensors(path, tensors, metadata=None):
    header, at = {}, 0
    if metadata is not None:
        header["__metadata__"] = metadata
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape,
                        "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for _, _, data in tensors.values():
            out.write(data)


def read_checkpoint(directory):
    tensors = {}
    for shard in sorted(pathlib.Path(directory).glob("*.safetensors")):
        found, metadata = read_safetensors(shard)
        assert metadata.get("format") == "pt", (shard, metadata)
        assert not tensors.keys() & found.keys(), shard
        tensors.update(found)
    return tensors


def floats(dtype, data):
    if dtype == "F32":
        return array.array("f", data)
    if dtype == "F16":
        return array.array("f", struct.unpack(f"<{len(data) // 2}e", data))
    assert dtype == "BF16", dtype
    wide = bytearray(2 * len(data))
    wide[2::4], wide[3::4] = data[0::2], data[1::2]
    return array.array("f", bytes(wide))


def round_bf16(value):
    bits = struct.unpack("<I", struct.pack("<f", value))[0]
    bits = (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000
    return struct.unpack("<f", struct.pack("<I", bits))[0]


def decode_nf4(tensors, name):
    codes = tensors[name][2]
    absmax = floats("F32", tensors[name + ".absmax"][2])
    book = floats("F32", tensors[name + ".quant_map"][2])
    state = json.loads(tensors[name + ".quant_state.bitsandbytes__nf4"][2])
    block = state["blocksize"]
    count = 1
    for dimension in state["shape"]:
        count *= dimension
    values = (book[b] for byte in codes for b in (byte >> 4, byte & 15))
    return [v * absmax[i // block] for i, v in zip(range(count), values)]


def decode_w4(tensors, name, group=128):
    base = name[:-len("weight")]
    words = array.array("I", tensors[base + "weight_packed"][2])
    dtype, (_, groups), scale_bytes = tensors[base + "weight_scale"]
    scales = floats(dtype, scale_bytes)
    rows, cols = struct.unpack("<2q", tensors[base + "weight_shape"][2])
    assert groups == cols // group and len(words) == rows * cols // 8
    return [((words[i >> 3] >> (4 * (i & 7)) & 15) - 8) * scales[i // group]
            for i in range(rows * cols)]


def random_bf16(count, rng):
    """Finite values of both signs, with a spread of magnitudes."""
    high = bytes([0x3b, 0x3c, 0x3d, 0xbb, 0xbc, 0xbd])
    table = bytes(high[b % len(high)] for b in range(256))
    block = min(2 * count, 1 << 20)
    data = bytearray(rng.randbytes(block))
    data[1::2] = data[1::2].translate(table)
    return bytes(data) * (2 * count // block)


def make_big(directory, mebibytes, columns=2048):
    directory.mkdir()
    rng = random.Random(SEED)
    each = 2 * 4096 * columns
    tensors = {f"model.layers.{i}.mlp.up_proj.weight":
               ("BF16", [4096, columns], random_bf16(each // 2, rng))
               for i in range(mebibytes * (1 << 20) // each)}
    write_safetensors(directory / "model.safetensors", tensors,
                      {"format": "pt"})


def cut(tensor, rows, cols):
    """Its first rows and columns."""
    dtype, shape, data = tensor
    size = len(data) // (shape[0] * shape[1])
    rows, cols = min(rows, shape[0]), min(cols, shape[1])
    line = shape[1] * size
    return dtype, [rows, cols], b"".join(
        data[row * line:row * line + cols * size] for row in range(rows))


def make_small(directory, layers=2, inner=128):
    """MODEL and CALIBRATION with their names and files, but few layers and of
    those few inner values: a tenth of the work for GPTQ and AWQ, which take
    longest by far. Returns both paths."""
    model, calibration = directory / MODEL.name, directory / CALIBRATION.name
    model.mkdir(parents=True)
    kept = tuple(f"model.layers.{i}." for i in range(layers))

    def small(tensors):
        out = {}
        for name, tensor in tensors.items():
            if name.startswith("model.layers.") and not name.startswith(kept):
                continue
            if "down" in name:  # its inputs are the inner values
                tensor = cut(tensor, tensor[1][0], inner)
            elif name.endswith(("gate_proj.weight", "up_proj.weight")):
                tensor = cut(tensor, inner, tensor[1][1])
            out[name] = tensor
        return out

    weight_map = {}
    for shard in sorted(MODEL.glob("*.safetensors")):
        tensors, metadata = read_safetensors(shard)
        write_safetensors(model / shard.name, small(tensors), metadata)
        weight_map |= dict.fromkeys(small(tensors), shard.name)
    (model / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    config = json.loads((MODEL / "config.json").read_text())
    config |= {"num_hidden_layers": layers, "intermediate_size": inner}
    (model / "config.json").write_text(json.dumps(config))
    for path in MODEL.iterdir():
        if not (model / path.name).exists():
            shutil.copy(path, model / path.name)
    tensors, metadata = read_safetensors(CALIBRATION)
    tensors = small(tensors)
    inputs = json.loads(metadata["inputs"])
    write_safetensors(calibration, tensors, {"inputs": json.dumps(
        {name: inputs[name] for name in tensors})})
    return model, calibration
