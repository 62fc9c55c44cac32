#!/usr/bin/env bash
# Verifies the CUDA kernels on the GPUs of this machine (of those that
# CUDA_VISIBLE_DEVICES leaves) and measures them, in less than eight minutes:
# needs nvcc (on PATH, or its path as CUDACXX), CMake, the packages of
# deploy/install-deps.sh but gRPC's, Catch2, cuBLAS and cuSOLVER (QS_CUBLAS_DIR
# names their folder if the loader does not find them; deploy/install-cuda.sh DIR
# libraries brings nvcc and them), and a driver.
# Without cuSOLVER GPTQ's factor is by our kernels, and only these are proved.
# With QS_BUNDLE=DIR, what tests/gpu/bundle.sh made elsewhere of the same source,
# neither nvcc nor CMake nor any package is needed: its programs are taken.
#
#   1. builds kernels/, quant/ and tests/gpu/ for the architectures that are here
#   2. runs every family against the reference on each device
#   3. and small cases, of every kernel, under compute-sanitizer on the first of
#      them, where that is found: on PATH, beside nvcc, in /usr/local/cuda/bin
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
# The GPUs that CUDA_VISIBLE_DEVICES leaves, counted as nvidia-smi does, but for
# those that are too old for the kernels.
export CUDA_DEVICE_ORDER=PCI_BUS_ID
command -v nvidia-smi >/dev/null || fail "no GPU: no nvidia-smi"
asked=${CUDA_VISIBLE_DEVICES-all}
[ -n "$asked" ] || fail "no GPU: CUDA_VISIBLE_DEVICES is empty"
mig=
case $asked in
  all) asked= ;;
  *MIG-*) asked= mig=1 ;; # of the parts of a GPU nvidia-smi does not tell
esac
listed=$(nvidia-smi ${asked:+-i "$asked"} --format=csv,noheader \
  --query-gpu=uuid,compute_cap,driver_version,name) ||
  fail "no GPU: nvidia-smi finds none${asked:+ of CUDA_VISIBLE_DEVICES=$asked}"
ids=() names=() capabilities=() old=
while IFS=, read -r id capability version name; do
  capability=${capability# } name=${name# }
  if [ "${capability%.*}" -lt 8 ]; then
    echo "run.sh: left out: $name: compute capability: got $capability, allowed 8.0 and up" >&2
    old=1
    continue
  fi
  ids+=("$id") names+=("$name") capabilities+=("${capability/./}-real") driver=${version# }
done <<<"$listed"
[ ${#ids[@]} -gt 0 ] || fail "no GPU of compute capability 8.0 and up"
joined() { printf '%s\n' "${@:2}" | sort -u | paste -sd "$1" -; } # separator, texts
gpus=$(joined + "${names[@]}")
architectures=$(joined ';' "${capabilities[@]}")
[ -z "$old" ] || [ -n "$mig" ] || export CUDA_VISIBLE_DEVICES=$(IFS=, && echo "${ids[*]}")

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

# On one GPU, as the time is for one. memcheck, racecheck and synccheck look at
# our kernels alone (kernels/cuda/vocabulary.h names them): the libraries' are
# not ours to mend. Nor does memcheck tell of calls that fail, as the libraries'
# may; the test would fail with one of ours.
sanitize() { # tool
  local options=(--tool "$1" --target-processes all --error-exitcode 9) one=()
  case $1 in
    initcheck) options+=(--print-limit 10000) ;;
    memcheck) options+=("$filter" kns=Entry --report-api-errors no) ;;
    *) options+=("$filter" kns=Entry) ;;
  esac
  if [ -n "$mig" ]; then
    one=("CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES%%,*}")
  elif [ ${#ids[@]} -gt 1 ]; then
    one=("CUDA_VISIBLE_DEVICES=${ids[0]}")
  fi
  bounded 45 "$for_the_rest" env "${one[@]}" "$sanitizer" "${options[@]}" \
    "$programs/gpu_device_test" "[small]"
}

# initcheck has to see what the libraries' kernels write, or it would call that
# uninitialized where ours read it. So its reports are told apart afterwards:
# whether every one is of a read by a kernel that is not ours, and the test passed.
only_theirs() { # log
  awk '/^=+ ERROR SUMMARY:/ { all += $4 }
    of_read { if (/ at / && !/Entry/) theirs++; of_read = 0 }
    /^=+ Uninitialized __global__ memory read/ { of_read = 1 }
    /^All tests passed/ { passed = 1 }
    END { exit !(passed && all > 0 && theirs == all) }' "$1"
}

sanitizer=$(PATH=$PATH${nvcc:+:$(dirname "$nvcc")}:/usr/local/cuda/bin command -v compute-sanitizer || true)
if [ -n "$sanitizer" ]; then
  filter=--kernel-name
  [[ $("$sanitizer" --help) == *--kernel-name* ]] || filter=--kernel-regex # its name before
  for tool in memcheck racecheck initcheck synccheck; do
    step "compute-sanitizer $tool"
    log=build/gpu/$tool.txt code=0
    sanitize "$tool" >"$log" 2>&1 || code=$?
    tail -n 100 "$log"
    if [ "$tool:$code" = initcheck:9 ] && only_theirs "$log"; then
      echo "compute-sanitizer initcheck: all of it is in the libraries' kernels" >&2
      code=0
    fi
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
