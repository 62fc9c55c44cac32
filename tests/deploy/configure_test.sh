#!/usr/bin/env bash
# That the programs and the benchmarks can be built where deploy/install-deps.sh
# ran without --tests: quickstart.sh's machine.
# usage: configure_test.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fail() {
  cat "$work/log" >&2
  echo "configure_test.sh: $*" >&2
  exit 1
}

# configure PACKAGE...: as if these were not installed.
configure() {
  local without=()
  for package; do without+=("-DCMAKE_DISABLE_FIND_PACKAGE_$package=ON"); done
  rm -rf "$work/build"
  cmake --preset release -B "$work/build" -DQS_CUDA=OFF "${without[@]}" \
    >"$work/log" 2>&1 || fail "without $*: not configured"
  grep -q "The tests are not built" "$work/log" ||
    fail "without $*: expected a warning that the tests are not built"
  for target in quantd quantctl quant_bench service_bench; do
    ninja -C "$work/build" -t query "bin/$target" >/dev/null 2>&1 ||
      fail "without $*: no target $target"
  done
}

configure Catch2
configure Boost
configure Catch2 Boost Python3
