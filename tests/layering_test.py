#!/usr/bin/env python3
"""Fails when a source file includes a layer that it must not know.

    kernels/base <- kernels <- quant <- service -> proto
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
LAYERS = ["kernels/base", "kernels", "quant", "service"]
# What a layer may include of ours, as path patterns.
ALLOWED = {
    "kernels/base": [r"kernels/base/"],
    "kernels": [r"kernels/"],
    "quant": [r"kernels/base/", r"kernels/backend\.h", r"kernels/stream\.h",
              r"kernels/device_\w+\.h", r"kernels/\w+_ops\.h", r"quant/"],
    "service": [r"kernels/base/", r"kernels/backend\.h",
                r"kernels/gpus\.h", r"quant/",
                r"service/", r"\w+/v1/\w+(\.grpc)?\.pb\.h",
                r"quant/v1/", r"google/rpc/", r"grpc/health/"],
}
# System and library headers that belong to one layer only.
FORBIDDEN = {
    "kernels/base": [r"grpc", r"\.pb\.h", r"hwy/", r"cuda", r"nlohmann"],
    "kernels": [r"grpc", r"\.pb\.h", r"nlohmann"],  # cuda: in kernels/cuda
    "quant": [r"grpc", r"\.pb\.h", r"hwy/", r"cuda", r"tbb/"],
    "service": [r"hwy/", r"cuda", r"tbb/"],
}
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.M)


def layer_of(path):
    for layer in LAYERS:
        if path.startswith(layer + "/"):
            return layer
    return None


def check(path, text):
    layer = layer_of(path)
    for quote, name in INCLUDE.findall(text):
        ours = name.split("/")[0] in ("kernels", "quant", "service", "tests",
                                      "proto", "deploy")
        if ours and not any(re.match(p, name) for p in ALLOWED[layer]):
            yield f"{path}: {layer} must not include {name}"
        generated = name.endswith(".pb.h")
        if any(re.search(p, name) for p in FORBIDDEN[layer]) and (
                not ours or generated):
            yield f"{path}: {layer} must not include {name}"


def main():
    files = [p for layer in ("kernels", "quant", "service")
             for p in (ROOT / layer).rglob("*")
             if p.suffix in (".h", ".cc", ".cu", ".cuh")]
    errors = [e for p in files
              for e in check(str(p.relative_to(ROOT)), p.read_text())]
    # The check itself must be able to fail.
    probe = list(check("kernels/base/x.h", '#include "quant/plan/plan.h"\n'))
    if not probe or not list(check("quant/x.cc", "#include <grpcpp/grpcpp.h>")):
        errors.append("the layering check does not detect a forbidden edge")
    print("\n".join(errors) or f"{len(files)} files, no forbidden edge")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
