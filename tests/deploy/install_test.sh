#!/usr/bin/env bash
# What `cmake --install` puts into a prefix: the two programs, which work there.
# usage: install_test.sh BUILD_DIR
set -euo pipefail
build=${1:?usage: install_test.sh BUILD_DIR}
prefix=$(mktemp -d)
server=
trap '[ -z "$server" ] || { kill "$server"; wait "$server" || true; }; rm -rf "$prefix"' EXIT

fail() {
  echo "install_test.sh: $*" >&2
  exit 1
}

cmake --install "$build" --prefix "$prefix" >/dev/null
got=$(cd "$prefix" && find . -type f | sort | tr '\n' ' ')
[ "$got" = "./bin/quantctl ./bin/quantd " ] ||
  fail "got the files $got, expected ./bin/quantctl and ./bin/quantd"

"$prefix/bin/quantd" --listen 127.0.0.1:0 --port-file "$prefix/port" \
  2>"$prefix/log" &
server=$!
for _ in $(seq 100); do
  [ -s "$prefix/port" ] && break
  sleep 0.1
done
[ -s "$prefix/port" ] || fail "quantd did not start: $(cat "$prefix/log")"
"$prefix/bin/quantctl" health --server "127.0.0.1:$(cat "$prefix/port")" ||
  fail "got exit code $? of quantctl health, expected 0"
