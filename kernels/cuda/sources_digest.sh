#!/usr/bin/env bash
# A digest of what decides how the CUDA kernels compute: kernels/cuda, and the
# headers that it shares with the host. tests/gpu/run.sh notes it beside what it
# proved, so that a build of other sources does not claim it.
# usage: sources_digest.sh [HEADER]     HEADER: where to say it to a program
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
digest=$(cd "$root" && find kernels \
  \( -path kernels/cpu -o -path kernels/reference \) -prune -o -type f \
  \( -name '*.h' -o -name '*.cu' -o -path 'kernels/cuda/*.cc' \) \
  ! -path kernels/cuda/verified_on.h -print0 |
  LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -c 1-16)
if [ $# = 0 ]; then
  echo "$digest"
  exit
fi
text="// Made by kernels/cuda/sources_digest.sh.
namespace qs::cuda {
constexpr char kSources[] = \"$digest\";
}  // namespace qs::cuda"
# Its time stays with its content, or it would be compiled again and again.
[ "$(cat "$1" 2>/dev/null)" = "$text" ] || printf '%s\n' "$text" >"$1"
