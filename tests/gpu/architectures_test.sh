#!/usr/bin/env bash
# That every kernel is compiled to machine code for the GPUs that are supported,
# with PTX for those between and after them, as far as this nvcc knows them.
# usage: architectures_test.sh NVCC COMPILE_COMMANDS
set -euo pipefail
nvcc=${1:?usage: architectures_test.sh NVCC COMPILE_COMMANDS}
commands=${2:?usage: architectures_test.sh NVCC COMPILE_COMMANDS}

expected="compute_90 sm_80 sm_90"
if "$nvcc" --list-gpu-code | grep -qx sm_120; then
  expected="compute_120 compute_90 sm_100 sm_120 sm_80 sm_90"
fi
count=0
while IFS= read -r command; do
  count=$((count + 1))
  codes=$(grep -oE ',code=\[?[a-z0-9_,]+' <<<"$command" | sed -E 's/,code=\[?//' |
    tr ',' '\n' | LC_ALL=C sort -u | paste -sd ' ' -)
  [ "$codes" = "$expected" ] || {
    echo "got $codes, expected $expected in: $command" >&2
    exit 1
  }
done < <(grep '"command".*--generate-code' "$commands")
sources=$(find "$(dirname "$0")/../../kernels/cuda" -name '*.cu' | wc -l)
[ "$count" = "$sources" ] || {
  echo "$count commands with --generate-code, $sources kernels' sources" >&2
  exit 1
}
echo "$count sources: $expected"
