#!/usr/bin/env bash
# That the CUDA sources compile with CUDA 12. The Python package index has no
# nvcc of it, so clang takes its place, with the headers, libdevice and ptxas of
# NVIDIA's packages: every kernel to machine code and to host code, and the C++
# sources that include CUDA's headers. By default with 12.0, the first that
# quantd takes, and with 12.5, the last that clang 19 knows.
# usage: cuda12_check.sh [VERSION...]
# Exits 77, and says why, where clang++-19 (or $QS_CUDA_CLANG) is missing.
set -euo pipefail
cd "$(dirname "$0")/../.."
clang=${QS_CUDA_CLANG:-clang++-19}
[ $# -gt 0 ] || set -- 12.0 12.5

if ! command -v "$clang" >/dev/null; then
  echo "cuda12_check: skipped: no $clang (apt-get install clang-19)"
  exit 77
fi

toolkit() { # version: sets $root to a toolkit as clang looks for one
  root=${XDG_CACHE_HOME:-$HOME/.cache}/quantd/cuda-$1-headers
  [ -e "$root/include/cuda.h" ] && return
  # Complete or not there: an interrupted run starts again.
  local part=$root.part
  rm -rf "$part" "$root"
  mkdir -p "$part"
  python3 -m venv "$part/venv"
  # clang includes headers of curand and of CCCL, which first has all of them in
  # the package of 12.5 and does not depend on the toolkit's version.
  "$part/venv/bin/pip" install -q --no-deps --target "$part/packages" \
    "nvidia-cuda-nvcc-cu12==$1.*" "nvidia-cuda-runtime-cu12==$1.*" \
    "nvidia-cuda-cccl-cu12==12.5.*" "nvidia-curand-cu12==10.3.6.*"
  mkdir "$part/bin" "$part/include" "$part/nvvm"
  local package=$part/packages/nvidia
  for name in cuda_runtime cuda_nvcc cuda_cccl curand; do
    cp -r "$package/$name/include/." "$part/include"
  done
  cp "$package/cuda_nvcc/bin/ptxas" "$part/bin"
  cp -r "$package/cuda_nvcc/nvvm/libdevice" "$part/nvvm"
  rm -rf "$part/venv" "$part/packages"
  mv "$part" "$root"
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# clang has no __grid_constant__ and says so at every kernel; what it cannot
# unroll costs time, and nvcc says it of its own.
flags=(-std=c++20 -O2 -ffp-contract=off -I. -Wall -Wextra -Wshadow -Werror
  -Wno-unknown-attributes -Wno-pass-failed -Wno-unknown-cuda-version)

kernels() { # argument of clang...; {}: the kernel
  printf '%s\n' kernels/cuda/*.cu | xargs -P "$(nproc)" -I{} \
    "$clang" -x cuda --cuda-path="$root" --cuda-gpu-arch=sm_90 "${flags[@]}" \
    "$@" {}
}

check() { # version
  toolkit "$1"
  kernels --cuda-host-only -fsyntax-only
  mkdir -p "$work/kernels/cuda"
  kernels --cuda-device-only -c -o "$work/{}.o"
  local source
  for source in $(grep -l '#include <cuda_runtime' kernels/cuda/*.cc); do
    "${CXX:-g++}" -std=c++20 -Wall -Wextra -Wshadow -Werror -I. \
      -isystem "$root/include" -fsyntax-only "$source"
  done
  echo "cuda12_check: clean with CUDA $1"
}

for version; do check "$version"; done
