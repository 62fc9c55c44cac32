#!/usr/bin/env bash
# Prints where grpcurl is: on PATH, or in the user's cache, built there once
# through Go's module proxy where Go is installed. Exit code 1 without either.
set -euo pipefail
version=v1.9.1 # the last one for Go 1.19, of Debian 12
built=${XDG_CACHE_HOME:-$HOME/.cache}/quantd/bin/grpcurl

command -v grpcurl && exit
if [ ! -x "$built" ]; then
  command -v go >/dev/null || exit 1
  GOBIN=$(dirname "$built") \
    go install "github.com/fullstorydev/grpcurl/cmd/grpcurl@$version" >&2 || exit 1
fi
printf '%s\n' "$built"
