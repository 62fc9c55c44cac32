#!/usr/bin/env bash
# Quantizes tests/data/tiny-llama through a running server and loads the output
# in the real engines.
# usage: run.sh BIN_DIR transformers|vllm
set -euo pipefail
bin=$(realpath "$1")
engine=$2
here=$(cd "$(dirname "$0")" && pwd)
model=$here/../data/tiny-llama
python=$("$here/setup.sh" "$engine")
work=$(mktemp -d)
export HF_HUB_OFFLINE=1  # everything is local; nothing is asked for
trap 'kill "$server" 2>/dev/null; wait "$server" 2>/dev/null || true; rm -rf "$work"' EXIT

"$bin/quantd" --listen 127.0.0.1:0 --port-file "$work/port" \
  2>"$work/quantd.log" &
server=$!
for _ in $(seq 100); do
  [ -s "$work/port" ] && break
  sleep 0.1
done
address=127.0.0.1:$(cat "$work/port")

# quantize NAME ARGUMENTS...: NAME and NAME-float below the work folder.
quantize() {
  local name=$1
  shift
  "$bin/quantctl" quantize "$model" -o "$work/$name" --server "$address" "$@" \
    >"$work/$name.log"
  "$python" "$here/dequantize.py" "$work/$name" "$work/$name-float"
}

case $engine in
  transformers)
    for preset in NF4 NF4-dq FP4 W4A16 W8A16; do
      quantize "$preset" --preset "$preset" --target transformers
      echo "$preset"
      "$python" "$here/check_transformers.py" "$work/$preset" \
        "$work/$preset-float"
    done
    ;;
  vllm)
    quantize W4A16 --preset W4A16 --target vllm
    "$python" "$here/check_vllm.py" "$work/W4A16" "$work/W4A16-float"
    ;;
esac
