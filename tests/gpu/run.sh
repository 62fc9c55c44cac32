#!/usr/bin/env bash
# Verifies the CUDA kernels on the GPUs of this machine and measures them, in
# less than eight minutes: needs nvcc (on PATH, or its path as CUDACXX), CMake,
# the packages of deploy/install-deps.sh but gRPC's, Catch2, cuBLAS and cuSOLVER
# (QS_CUBLAS_DIR names their folder if the loader does not find them;
# deploy/install-cuda.sh DIR libraries brings nvcc and them), and a driver.
# Without cuSOLVER GPTQ's factor is by our kernels, and only these are proved.
# With QS_BUNDLE=DIR, what tests/gpu/bundle.sh made elsewhere of the same source,
# neither nvcc nor CMake nor any package is needed: its programs are taken.
#
#   1. builds kernels/, quant/ and tests/gpu/ for the architectures that are here
#   2. runs every family against the reference on each device
#   3. and small cases, of every kernel, under compute-sanitizer, where that is
#      found
#   4. prints the table of gpu_bench, which build/gpu/bench.txt keeps
#   5. with QS_BUNDLE=DIR (and python3): quantizes a checkpoint end to end on
#      QS_WORKERS (gpu:0) and on a CPU
#
# and writes what was proved, where and when, to kernels/cuda/verified_on.h:
# build again to have GetCapabilities say it. Every step has a time of its own
# and none goes beyond the whole (QS_SECONDS, 465); a sanitizer that is not
# through by then is said not to be, anything else fails.
set -euo pipefail
cd "$(dirname "$0")/../.."

fail() {
  echo "run.sh: $*" >&2
  exit 1
}

bundle=${QS_BUNDLE:-}
nvcc=${CUDACXX:-$(command -v nvcc || true)}
if [ -n "$bundle" ]; then
  programs=$bundle
  [ -x "$bundle/gpu_device_test" ] ||
    fail "QS_BUNDLE: got $bundle, which has no gpu_device_test; allowed: what tests/gpu/bundle.sh made"
else
  programs=build/gpu/bin
  [ -n "$nvcc" ] || fail "no nvcc: put it on PATH or set CUDACXX (deploy/install-cuda.sh brings one)"
fi
# Of what is run, whatever the tree has become since it was built.
check_sources() { # program...
  sources=$(kernels/cuda/sources_digest.sh --of "$@") ||
    fail "got programs of several sources, allowed: those of one build"
  [ "$sources" = "$(kernels/cuda/sources_digest.sh)" ] ||
    fail "got programs of other sources, allowed: of this tree's kernels"
}
[ -z "$bundle" ] ||
  check_sources "$bundle"/lib/{gpu_device_test,gpu_bench,quantd}
command -v nvidia-smi >/dev/null || fail "no GPU: no nvidia-smi"
query() { nvidia-smi "--query-gpu=$1" --format=csv,noheader; }
joined() { sort -u | paste -sd "$1" -; }
gpus=$(query name | joined +) || fail "no GPU: nvidia-smi finds none"
driver=$(query driver_version | head -n 1)
architectures=$(query compute_cap | tr -d . | sed 's/$/-real/' | joined ';')

readonly whole=${QS_SECONDS:-465}
# Seconds for the steps after the sanitizers.
readonly for_the_rest=130

# Runs a command for at most so many seconds, and not beyond the whole but for
# some seconds that are kept. 124: it was not done.
bounded() { # seconds, seconds that are kept, command...
  local most=$1 have=$((whole - SECONDS - $2)) begin=$SECONDS code=0
  [ "$most" -lt "$have" ] || most=$have
  [ "$most" -gt 0 ] || return 124
  timeout --kill-after=5 "$most" "${@:3}" || code=$?
  # So ends one that TERM did not, but also one that something else has killed.
  [ "$code" -ne 137 ] || [ "$((SECONDS - begin))" -lt "$most" ] || code=124
  return "$code"
}

step() { printf '\n== %s (%d s so far)\n' "$*" "$SECONDS"; }

must() { # what, seconds, command...
  step "$1"
  local code=0
  bounded "$2" 0 "${@:3}" || code=$?
  [ "$code" -ne 124 ] || fail "$1: not done in time"
  [ "$code" -eq 0 ] || fail "$1: failed ($code)"
}

if [ -z "$bundle" ]; then
  must "configure for $architectures" 60 \
    cmake -S . -B build/gpu -G Ninja -DCMAKE_BUILD_TYPE=Release \
    -DQS_SERVICE=OFF -DQS_GPU_TEST=ON "-DCMAKE_CUDA_COMPILER=$nvcc" \
    "-DQS_CUDA_ARCHITECTURES=$architectures" ${QS_CMAKE_ARGS:-}
  must "build" 300 cmake --build build/gpu --target gpu_device_test gpu_bench
  check_sources "$programs"/{gpu_device_test,gpu_bench}
fi
mkdir -p build/gpu
must "every family on $gpus against the reference" 150 \
  "$programs/gpu_device_test"
proved="differential"

sanitize() { # tool
  step "compute-sanitizer $1"
  bounded 45 "$for_the_rest" compute-sanitizer --tool "$1" \
    --target-processes all --error-exitcode 9 "$programs/gpu_device_test" "[small]"
}

if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck initcheck synccheck; do
    code=0
    sanitize "$tool" || code=$?
    case $code in
      0) proved="$proved, $tool" ;;
      124) echo "compute-sanitizer $tool: NOT through in time, proves nothing" >&2 ;;
      *) fail "compute-sanitizer $tool: failed ($code)" ;;
    esac
  done
else
  echo "compute-sanitizer is not here: memory, races and barriers were not checked" >&2
fi

measure() { "$programs/gpu_bench" | tee build/gpu/bench.txt; }
export -f measure
export programs
must "benchmark" 60 bash -c 'set -o pipefail; measure'

if [ -n "$bundle" ]; then
  must "end to end on ${QS_WORKERS:-gpu:0}" 100 \
    python3 tests/gpu/stream_test.py "$bundle" "${QS_WORKERS:-gpu:0}"
  proved="$proved, stream"
else
  echo "QS_BUNDLE is not set: no end-to-end stream was run" >&2
fi

header=kernels/cuda/verified_on.h
text="$gpus, $(date +%F), driver $driver: $proved"
put() { # name, text; up to the semicolon, which may be a line further
  sed -i "/^constexpr char $1\[\]/{
    :more
    /;/!{N;b more
    }
    s|.*|constexpr char $1[] =\n    \"$2\";|
  }" "$header"
}
put kVerifiedOn "$text"
put kVerifiedSources "$sources"
step "verified on $text"
