#!/usr/bin/env python3
"""Prints how many instructions a weight costs in the loop of the NF4 kernels:
the least way from the loop's head back to it that loads, shuffles and stores
what a tile of blocks of 64 elements does. Every instruction on it counts, those
whose predicate is false too. No GPU is needed; figures of tests/bench/RESULTS.md
are made of it.

usage: loop_instructions.py NVCC NVDISASM [ARCHITECTURE]     ARCHITECTURE: 90
"""

import collections
import pathlib
import re
import subprocess
import sys
import tempfile

from kernel_resources import FLAGS, ROOT

BRANCH = re.compile(r"(@!?U?P\d )?BRA\s(!?U?P\d, )?`\((\S+)\)")


def encoded(variant):
    """Weights of a tile and what its way has, by the name of a variant."""
    weights = 16 if "ParamsIf" in variant else 32
    lookups = weights * (2 if "Lb1" in variant else 1)  # FP4: gain and base
    chunks = weights // 8
    return weights, {r"LDG\.E\.128": 4, r"SHFL\.IDX": lookups + chunks,
                     r"SHFL\.BFLY": 3, r"STG\.E": chunks + 1}


def decoded(variant):
    stores = 8 if "ParamsIf" in variant else 4
    return 32, {r"SHFL\.IDX": 32, r"STG\.E\.128": stores}


KERNELS = {"nf4_tiles": ("EncodeTilesKernel", encoded),
           "nf4": ("DecodeKernel", decoded)}


def disassemble(nvcc, nvdisasm, architecture, source):
    """(kernel, instructions, labels' places) of each kernel."""
    flags = [flag for flag in FLAGS if flag not in ("-c", "/dev/null")]
    flags.remove("-o")
    with tempfile.TemporaryDirectory() as folder:
        cubin = pathlib.Path(folder) / "kernels.cubin"
        subprocess.run([nvcc, "-cubin", f"-arch=sm_{architecture}", *flags,
                        "-o", cubin, source], check=True, capture_output=True)
        text = subprocess.run([nvdisasm, "-c", cubin], check=True,
                              capture_output=True, text=True).stdout
    for section in re.split(r"\n\t\.section\t", text):
        name = re.match(r"\.text\.([\w$]+)", section)
        instructions, labels = [], {}
        for line in section.split("\n"):
            line = re.sub(r"/\*[0-9a-f]{4,}\*/", "", line).strip()
            if re.match(r"\.L_x_\d+:", line):
                labels[line.rstrip(":")] = len(instructions)
            elif line.endswith(";"):
                instructions.append(line.rstrip(" ;"))
        if name:
            yield name[1], instructions, labels


def successors(instructions, labels):
    ways = []
    for i, text in enumerate(instructions):
        branch = BRANCH.match(text)
        if branch:
            falls = branch[1] or branch[2]
            ways.append([labels[branch[3]]] + ([i + 1] if falls else []))
        elif re.match(r"CALL|RET|EXIT|BRA", text):  # a slow way, or the end
            ways.append([])
        else:
            ways.append([i + 1] if i + 1 < len(instructions) else [])
    return ways


def least_way(instructions, ways, head, needs):
    """Instructions from `head` back to it that have what is needed."""
    goal = tuple(needs.values())
    marks = [tuple(1 if re.search(what, text) else 0 for what in needs)
             for text in instructions]
    start = (head, (0,) * len(goal))
    steps = {start: 0}
    queue = collections.deque([start])
    while queue:
        state = queue.popleft()
        at, had = state
        has = tuple(a + b for a, b in zip(had, marks[at]))
        if any(a > b for a, b in zip(has, goal)):
            continue
        for to in ways[at]:
            if to == head and has == goal:
                return steps[state] + 1
            if (to, has) not in steps:
                steps[(to, has)] = steps[state] + 1
                queue.append((to, has))
    return None


def main():
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    architecture = sys.argv[3] if len(sys.argv) > 3 else "90"
    print("| kernel | instructions of a tile | of a weight |")
    print("|---|---|---|")
    for source, (kernel, needs_of) in KERNELS.items():
        path = ROOT / "kernels" / "cuda" / f"{source}.cu"
        for name, instructions, labels in disassemble(
                sys.argv[1], sys.argv[2], architecture, path):
            if kernel not in name:
                continue
            weights, needs = needs_of(name)
            ways = successors(instructions, labels)
            heads = {to for i, all_to in enumerate(ways) for to in all_to
                     if to <= i}
            found = [n for n in (least_way(instructions, ways, head, needs)
                                 for head in heads) if n is not None]
            if not found:
                sys.exit(f"{name}: no such loop")
            variant = re.search(r"Params(\w+?)EEEv", name)[1]
            print(f"| {kernel.removesuffix('Kernel')} {variant} | {min(found)} "
                  f"| {min(found) / weights:.2f} |")


if __name__ == "__main__":
    main()
