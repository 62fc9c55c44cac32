#!/usr/bin/env bash
# deploy/quickstart.sh in a clean copy of this tree, in a folder whose name has a
# space: what it makes and what it says.
# usage: quickstart_test.sh     the copy and the log stay in build
set -euo pipefail
cd "$(dirname "$0")/../.."
copy="$PWD/build/a copy"
log=$PWD/build/quickstart.log
out="$copy/build/quickstart"

fail() {
  cat "$log" >&2
  echo "quickstart_test.sh: $*" >&2
  exit 1
}
says() { grep -qxF -- "$1" "$log" || fail "expected the line: $1"; }
has() { grep -qF -- "$1" "$log" || fail "expected: $1"; }
answers() { (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; }

rm -rf "$copy"
mkdir -p "$copy"
tar -c --exclude=./build --exclude=./.git --exclude='./.venv*' . | tar -x -C "$copy"
# Bound after a build only: below the ports that systems give away meanwhile.
port=$((20000 + RANDOM % 10000))
while answers; do port=$((port + 1)); done
QUANTD_PORT=$port "$copy/deploy/quickstart.sh" >"$log" 2>&1 || fail "got exit code $?, expected 0"

# An error report for each run, with the table's head and its last line.
for part in '^tensor .*SQNR' '^total: 28 tensors '; do
  count=$(grep -c -- "$part" "$log") || true
  [ "$count" = 3 ] || fail "got $count lines with $part, expected 3"
done

# Where the outputs are, and what loads each.
results() { # directory, what is said below it
  says "$out/$1"
  [ -s "$out/$1/config.json" ] || fail "expected $out/$1/config.json"
  local below
  below=$(grep -xF -A 1 -- "$out/$1" "$log" | tail -n 1)
  [ "$below" = "    $2" ] || fail "$1: got '$below', expected '    $2'"
}
results tiny-llama-NF4 "transformers with bitsandbytes:"
results tiny-llama-W4A16 "vLLM, and transformers with compressed-tensors:"
results tiny-llama-W4A16-gptq "the same engines; the report compares its output error on the calibration"
results jobs/tiny-llama-W4A16-gptq "the job's result, read from the server's store: the same bytes"
for preset in NF4 W4A16 W4A16-gptq; do
  says "    $out/tiny-llama-$preset.html"
  grep -q '<svg' "$out/tiny-llama-$preset.html" || fail "$preset: expected a page with charts"
done

# What to type next.
server=127.0.0.1:$port
says "== next"
says "    build/release/bin/quantd --listen $server"
has "    build/release/bin/quantctl quantize DIRECTORY "
has "    grpcurl -plaintext -d '{\"config\":"
says "      $server quant.v1.QuantizeService/Quantize"
says "    grpcurl -plaintext $server quant.v1.QuantizeService/GetCapabilities"

# The server is gone, by a drain.
answers && fail "expected nobody on port $port"
grep -q '"event":"drained"' "$out/quantd.log" || fail "expected a server that drained"
echo "quickstart.sh does and says what it should"
