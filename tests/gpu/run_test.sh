#!/usr/bin/env bash
# tests/gpu/run.sh but for the GPU: what it runs of a bundle, when it fails, and
# what it then says was proved. The programs are scripts that note their calls.
# usage: run_test.sh
set -euo pipefail
source=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tree=$work/tree bundle=$work/bundle bin=$work/bin
mkdir -p "$tree/tests/gpu" "$bundle/lib" "$bin"
cp "$source/tests/gpu/run.sh" "$tree/tests/gpu"
cp -r "$source/kernels" "$source/CMakeLists.txt" "$tree"
header=$tree/kernels/cuda/verified_on.h

script() { # path, line...
  printf '#!/bin/sh\n' >"$1"
  printf '%s\n' "${@:2}" >>"$1"
  chmod +x "$1"
}
note="echo \"\$(basename \"\$0\") \$*\" >>$work/calls"
script "$bin/nvidia-smi" 'case $1 in
  *=name) echo Model; echo Model ;;
  *=driver_version) echo 580.65 ;;
  *) echo 9.0; echo 9.0 ;;
esac'
script "$bin/compute-sanitizer" "$note"
script "$bundle/gpu_device_test" "$note"
script "$bundle/gpu_bench" "$note" 'echo a table'
digest=$tree/kernels/cuda/sources_digest.sh
# Programs as the linker makes them of this tree's sources.
link() { # program...
  "$digest" "$work/sources.h"
  echo "int main() {}" | "${CXX:-g++}" -std=c++20 -O2 -x c++ -include "$work/sources.h" \
    -o "$work/linked" -
  local program
  for program; do cp "$work/linked" "$bundle/lib/$program"; done
}
link gpu_device_test gpu_bench quantd
sources=$("$digest")
echo "open('$work/calls', 'a').write('stream_test\\n')" >"$tree/tests/gpu/stream_test.py"

fail() {
  echo "$*" >&2
  cat "$work/log" "$header" >&2
  exit 1
}
run() { # expected exit code, variable...
  local code=0
  : >"$work/calls"
  env PATH="$bin:$PATH" QS_BUNDLE="$bundle" "${@:2}" "$tree/tests/gpu/run.sh" >"$work/log" 2>&1 ||
    code=$?
  [ "$code" = "$1" ] || fail "run.sh: got $code, expected $1"
}
has() { grep -qF -- "$2" "$1" || fail "$1: expected $2"; }

verified() { # what was proved
  has "$header" "\"Model, $(date +%F), driver 580.65: $1\";"
  has "$header" "\"$sources\";"
  [ "$(grep -c '^constexpr char kVerified' "$header")" = 2 ] || fail "not two lines"
}

# Twice, as the second time finds what the first has written.
for _ in 1 2; do
  run 0
  verified "differential, memcheck, racecheck, initcheck, synccheck, stream"
  [ "$(wc -l <"$work/calls")" = 7 ] || fail "calls: $(cat "$work/calls")"
  grep -qx "gpu_device_test " "$work/calls" || fail "not every case was run"
  has "$work/calls" "--tool racecheck --target-processes all"
  has "$tree/build/gpu/bench.txt" "a table"
done
cat >"$work/says.cc" <<EOF
#include "kernels/cuda/verified_on.h"
#include <cstdio>
int main() {
  using namespace qs::cuda;
  std::puts(VerifiedOnText(kVerifiedOn, kVerifiedSources, kVerifiedSources).c_str());
  std::puts(VerifiedOnText(kVerifiedOn, kVerifiedSources, "other").c_str());
  std::puts(VerifiedOnText("", "", "other").c_str());
}
EOF
"${CXX:-g++}" -std=c++20 -I "$tree" -o "$work/says" "$work/says.cc"
"$work/says" >"$work/said"
text="Model, $(date +%F), driver 580.65: differential, memcheck, racecheck, initcheck, synccheck, stream"
[ "$(cat "$work/said")" = "$text"$'\n'"$text; its sources have changed since" ] ||
  fail "GetCapabilities would say: $(cat "$work/said")"

# What fails is not proved, and what was proved before stays as it was.
cp "$header" "$work/before.h"
for broken in "$bundle/gpu_device_test" "$bundle/gpu_bench" "$bin/compute-sanitizer"; do
  cp "$broken" "$work/good"
  script "$broken" "exit 9"
  run 1
  cmp -s "$header" "$work/before.h" || fail "$broken failed, and was proved"
  cp "$work/good" "$broken"
done
# One that has to be killed was not through in time, and one that was killed
# before has failed.
cp "$bin/compute-sanitizer" "$work/good"
script "$bin/compute-sanitizer" "trap '' TERM" "sleep 60"
run 0 QS_SECONDS=132
verified "differential, stream"
has "$work/log" "compute-sanitizer memcheck: NOT through in time"
script "$bin/compute-sanitizer" 'kill -KILL $$'
cp "$header" "$work/before.h"
run 1
has "$work/log" "compute-sanitizer memcheck: failed (137)"
cmp -s "$header" "$work/before.h" || fail "a sanitizer failed, and was proved"
cp "$work/good" "$bin/compute-sanitizer"

# Programs are known by what they were linked of, whatever the tree is now: no
# file that decides what a device computes may be another.
for file in kernels/nf4_math.h kernels/nf4_tables.cc kernels/base/dtype.cc \
  kernels/cuda/nf4.cu kernels/cuda/cuda.cmake kernels/CMakeLists.txt CMakeLists.txt; do
  cp "$tree/$file" "$work/good"
  echo >>"$tree/$file"
  run 1
  has "$work/log" "got programs of other sources"
  link quantd
  run 1
  has "$work/log" "got programs of several sources"
  cp "$work/good" "$tree/$file"
  link quantd
done
# The host's own backends are none of it, nor is what run.sh writes.
echo >>"$tree/kernels/cpu/nf4_cpu.cc"
[ "$("$digest")" = "$sources" ] || fail "the digest has files of the CPU's backend"
run 0
rm "$bundle/gpu_device_test"
run 1
has "$work/log" "has no gpu_device_test"
echo "run.sh says what was proved, and nothing else"
