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
# Library headers that a layer must not know.
FORBIDDEN = {
    "kernels/base": [r"grpc", r"\.pb\.h", r"nlohmann"],
    "kernels": [r"grpc", r"\.pb\.h", r"nlohmann"],
    "quant": [r"grpc", r"\.pb\.h"],
    "service": [],
}
# What no other folder includes, of ours and of libraries: an implementation is
# reached through the operations that it implements.
PRIVATE = {
    "kernels/cpu/": [r"kernels/cpu/", r"hwy/", r"tbb/", r"cblas", r"lapack"],
    "kernels/cuda/": [r"kernels/cuda/", r"cuda", r"cublas", r"cusolver",
                      r"cub/", r"cooperative_groups", r"mma\.h"],
    "kernels/reference/": [r"kernels/reference/"],
}
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.M)


def layer_of(path):
    for layer in LAYERS:
        if path.startswith(layer + "/"):
            return layer
    return None


def allowed(path, name):
    layer = layer_of(path)
    ours = name.split("/")[0] in ("kernels", "quant", "service", "tests",
                                  "proto", "deploy")
    if ours and not any(re.match(p, name) for p in ALLOWED[layer]):
        return False
    if (not ours or name.endswith(".pb.h")) and any(
            re.search(p, name) for p in FORBIDDEN[layer]):
        return False
    return all(path.startswith(folder) for folder, patterns in PRIVATE.items()
               if any(re.match(p, name) for p in patterns))


def check(path, text):
    for _, name in INCLUDE.findall(text):
        if not allowed(path, name):
            yield f"{path}: {layer_of(path)} must not include {name}"


# The check itself must be able to fail, and to pass.
REFUSED = [
    ("kernels/base/x.h", "quant/plan/plan.h"), ("kernels/base/x.h", "hwy/x.h"),
    ("kernels/base/x.h", "kernels/nf4_ops.h"),
    ("kernels/x.cc", "quant/site.h"), ("kernels/x.cc", "grpcpp/grpcpp.h"),
    ("kernels/x.cc", "kernels/cuda/launch.h"), ("kernels/x.cc", "cuda_fp16.h"),
    ("kernels/x.cc", "hwy/highway.h"), ("kernels/x.cc", "tbb/parallel_for.h"),
    ("kernels/cpu/x.cc", "kernels/cuda/launch.h"),
    ("kernels/cpu/x.cc", "cuda_runtime.h"), ("kernels/cuda/x.cu", "hwy/base.h"),
    ("kernels/cuda/x.cu", "kernels/cpu/blas.h"),
    ("kernels/cpu/x.cc", "kernels/reference/gptq_reference.h"),
    ("kernels/reference/x.cc", "kernels/cpu/blas.h"),
    ("quant/x.cc", "grpcpp/grpcpp.h"), ("quant/x.cc", "cuda_runtime.h"),
    ("quant/x.cc", "kernels/cuda/cuda_ops.h"), ("quant/x.cc", "service/x.h"),
    ("quant/x.cc", "quant/v1/quantization.pb.h"), ("quant/x.cc", "hwy/base.h"),
    ("service/x.cc", "kernels/nf4_ops.h"), ("service/x.cc", "tests/x.h"),
    ("service/x.cc", "cublas_v2.h"), ("service/x.cc", "tbb/task_arena.h"),
]
ACCEPTED = [
    ("kernels/cpu/x.cc", "hwy/highway.h"), ("kernels/cpu/x.cc", "cblas.h"),
    ("kernels/cpu/x.cc", "kernels/cpu/blas.h"),
    ("kernels/cuda/x.cu", "cuda_runtime.h"),
    ("kernels/cuda/x.cc", "kernels/cuda/launch.h"),
    ("kernels/x.cc", "kernels/factories.h"), ("quant/x.cc", "kernels/backend.h"),
    ("quant/x.cc", "nlohmann/json.hpp"),
    ("service/x.cc", "quant/v1/quantization.pb.h"),
]


def probe():
    for path, name in REFUSED:
        if not list(check(path, f"  # include <{name}>\n")):
            yield f"the check accepts {name} in {path}"
    for path, name in ACCEPTED:
        if list(check(path, f'#include "{name}"\n')):
            yield f"the check refuses {name} in {path}"


def main():
    files = [p for layer in ("kernels", "quant", "service")
             for p in (ROOT / layer).rglob("*")
             if p.suffix in (".h", ".cc", ".cu", ".cuh")]
    errors = [e for p in files
              for e in check(str(p.relative_to(ROOT)), p.read_text())]
    errors += probe()
    print("\n".join(errors) or f"{len(files)} files, no forbidden edge")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
