#!/usr/bin/env bash
# Sets up nvcc 13 and the CUDA headers from the Python package index, without
# root, in a folder of the user's (about 270 MB). The CUDA kernels compile with
# it on a machine without a GPU or a driver.
# usage: install-cuda.sh DIR     then: CUDAToolkit_ROOT=DIR cmake ...
set -euo pipefail
dir=${1:?usage: install-cuda.sh DIR}
version=13.0
cache=${XDG_CACHE_HOME:-$HOME/.cache}/quantd/cuda-$version

if command -v nvcc >/dev/null && [ ! -e "$dir" ]; then
  echo "nvcc is on PATH already: $(command -v nvcc)"
  exit 0
fi
[ -x "$dir/bin/nvcc" ] && [ -e "$dir/lib/libcudart.so" ] && exit 0

if [ ! -x "$cache/nvidia/cu13/bin/nvcc" ]; then
  # Complete or not there: an interrupted run starts again.
  part=$cache.part
  rm -rf "$part" "$cache"
  mkdir -p "$part"
  python3 -m venv "$part/venv"
  "$part/venv/bin/pip" install -q --no-deps --target "$part" \
    "nvidia-cuda-nvcc==$version.*" "nvidia-cuda-crt==$version.*" \
    "nvidia-nvvm==$version.*" "nvidia-cuda-runtime==$version.*" \
    "nvidia-cuda-cccl==$version.*"
  rm -rf "$part/venv"
  mv "$part" "$cache"
fi
# CMake looks for lib64 and for libcudart.so; the packages bring lib and the
# versioned name. (Programs are linked with the static one.)
ln -sfn lib "$cache/nvidia/cu13/lib64"
ln -sfn libcudart.so.13 "$cache/nvidia/cu13/lib/libcudart.so"
mkdir -p "$(dirname "$dir")"
ln -sfn "$cache/nvidia/cu13" "$dir"
"$dir/bin/nvcc" --version | tail -n 2
