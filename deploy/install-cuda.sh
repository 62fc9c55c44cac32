#!/usr/bin/env bash
# Sets up nvcc 13 and the CUDA headers from the Python package index, without
# root, in a folder of the user's (about 270 MB). The CUDA kernels compile with
# it on a machine without a GPU or a driver. With `libraries` also cuBLAS and
# cuSOLVER, which quantd loads on a machine with a GPU (1 GB more).
# Where an nvcc is on PATH, it is not brought again: nothing is done, or DIR has
# the libraries alone.
# usage: install-cuda.sh DIR [libraries]     DIR: new, empty, or made by this
#   then: CUDAToolkit_ROOT=DIR cmake ...; with libraries,
#         QS_CUBLAS_DIR=DIR/lib quantd ...
set -euo pipefail
dir=${1:?usage: install-cuda.sh DIR [libraries]}
libraries=${2:-}
[ -z "$libraries" ] || [ "$libraries" = libraries ] || {
  echo "install-cuda.sh: got $libraries, allowed libraries" >&2
  exit 2
}
version=13.0
cache=${XDG_CACHE_HOME:-$HOME/.cache}/quantd/cuda-$version

add_libraries() {
  [ -n "$libraries" ] || return 0
  local lib
  lib=$(cd "$dir" && pwd -P)/lib
  [ -e "$lib/libcusolver.so.12" ] && return
  # cuSOLVER wants the other two. It comes last: an interrupted run starts again.
  local part=$cache-libraries.part
  rm -rf "$part"
  mkdir -p "$part"
  python3 -m venv "$part/venv"
  "$part/venv/bin/pip" install -q --no-deps --target "$part" \
    "nvidia-cublas==$version.*" "nvidia-cusolver==12.0.*" \
    "nvidia-cusparse==12.6.*" "nvidia-nvjitlink==$version.*"
  local name
  for name in libcublas.so.13 libcublasLt.so.13 libcusparse.so.12 \
    libnvJitLink.so.13 libcusolver.so.12; do
    mv "$part/nvidia/cu13/lib/$name" "$lib/$name"
  done
  rm -rf "$part"
}

if [ -x "$dir/bin/nvcc" ] && [ -e "$dir/lib/libcudart.so" ]; then
  add_libraries
  exit 0
fi
if command -v nvcc >/dev/null; then
  echo "nvcc is on PATH already: $(command -v nvcc)"
  [ -n "$libraries" ] || exit 0
  # The programs load the libraries of the CUDA that they are built with.
  release=$(nvcc --version | sed -n 's/.*release \([0-9]*\)\..*/\1/p')
  [ "$release" = "${version%.*}" ] || {
    echo "install-cuda.sh: got nvcc of CUDA $release, allowed with libraries: ${version%.*}" >&2
    exit 2
  }
  mkdir -p "$dir/lib"
  add_libraries
  exit 0
fi

# A folder cannot become a link to the toolkit: an empty one makes room for it.
[ -L "$dir" ] || rmdir "$dir" 2>/dev/null || true
[ ! -e "$dir" ] || [ -L "$dir" ] || {
  echo "install-cuda.sh: got $dir, which is there, allowed: a new or an empty folder" >&2
  exit 2
}
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
add_libraries
"$dir/bin/nvcc" --version | tail -n 2
