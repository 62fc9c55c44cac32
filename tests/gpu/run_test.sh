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
# Two GPUs that can be used, and one that is too old.
cat >"$work/gpus" <<EOF
GPU-0, 9.0, 580.65, Model
GPU-1, 7.5, 580.65, Old Model
GPU-2, 9.0, 580.65, Model
EOF
script "$bin/nvidia-smi" "[ \"\$1\" = -i ] || exec cat $work/gpus" \
  'case $2 in' "0) sed -n 1p $work/gpus ;;" "1) sed -n 2p $work/gpus ;;" '*) exit 6 ;;' 'esac'
sanitizer() { # line...
  script "$bin/compute-sanitizer" '[ "$1" != --help ] || exec echo "  --kernel-name arg"' "$@"
}
note="echo \"\$(basename \"\$0\") \$* on \${CUDA_VISIBLE_DEVICES-all}\" >>$work/calls"
sanitizer "$note"
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
unset CUDA_VISIBLE_DEVICES CUDACXX
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
  grep -qx "gpu_device_test  on GPU-0,GPU-2" "$work/calls" || fail "not every case was run"
  has "$work/log" "left out: Old Model: compute capability: got 7.5"
  for tool in memcheck racecheck synccheck; do
    grep -q -- "--tool $tool .*--kernel-name kns=Entry.*\[small\] on GPU-0$" "$work/calls" ||
      fail "$tool: $(cat "$work/calls")"
  done
  grep -q -- "--tool initcheck .*\[small\] on GPU-0$" "$work/calls" || fail "initcheck"
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
sanitizer "trap '' TERM" "sleep 60"
run 0 QS_SECONDS=132
verified "differential, stream"
has "$work/log" "compute-sanitizer memcheck: NOT through in time"
sanitizer 'kill -KILL $$'
cp "$header" "$work/before.h"
run 1
has "$work/log" "compute-sanitizer memcheck: failed (137)"
cmp -s "$header" "$work/before.h" || fail "a sanitizer failed, and was proved"
cp "$work/good" "$bin/compute-sanitizer"

# What initcheck finds in the libraries' kernels alone is not held against ours.
report() { # kernel, errors that are told of, what the test says
  sanitizer "[ \$2 = initcheck ] || exit 0" 'cat <<END' \
    "========= Uninitialized __global__ memory read of size 4 bytes" \
    "=========     at $1+0x70" "=========     by thread (0,0,0) in block (0,0,0)" \
    "=========     Host Frame: qs::cuda::GramFlushEntry" \
    "$3" "========= ERROR SUMMARY: $2 error" END "exit 9"
}
passed="All tests passed (1 assertion in 1 test case)"
report "void gemm<float>(float*)" 1 "$passed"
run 0
verified "differential, memcheck, racecheck, initcheck, synccheck, stream"
cp "$header" "$work/before.h"
report "void gemm<float>(float*)" 2 "$passed" # one of another kind
run 1
report "void gemm<float>(float*)" 1 "test cases: 1 | 1 failed"
run 1
report "qs::cuda::GramFlushEntry(GramFlushArgs)" 1 "$passed"
run 1
has "$work/log" "compute-sanitizer initcheck: failed (9)"
cmp -s "$header" "$work/before.h" || fail "a sanitizer failed, and was proved"
# Beside nvcc, with the option of before, and where there is none.
mkdir "$work/cuda"
script "$work/cuda/compute-sanitizer" "$note"
rm "$bin/compute-sanitizer"
run 0 CUDACXX="$work/cuda/nvcc"
has "$work/calls" "--kernel-regex kns=Entry"
if [ ! -e /usr/local/cuda/bin/compute-sanitizer ]; then
  run 0 CUDACXX=
  verified "differential, stream"
fi
cp "$work/good" "$bin/compute-sanitizer"

# The GPUs that are named, if they can be used.
run 0 CUDA_VISIBLE_DEVICES=0
grep -qx "gpu_device_test  on 0" "$work/calls" || fail "not on the GPU that was named"
verified "differential, memcheck, racecheck, initcheck, synccheck, stream"
run 1 CUDA_VISIBLE_DEVICES=1
has "$work/log" "no GPU of compute capability 8.0 and up"
run 1 CUDA_VISIBLE_DEVICES=7
has "$work/log" "nvidia-smi finds none of CUDA_VISIBLE_DEVICES=7"
# A part of a GPU stays what the programs run on, one for the sanitizers.
run 0 CUDA_VISIBLE_DEVICES=MIG-a,MIG-b
grep -qx "gpu_device_test  on MIG-a,MIG-b" "$work/calls" || fail "not on the parts that were named"
grep -q "compute-sanitizer --tool memcheck .* on MIG-a$" "$work/calls" || fail "not on one part"
run 1 CUDA_VISIBLE_DEVICES=
has "$work/log" "CUDA_VISIBLE_DEVICES is empty"

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
