#!/usr/bin/env bash
# That a CUDA kernel which spills registers, or has a stack, cannot be built: with
# the flags that every kernel is compiled with (kernels/cuda/cuda.cmake), one that
# keeps its values in registers compiles, and those that cannot do not.
# usage: spill_test.sh NVCC FLAG...
set -euo pipefail
nvcc=${1:?usage: spill_test.sh NVCC FLAG...}
source=$(dirname "$0")/spills.cu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

compile() { # values, then the flags
  "$nvcc" -std=c++20 -arch=sm_90 "-DQS_VALUES=$1" "${@:2}" -c "$source" \
    -o "$work/out.o" >"$work/log" 2>&1
}

if ! compile 16 "${@:2}"; then
  cat "$work/log" >&2
  echo "16 values: does not compile" >&2
  exit 1
fi
if compile 400 "${@:2}"; then
  echo "400 values: compiles, so a spill would go unseen" >&2
  exit 1
fi
grep -q 'spill' "$work/log" || {
  cat "$work/log" >&2
  echo "400 values: failed, but for another reason than spills" >&2
  exit 1
}
if compile 16 -DQS_STACK "${@:2}"; then
  echo "a stack: compiles, so one would go unseen" >&2
  exit 1
fi
grep -q 'stack frame' "$work/log" || {
  cat "$work/log" >&2
  echo "a stack: failed, but for another reason" >&2
  exit 1
}
echo "a kernel that spills or has a stack does not compile"
