#!/usr/bin/env bash
# Verifies the CUDA kernels on the GPUs of this machine, in a few minutes: needs
# nvcc (on PATH, or its path as CUDACXX), CMake, the packages of
# deploy/install-deps.sh but gRPC, and a driver.
# Builds, runs every family against the reference on each device, then under
# compute-sanitizer where that is found, and writes what was proved, where and
# when, to kernels/cuda/verified_on.h (build again to have GetCapabilities say
# it).
set -euo pipefail
cd "$(dirname "$0")/../.."
nvcc=${CUDACXX:-$(command -v nvcc || true)}
[ -n "$nvcc" ] || { echo "no nvcc: put it on PATH or set CUDACXX (deploy/install-cuda.sh brings one)" >&2; exit 1; }

cmake -S . -B build/gpu -G Ninja -DCMAKE_BUILD_TYPE=Release -DQS_SERVICE=OFF \
  -DQS_GPU_TEST=ON -DCMAKE_CUDA_COMPILER="$nvcc" ${QS_CMAKE_ARGS:-} >/dev/null
cmake --build build/gpu --target gpu_device_test
build/gpu/bin/gpu_device_test

if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck initcheck synccheck; do
    echo "== compute-sanitizer $tool"
    compute-sanitizer --tool "$tool" --error-exitcode 9 \
      build/gpu/bin/gpu_device_test "HQQ,GPTQ*,AWQ*"
  done
else
  echo "compute-sanitizer is not here: memory, races and barriers were not checked" >&2
fi

gpu=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1)
driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -n 1)
header=kernels/cuda/verified_on.h
sed -i "s|^constexpr char kVerifiedOn\[\] = .*|constexpr char kVerifiedOn[] =\n    \"$gpu, $(date +%F), driver $driver\";|" "$header"
echo "verified on $gpu, driver $driver"
