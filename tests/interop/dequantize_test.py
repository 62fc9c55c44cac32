"""Checks dequantize.py against what the real libraries packed and decoded.

    dequantize_test.py        reads tests/data/golden; exit code 1 on a mismatch
"""
import json
import pathlib
import sys

import torch
from hqq.core.quantize import HQQLinear
from safetensors import safe_open

import dequantize

GOLDEN = pathlib.Path(__file__).parent / "../data/golden"


def read(file):
    with safe_open(file, "pt") as opened:
        return ({name: opened.get_tensor(name) for name in opened.keys()},
                opened.metadata())


def pick(tensors, names):
    return {"m." + end: tensors[name] for end, name in names.items()}


def gptq(tensors, parameters):
    if "dequantized" not in tensors:
        return
    for version, name in (("gptq", "qzeros_v1"), ("gptq_v2", "qzeros_v2")):
        # A zero point of 0 has no portable form in version 1.
        if version == "gptq" and (tensors["zeros"] == 0).any():
            continue
        yield dequantize.decode_gptq(
            "m", pick(tensors, {"qweight": "qweight", "qzeros": name,
                                "scales": "scales", "g_idx": "g_idx"}),
            parameters | {"checkpoint_format": version})


def awq(tensors, parameters):
    yield dequantize.decode_awq(
        "m", pick(tensors, {n: n for n in ("qweight", "qzeros", "scales")}),
        parameters)


def compressed(tensors, parameters):
    if "weight_packed" not in tensors or "dequantized" not in tensors:
        return
    names = [n for n in ("weight_packed", "weight_scale", "weight_zero_point",
                         "weight_shape") if n in tensors]
    yield dequantize.decode_compressed(
        "m", pick(tensors, {n: n for n in names}),
        {"num_bits": parameters["bits"], "symmetric": parameters["sym"]})


def check(folder, decoder):
    count = 0
    for file in sorted((GOLDEN / folder).glob("*.safetensors")):
        tensors, metadata = read(file)
        parameters = json.loads(metadata["params"])
        for got in decoder(tensors, parameters):
            want = tensors["dequantized"]
            assert torch.equal(got.to(want.dtype), want), file.name
            count += 1
    assert count > 0, folder
    print(f"ok   {folder}: {count} weights equal")


def check_hqq():
    """Its files hold no decoded weights: hqq itself says."""
    files = sorted((GOLDEN / "hqq_pack").glob("serialized_*.safetensors"))
    assert files
    for file in files:
        tensors, _ = read(file)
        module = next(n for n in tensors if n.endswith(".W_q"))[:-len(".W_q")]
        layer = HQQLinear(None, None, device="cpu", compute_dtype=(
            tensors[module + ".scale"].dtype))
        layer.load_state_dict({name[len(module) + 1:]: value.clone()
                               for name, value in tensors.items()})
        got = dequantize.decode_hqq(module, tensors)
        assert torch.equal(got, layer.dequantize()), file.name
    print(f"ok   hqq_pack: {len(files)} weights equal")


def main():
    check("gptq_pack", gptq)
    check("awq_pack", awq)
    check("compressed_tensors", compressed)
    check_hqq()


if __name__ == "__main__":
    sys.exit(main())
