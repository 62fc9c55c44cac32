#!/usr/bin/env bash
# tests/gpu/bundle.sh where no nvcc is: that a bundle keeps what its programs
# were linked of, and takes programs of one build only.
# usage: bundle_test.sh
set -euo pipefail
source=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tree=$work/tree bin=$work/bin bundle=$work/bundle
mkdir -p "$tree/tests/gpu" "$bin"
cp "$source/tests/gpu/bundle.sh" "$tree/tests/gpu"
cp -r "$source/kernels" "$source/CMakeLists.txt" "$tree"
digest=$tree/kernels/cuda/sources_digest.sh

fail() {
  echo "$*" >&2
  cat "$work/log" >&2
  exit 1
}
link() { # program...
  "$digest" "$work/sources.h"
  echo "int main() {}" | "${CXX:-g++}" -std=c++20 -O2 -x c++ -include "$work/sources.h" \
    -o "$work/linked" -
  local program
  for program; do cp "$work/linked" "$bin/$program"; done
}
make_bundle() { # expected exit code
  local code=0
  "$tree/tests/gpu/bundle.sh" "$bundle" "$bin" >"$work/log" 2>&1 || code=$?
  [ "$code" = "$1" ] || fail "bundle.sh: got $code, expected $1"
}
bundled() { "$digest" --of "$bundle"/lib/{gpu_device_test,gpu_bench,quantd}; }

link quantd quantctl gpu_device_test gpu_bench
of_these=$("$digest")
make_bundle 0
[ "$(bundled)" = "$of_these" ] || fail "the bundle says $(bundled)"

# Sources that changed since are not those of the programs.
echo "// changed" >>"$tree/kernels/nf4_tables.cc"
[ "$("$digest")" != "$of_these" ] || fail "the digest has no tables"
make_bundle 0
[ "$(bundled)" = "$of_these" ] || fail "the bundle of old programs says $(bundled)"
link gpu_device_test
make_bundle 1
grep -q "build gpu_device_test, gpu_bench and quantd together" "$work/log" ||
  fail "programs of several sources"
echo "int main() {}" | "${CXX:-g++}" -x c++ -o "$bin/gpu_device_test" -
make_bundle 1
grep -q "gpu_device_test: got none or several" "$work/log" || fail "a program without sources"
echo "bundle.sh takes programs of one build"
