#!/usr/bin/env bash
# Installs what the tests need, builds, and runs every test.
# QS_SLOW=1 adds sanitizer builds, lock annotations and the real engines (CI
# does).
set -euo pipefail
cd "$(dirname "$0")/.."
slow=${QS_SLOW:-0}
jobs=$(nproc)

step() { printf '\n== %s (%s)\n' "$*" "$(date +%T)"; }

configure() { # preset, extra cmake arguments...
  cmake --preset "$@" >"build/configure-$1.log" 2>&1 || {
    cat "build/configure-$1.log" >&2
    return 1
  }
}

build() { # preset, extra cmake arguments...
  configure "$@"
  cmake --build --preset "$1" -j "$jobs" -- --quiet
}

mkdir -p build
step "packages"
if [ "$slow" = 1 ]; then
  deploy/install-deps.sh --slow-tests
  step "CUDA compiler"
  deploy/install-cuda.sh build/cuda
else
  deploy/install-deps.sh --tests
fi

if [ "$slow" = 1 ]; then
  step "CUDA 12"
  tests/gpu/cuda12_check.sh
  step "address and undefined-behaviour sanitizers"
  build asan
  ctest --preset asan -j "$jobs" --no-tests=error
  step "thread sanitizer"
  build tsan
  # gRPC and oneTBB are not instrumented: what uses them is excluded by label.
  TSAN_OPTIONS=ignore_noninstrumented_modules=1 \
    ctest --preset tsan -j "$jobs" --no-tests=error
fi

# Both fuzzers for 25 s each; all of `fuzzers` is generated headers, too, for
# the check of lock annotations.
step "fuzzing"
if [ "$slow" = 1 ]; then
  build fuzz
  ctest --test-dir build/fuzz -L fuzz --output-on-failure --no-tests=error
else
  configure fuzz
  cmake --build build/fuzz --target safetensors_fuzz wire_fuzz -j "$jobs" -- --quiet
  ctest --test-dir build/fuzz -R _fuzz --output-on-failure --no-tests=error
fi

step "release"
cuda=()
[ -x build/cuda/bin/nvcc ] && cuda=("-DCMAKE_CUDA_COMPILER=$PWD/build/cuda/bin/nvcc")
build release -DQS_INTEROP="$slow" "${cuda[@]}"
step "quickstart"
tests/deploy/quickstart_test.sh

step "tests"
ctest --preset release -j "$jobs" --no-tests=error
