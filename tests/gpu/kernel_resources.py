#!/usr/bin/env python3
"""Prints what the compiler takes for every CUDA kernel: registers and shared
memory, from the least to the most of its variants. No GPU is needed; the table
of tests/bench/RESULTS.md is made of it. Ends with 1 where a kernel spills or
has a stack.

usage: kernel_resources.py NVCC [ARCHITECTURE]     ARCHITECTURE: 90
"""

import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
# As kernels/cuda/cuda.cmake, but for warnings: what spills is to be shown.
FLAGS = ["-I", str(ROOT), "-std=c++20", "-O3", "-DNDEBUG", "--fmad=false",
         "-Xptxas", "-v", "-c", "-o", os.devnull]
KERNEL = re.compile(
    r"Compiling entry function '(?P<symbol>\S+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers(?P<rest>[^\n]*)", re.DOTALL)


def compile_one(nvcc, architecture, source):
    done = subprocess.run([nvcc, f"-arch=sm_{architecture}", *FLAGS, source],
                          capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{source}:\n{done.stderr}")
    return done.stdout + done.stderr


def kernels(log):
    """(name, registers, bytes of shared memory, bytes spilled or of stack)"""
    for found in KERNEL.finditer(log):
        # Length and name: ...12FooBarKernelEntryI...
        name = re.search(r"\d+([A-Z]\w*?)Entry", found["symbol"])[1]
        shared = re.search(r"(\d+) bytes smem", found["rest"])
        lost = sum(int(found[key]) for key in ("stack", "stores", "loads"))
        yield (name, int(found["registers"]),
               int(shared[1]) if shared else 0, lost)


def span(values):
    least, most = min(values), max(values)
    return str(most) if least == most else f"{least}-{most}"


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    nvcc = sys.argv[1]
    architecture = sys.argv[2] if len(sys.argv) > 2 else "90"
    sources = sorted((ROOT / "kernels" / "cuda").glob("*.cu"))
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        logs = list(pool.map(
            lambda source: compile_one(nvcc, architecture, source), sources))
    count = lost = 0
    print("| kernel | variants | registers | shared memory, bytes |")
    print("|---|---|---|---|")
    for source, log in zip(sources, logs):
        variants = {}
        for name, *numbers in kernels(log):
            variants.setdefault(name, []).append(numbers)
        for name, all_numbers in sorted(variants.items()):
            registers, shared, spilled = zip(*all_numbers)
            count += len(all_numbers)
            lost += sum(spilled)
            print(f"| {source.stem}: {name.removesuffix('Kernel')} "
                  f"| {len(all_numbers)} | {span(registers)} | {span(shared)} |")
    print(f"\n{count} kernels for sm_{architecture}, {lost} bytes of spills and "
          "stacks")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
