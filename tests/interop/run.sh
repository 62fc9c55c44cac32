#!/usr/bin/env bash
# Quantizes tests/data/tiny-llama, small mixtures of experts and small multimodal
# models through a running server and loads the output in the real engines.
# usage: run.sh BIN_DIR transformers|gptqmodel|hqq|vllm
set -euo pipefail
bin=$(realpath "$1")
engine=$2
here=$(cd "$(dirname "$0")" && pwd)
model=$here/../data/tiny-llama
calibration=$here/../data/tiny-llama-calibration.safetensors
environment=transformers
[ "$engine" = vllm ] && environment=vllm
python=$("$here/setup.sh" "$environment")
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

checked=()
# quantize NAME ARGUMENTS...: NAME below the work folder.
quantize() {
  local name=$1
  shift
  "$bin/quantctl" quantize "$model" -o "$work/$name" --server "$address" \
    --target "$engine" "$@" >"$work/$name.log" || {
    cat "$work/$name.log"
    return 1
  }
  checked+=("$work/$name")
}

# solve NAME ARGUMENTS...: the same, for the methods that need calibration.
solve() {
  quantize "$@" --calibration "$calibration"
}

# made FAMILY NAME ARGUMENTS...: the model FAMILY-made instead, with which the
# decoded weights are compared, too.
made() {
  local source=$work/$1-made name=$2
  shift 2
  ln -sfn "$source" "$work/$name-source"
  model=$source quantize "$name" "$@"
}

# mixture FAMILY NAME ARGUMENTS...: a small mixture of experts.
mixture() {
  local source=$work/$1-made
  [ -d "$source" ] || "$python" "$here/make_mixture.py" "$1" "$source" \
    >"$work/$1.log" 2>&1 || { cat "$work/$1.log"; return 1; }
  made "$@"
}

case $engine in
  transformers)
    "$python" "$here/dequantize_test.py"
    for preset in NF4 NF4-dq FP4 W4A16 W8A16; do
      quantize "$preset" --preset "$preset"
    done
    for preset in W4A16-gptq W3A16-gptq W4A16-awq; do
      solve "$preset" --preset "$preset"
    done
    solve gptq-v1 --preset W4A16-gptq --format gptq
    solve gptq-v2-asymmetric --method gptq --format gptq-v2 --asymmetric
    solve awq-gemm --method awq --format awq
    solve mixed --preset W4A16-gptq --override '*.down_proj.*=W8A16' \
      --override '*layers.1.self_attn.[qkv]_proj.*=skip' \
      --override '*.o_proj.*={"rtn":{"bits":3,"group_size":32}}' \
      --override '*layers.[23].mlp*={"awq":{"bits":5,"group_size":64}}'
    quantize nf4-skip --preset NF4 --override '*layers.2.*.q_proj.*=skip'
    mixture mixtral mixtral-mixed --preset W8A16 \
      --override '*.experts.*={"rtn":{"bits":8,"group_size":64}}'
    mixture mixtral mixtral-W8A16 --preset W8A16
    mixture mixtral mixtral-W8A16-gptq --preset W8A16-gptq --no-awq-scaling \
      --calibration "$work/mixtral-made/calibration.safetensors"
    mixture llama4 llama4-stacks-W8A16 --preset W8A16
    mixture qwen3_5_moe qwen3.5-stacks-W8A16 --preset W8A16
    "$python" "$here/make_small.py" "$work" >"$work/small.log" 2>&1 || {
      cat "$work/small.log"
      exit 1
    }
    for family in qwen2_5_vl llava mistral3 internvl qwen2_audio gemma3 \
      idefics3 electra albert; do
      made "$family" "$family-W8A16" --preset W8A16
    done
    left_out='*layers.1.self_attn.o_proj.*'
    for family in qwen2_5_vl llava; do
      inputs=$work/$family-made/calibration.safetensors
      made "$family" "$family-mixed" --preset W8A16 --exclude "$left_out" \
        --override '*layers.1.self_attn.[qkv]_proj.*=skip' \
        --override '*layers.0.mlp.down_proj.*={"rtn":{"bits":8,"group_size":64}}'
      made "$family" "$family-gptq" --preset W8A16-gptq --format gptq \
        --no-awq-scaling --exclude "$left_out" --calibration "$inputs"
      made "$family" "$family-awq" --method awq --format awq \
        --exclude "$left_out" --calibration "$inputs"
      # Four bits are farther from the source than its check allows.
      rm "$work/$family-awq-source"
    done
    ;;
  gptqmodel)
    solve gptq-v1 --preset W4A16-gptq --format gptq
    solve gptq-v1-8bit --preset W8A16-gptq --format gptq
    solve gptq-v1-act-order --method gptq --format gptq --order act-order
    for bits in 2 3 4 8; do
      solve "gptq-v2-${bits}bit" --method gptq --format gptq-v2 \
        --bits "$bits" --group-size 64 --asymmetric
    done
    solve gptq-reference --preset W4A16-gptq --format gptq --profile reference
    solve awq-gemm --method awq --format awq
    solve awq-gemm-reference --method awq --format awq --profile reference
    ;;
  hqq)
    for preset in HQQ-4 HQQ-3 HQQ-2; do
      quantize "$preset" --preset "$preset"
    done
    quantize HQQ-8 --method hqq --format hqq --bits 8
    quantize HQQ-1 --method hqq --format hqq --bits 1 --group-size 16
    quantize HQQ-4-axis-0 --preset HQQ-4 --axis 0 --profile reference
    ;;
  vllm)
    quantize W4A16 --preset W4A16
    solve W4A16-gptq --preset W4A16-gptq
    solve W4A16-gptq-asymmetric --preset W4A16-gptq --group-size 32 --asymmetric
    solve W4A16-awq --preset W4A16-awq
    quantize W4A16-hqq --preset W4A16-hqq
    solve gptq-v1 --preset W4A16-gptq --format gptq
    solve awq-gemm --method awq --format awq
    # One kernel there is, for 4 bits: other groups and zero points.
    solve mixed --preset W4A16-gptq \
      --override '*.self_attn.[qkv]_proj.*={"rtn":{"group_size":32}}' \
      --override '*layers.1.mlp.*={"gptq":{"symmetric":false}}' \
      --override '*layers.2.self_attn.o_proj.*=skip' \
      --override '*layers.[0-2].mlp.down_proj.*=W4A16-hqq'
    ;;
esac
# NAME-float for each.
"$python" "$here/dequantize.py" "${checked[@]}"
# The engines write much, of which the verdicts are enough when all is well.
"$python" "$here/check_$engine.py" "${checked[@]}" >"$work/check.log" 2>&1 || {
  cat "$work/check.log"
  exit 1
}
grep -a "^ok" "$work/check.log"
