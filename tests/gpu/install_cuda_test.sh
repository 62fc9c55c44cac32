#!/usr/bin/env bash
# What deploy/install-cuda.sh does with what is there already: an nvcc on PATH,
# libraries, folders. Programs and packages are empty files in places of their
# own, so nothing is fetched: a case that wanted to would fail.
# usage: install_cuda_test.sh
set -euo pipefail
script=$(cd "$(dirname "$0")/../.." && pwd)/deploy/install-cuda.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export XDG_CACHE_HOME=$work/cache
unset CUDACXX

tools=$work/tools
mkdir "$tools"
for tool in bash cat dirname ls ln mkdir mv readlink rm rmdir sed tail; do
  ln -s "$(command -v "$tool")" "$tools/$tool"
done
printf '#!/bin/sh\necho "install-cuda.sh fetches packages" >&2\nexit 99\n' \
  >"$tools/python3"
chmod +x "$tools/python3"

put_nvcc() { # folder, version
  mkdir -p "$1"
  printf '#!/bin/sh\necho "Cuda compilation tools, release %s, V%s.1"\n' \
    "$2" "$2" >"$1/nvcc"
  chmod +x "$1/nvcc"
}
put_nvcc "$work/cuda12" 12.9
put_nvcc "$work/cuda13" 13.1

fail() {
  echo "$*" >&2
  cat "$work/log" >&2
  exit 1
}

expect() { # exit code, PATH, arguments...
  local code=0
  PATH=$2 bash "$script" "${@:3}" >"$work/log" 2>&1 || code=$?
  [ "$code" = "$1" ] || fail "install-cuda.sh ${*:3}: got $code, expected $1"
}
says() { grep -qF -- "$1" "$work/log" || fail "expected: $1"; }

expect 0 "$work/cuda12:$tools" "$work/none"
says "nvcc is on PATH already: $work/cuda12/nvcc"
[ ! -e "$work/none" ] || fail "a folder was made for nothing"

# Libraries beside an nvcc of the same CUDA, and not of another.
expect 2 "$work/cuda12:$tools" "$work/none" libraries
says "got nvcc of CUDA 12, allowed with libraries: 13"
expect 99 "$work/cuda13:$tools" "$work/libraries" libraries
says "fetches packages"
touch "$work/libraries/lib/libcusolver.so.12"
expect 0 "$work/cuda13:$tools" "$work/libraries" libraries
expect 2 "$tools" "$work/none" cublas
says "got cublas, allowed libraries"

# The toolkit goes to a new or an empty folder; what has files is not touched.
expect 99 "$tools" "$work/new"
toolkit=$XDG_CACHE_HOME/quantd/cuda-13.0/nvidia/cu13
put_nvcc "$toolkit/bin" 13.0
mkdir "$toolkit/lib" "$work/empty" "$work/full"
touch "$toolkit/lib/libcudart.so.13" "$work/full/mine"
for folder in "$work/new" "$work/empty"; do
  expect 0 "$tools" "$folder"
  [ "$(readlink "$folder")" = "$toolkit" ] || fail "$folder is not the toolkit"
  expect 0 "$tools" "$folder"
done
expect 2 "$tools" "$work/full"
says "got $work/full, which is there, allowed: a new or an empty folder"
[ "$(ls "$work/full")" = mine ] || fail "a folder with files was touched"
echo "install-cuda.sh leaves alone what is there"
