#!/usr/bin/env bash
# From a clean clone to four quantized checkpoints: installs what is missing,
# builds a release, starts quantd on 127.0.0.1:50051, quantizes the checkpoint
# in tests/data/tiny-llama to NF4, to W4A16 and, with its calibration, by GPTQ,
# has the server do the last one by itself as a job, and stops it again.
# Output goes to build/quickstart. Set QUANTD_PORT for another port.
set -euo pipefail
cd "$(dirname "$0")/.."
port=${QUANTD_PORT:-50051}
server=127.0.0.1:$port
bin=build/release/bin
out=build/quickstart
model=tests/data/tiny-llama
calibration=tests/data/tiny-llama-calibration.safetensors

step() { printf '\n== %s\n' "$*"; }

fail() {
  printf 'quickstart: %s\n' "$*" >&2
  exit 1
}

build() {
  mkdir -p build
  cmake --preset release >build/quickstart-configure.log 2>&1 || {
    cat build/quickstart-configure.log >&2
    fail "cmake could not configure the build"
  }
  cmake --build --preset release --target quantd quantctl
}

# Waits for the port file, which this server writes once it answers: a health
# check alone could be answered by another one on the same port.
start_server() {
  mkdir -p "$out"
  rm -f "$out/port"
  rm -rf "$out/jobs" "$out/data"
  mkdir -p "$out/jobs"
  "$bin/quantd" --listen "$server" --port-file "$out/port" \
    --data-dir "$out/data" --read-root "$PWD/tests/data" 2>"$out/quantd.log" &
  pid=$!
  trap 'kill "$pid" 2>/dev/null; wait "$pid" 2>/dev/null || true' EXIT
  for _ in $(seq 200); do
    [ -s "$out/port" ] && return
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.05
  done
  cat "$out/quantd.log" >&2
  fail "quantd did not start on $server; QUANTD_PORT=N takes another port"
}

quantize() { # preset, target, more arguments...
  local to=$out/tiny-llama-$1
  "$bin/quantctl" quantize "$model" -o "$to" --preset "$1" --target "$2" \
    --server "$server" --overwrite --json "$to.json" "${@:3}"
  "$bin/quantctl" report "$to.json" --html "$to.html" >/dev/null
}

# The server takes what else a path has as escapes only.
uri_of() { # an absolute path
  local LC_ALL=C path=$1 uri=file:// byte i # byte by byte, whatever the locale
  for ((i = 0; i < ${#path}; i++)); do
    byte=${path:i:1}
    case $byte in
      [a-zA-Z0-9._~/-]) ;;
      *)
        printf -v byte %d "'$byte"
        printf -v byte %%%02X $((byte & 255))
        ;;
    esac
    uri+=$byte
  done
  printf '%s\n' "$uri"
}

# By grpcurl where it, or Go, is installed, else the same job by quantctl. The server
# keeps the result in its store, from which it is read.
create_job() { # prints its name
  if [ -z "$grpcurl" ]; then
    "$bin/quantctl" jobs create "$PWD/$model" --preset W4A16-gptq \
      --target vllm --calibration "$PWD/$calibration" --server "$server" \
      --json | sed -n 's/^ "name": "\(.*\)",\{0,1\}$/\1/p'
    return
  fi
  local job='{"job":{"source":{"uri":"'$(uri_of "$PWD/$model")'"},
    "calibration":{"uri":"'$(uri_of "$PWD/$calibration")'"},
    "quantization":{"preset":"W4A16-gptq"},"target":{"engine":"VLLM"}}}'
  printf 'grpcurl -plaintext -d %s %s quant.v1.JobService/CreateJob\n' \
    "'$job'" "$server" >&2
  "$grpcurl" -plaintext -d "$job" "$server" quant.v1.JobService/CreateJob |
    sed -n 's/^  "name": "\(.*\)",$/\1/p'
}

# What grpcurl shows of one tensor's result.
show_tensor() { # job
  local request='{"name":"'$1'","wait":true,"view":"PACKED",
    "include":["model.layers.0.self_attn.k_proj.weight"]}'
  [ -n "$grpcurl" ] || return 0
  printf 'grpcurl -plaintext -d %s %s quant.v1.JobService/ReadResult\n' \
    "'$request'" "$server"
  "$grpcurl" -plaintext -d "$request" "$server" quant.v1.JobService/ReadResult |
    grep -v '"data":' | sed -n 1,40p
}

run_job() {
  local to=$out/jobs/tiny-llama-W4A16-gptq name
  name=$(create_job)
  [ -n "$name" ] || fail "no job was made"
  "$bin/quantctl" jobs watch "$name" --server "$server"
  show_tensor "$name"
  "$bin/quantctl" jobs result "$name" "$to" --server "$server"
}

step "packages"
deploy/install-deps.sh
grpcurl=$(deploy/find-grpcurl.sh) || grpcurl=

step "build (release)"
build

step "start quantd"
start_server
"$bin/quantctl" health --server "$server"

step "NF4, bitsandbytes format, for transformers"
quantize NF4 transformers

step "W4A16, compressed-tensors format, for vLLM"
quantize W4A16 vllm

step "W4A16 by GPTQ with calibration, the same format, for vLLM"
quantize W4A16-gptq vllm --calibration "$calibration"

step "the same as a job: the server works by itself, and its result is read"
run_job
cmp "$out"/jobs/tiny-llama-W4A16-gptq/model-00001-of-00002.safetensors \
  "$out"/tiny-llama-W4A16-gptq/model-00001-of-00002.safetensors ||
  fail "the job's result is not that of the stream"

cat <<TXT

== results
$PWD/$out/tiny-llama-NF4
    transformers with bitsandbytes:
    python3 -c 'from transformers import AutoModelForCausalLM as M; print(M.from_pretrained("$out/tiny-llama-NF4"))'
$PWD/$out/tiny-llama-W4A16
    vLLM, and transformers with compressed-tensors:
    vllm serve $out/tiny-llama-W4A16
$PWD/$out/tiny-llama-W4A16-gptq
    the same engines; the report compares its output error on the calibration
    with that of rounding to nearest
    vllm serve $out/tiny-llama-W4A16-gptq
$PWD/$out/jobs/tiny-llama-W4A16-gptq
    the job's result, read from the server's store: the same bytes
The reports as pages for a browser:
    $PWD/$out/tiny-llama-NF4.html
    $PWD/$out/tiny-llama-W4A16.html
    $PWD/$out/tiny-llama-W4A16-gptq.html

== next
The server of this script is stopped now. Start your own, in another terminal:
    $bin/quantd --listen $server
Your own checkpoint, first what would happen to it, then the work:
    $bin/quantctl plan DIRECTORY --preset W4A16 --target vllm --server $server
    $bin/quantctl quantize DIRECTORY -o DIRECTORY-W4A16 --preset W4A16 \\
      --target vllm --server $server
GPTQ and AWQ want the second moments of the inputs of its linears besides:
    $bin/quantctl quantize DIRECTORY -o DIRECTORY-gptq --preset W4A16-gptq \\
      --calibration FILE --target vllm --server $server
The same by hand with grpcurl, for a tensor of four numbers:
    grpcurl -plaintext -d '{"config":{"quantization":{"preset":"NF4"}}}
      {"tensor":{"handle":1,"name":"w","dtype":"F32","shape":[1,4]}}
      {"chunk":{"handle":1,"floatValues":[0.1,-0.2,0.3,0.4],"last":true}}' \\
      $server quant.v1.QuantizeService/Quantize
What the server can do:
    grpcurl -plaintext $server quant.v1.QuantizeService/GetCapabilities
TXT
