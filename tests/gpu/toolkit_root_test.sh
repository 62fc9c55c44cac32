#!/usr/bin/env bash
# That CUDAToolkit_ROOT alone, in the environment or as a variable, finds nvcc:
# configures the kernels twice, without it on PATH.
# usage: toolkit_root_test.sh NVCC
set -euo pipefail
nvcc=${1:?usage: toolkit_root_test.sh NVCC}
source=$(cd "$(dirname "$0")/../.." && pwd)
root=$(cd "$(dirname "$nvcc")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset CUDACXX

path=
while IFS= read -r -d : folder; do
  # Not where the other tools are, too.
  [ -x "$folder/nvcc" ] && [ ! -x "$folder/cmake" ] || path+=${path:+:}$folder
done <<<"$PATH:"
export PATH=$path

check() { # name, cmake argument...
  cmake -S "$source" -B "$work/$1" -G Ninja -DQS_SERVICE=OFF -DQS_TESTS=OFF \
    -DQS_BENCH=OFF "${@:2}" >"$work/log" 2>&1 || {
    cat "$work/log" >&2
    return 1
  }
  grep -q "^CMAKE_CUDA_COMPILER:.*=$root/bin/nvcc$" "$work/$1/CMakeCache.txt" || {
    cat "$work/log" >&2
    echo "$1: CUDAToolkit_ROOT=$root did not find nvcc" >&2
    return 1
  }
}

CUDAToolkit_ROOT=$root check environment
check variable "-DCUDAToolkit_ROOT=$root"
