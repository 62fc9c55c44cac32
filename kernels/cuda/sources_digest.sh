#!/usr/bin/env bash
# A digest of what decides what the CUDA kernels give on a device: all of
# kernels/ but its CPU and reference backends (kernels, launchers, tables, and
# the flags of the compilers), and the flags of the whole tree. tests/gpu/run.sh
# notes it beside what it proved, so that a build of other sources does not claim
# it.
# usage: sources_digest.sh               of this tree
#        sources_digest.sh HEADER        where to say it to a program
#        sources_digest.sh --of PROGRAM...   of what these were built of, if of
#                                            the same
set -euo pipefail
readonly mark="quantd CUDA sources"

linked() { # program
  LC_ALL=C grep -ao "$mark [0-9a-f]\{16\}" "$1" | sort -u | cut -d ' ' -f 4
}

if [ "${1:-}" = --of ]; then
  first=$(linked "$2") || true
  [ "${#first}" = 16 ] || {
    echo "sources_digest.sh: $2: got none or several, allowed: one mark of CUDA sources" >&2
    exit 1
  }
  for program in "${@:3}"; do
    [ "$(linked "$program" || true)" = "$first" ] || {
      echo "sources_digest.sh: $program: got other CUDA sources than $2 has, allowed: the same" >&2
      exit 1
    }
  done
  echo "$first"
  exit
fi

root=$(cd "$(dirname "$0")/../.." && pwd)
digest=$(cd "$root" && find CMakeLists.txt kernels \
  \( -path kernels/cpu -o -path kernels/reference \) -prune -o -type f \
  \( -name '*.h' -o -name '*.cu' -o -name '*.cc' -o -name '*.cmake' \
  -o -name CMakeLists.txt \) \
  ! -path kernels/cuda/verified_on.h -print0 |
  LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -c 1-16)
if [ $# = 0 ]; then
  echo "$digest"
  exit
fi
text="// Made by kernels/cuda/sources_digest.sh.
namespace qs::cuda {
constexpr char kSources[] = \"$digest\";
// What --of looks for in a program.
[[gnu::used]] constexpr char kSourcesMark[] = \"$mark $digest\";
}  // namespace qs::cuda"
# Its time stays with its content, or it would be compiled again and again.
[ "$(cat "$1" 2>/dev/null)" = "$text" ] || printf '%s\n' "$text" >"$1"
