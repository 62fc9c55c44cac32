#!/usr/bin/env bash
# Installs what building quantd needs (Debian 12, Ubuntu 24.04). Asks apt only
# for packages that are missing, so a second run takes no time.
# usage: install-deps.sh [--tests|--slow-tests]
set -euo pipefail

packages=(
  ca-certificates g++ cmake ninja-build ccache pkg-config
  libgrpc++-dev libgrpc-dev libprotobuf-dev protobuf-compiler
  protobuf-compiler-grpc libabsl-dev libhwy-dev libtbb-dev libisal-dev
  libspdlog-dev nlohmann-json3-dev libcli11-dev libssl-dev libsqlite3-dev
  prometheus-cpp-dev libcpp-httplib-dev libopenblas-dev
)
case ${1:-} in
  --tests | --slow-tests) packages+=(
    catch2 libboost-context-dev python3 python3-venv openssl curl procps
    clang-14 libclang-rt-14-dev
  )
    # The README's grpcurl lines are typed by a test; Go builds grpcurl.
    command -v grpcurl >/dev/null || command -v go >/dev/null ||
      packages+=(golang-go)
    ;;
esac
# What reads the CUDA sources with the headers of CUDA 12, and what the engines'
# Python packages need: Python's headers (pypcre is compiled) and libnuma (vLLM).
[ "${1:-}" = --slow-tests ] && packages+=(clang-19 python3-dev libnuma1)

missing=()
for package in "${packages[@]}"; do
  state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$state" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" = 0 ]; then
  as_root=()
elif command -v sudo >/dev/null; then
  as_root=(sudo)
else
  echo "install-deps: these packages are missing and neither root nor sudo is" \
    "at hand; ask an administrator for:" >&2
  echo "  apt-get install ${missing[*]}" >&2
  exit 1
fi
echo "installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" apt-get install -y -qq --no-install-recommends \
  "${missing[@]}" >/dev/null
