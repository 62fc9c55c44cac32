#!/usr/bin/env bash
# Puts quantd and quantctl, and what tests/gpu/run.sh would build, with every
# shared library that they need, and the loader, into a folder that runs on a
# machine with none of our packages and no compiler: for tests/gpu/run.sh on a
# GPU's machine (QS_BUNDLE=DIR). Only what belongs to the GPU's driver, libcuda
# and with it cuBLAS and cuSOLVER, is taken from that machine. (Not one static
# file: Debian has no static oneTBB, and a static program loads no driver.)
# usage: bundle.sh [--cpu] DIR [BIN_DIR]     BIN_DIR: build/release/bin
#   --cpu: quantd and quantctl of a build without CUDA
set -euo pipefail
cpu=
if [ "${1:-}" = --cpu ]; then
  cpu=1
  shift
fi
dir=${1:?usage: bundle.sh [--cpu] DIR [BIN_DIR]}
bin=${2:-$(dirname "$0")/../../build/release/bin}
programs="quantd quantctl"
[ -n "$cpu" ] || programs+=" gpu_device_test gpu_bench"

# Of libc's own that a driver asks for by name and that must not come from
# another version of it than the loader.
parts_of_libc="libdl.so.2 libpthread.so.0 librt.so.1 libutil.so.1 libresolv.so.2
  libm.so.6"

fail() {
  echo "bundle.sh: $*" >&2
  exit 1
}

libraries_of() { # "name path" a line
  ldd "$1" | awk '$2 == "=>" && $3 ~ /^\// { print $1, $3 }'
}

for program in $programs; do
  [ -x "$bin/$program" ] || fail "no $bin/$program: build it first, with nvcc (or --cpu)"
done
# The text that such a program answers --workers gpu:0 with.
if [ -z "$cpu" ] && grep -aq "built without CUDA" "$bin/quantd"; then
  fail "$bin/quantd is built without CUDA (allowed with --cpu)"
fi
# run.sh proves one text of the kernels, and looks into these programs for it.
[ -n "$cpu" ] ||
  "$(dirname "$0")/../../kernels/cuda/sources_digest.sh" --of \
    "$bin/gpu_device_test" "$bin/gpu_bench" "$bin/quantd" >/dev/null ||
  fail "build gpu_device_test, gpu_bench and quantd together"
rm -rf "$dir/lib"
mkdir -p "$dir/lib"
for program in $programs; do
  cp "$bin/$program" "$dir/lib/$program"
  libraries_of "$bin/$program" | while read -r name path; do
    cp -L --update "$path" "$dir/lib/$name"
  done
done
loader=$(ldd "$bin/quantd" | awk '/ld-linux/ { print $1 }')
cp -L "$loader" "$dir/lib/$(basename "$loader")"
libc_folder=$(dirname "$(libraries_of "$bin/quantd" | awk '$1 == "libc.so.6" { print $2 }')")
for name in $parts_of_libc; do
  [ ! -e "$libc_folder/$name" ] || cp -L "$libc_folder/$name" "$dir/lib/$name"
done
# Debug information is most of the bytes and of no use there.
strip --strip-debug "$dir"/lib/* 2>/dev/null || true

# The loader is asked for by name, so that the machine's own is not used. It
# looks for the driver's libraries after ours, where the machine has them.
for program in $programs; do
  cat >"$dir/$program" <<EOF
#!/bin/sh
here=\$(cd "\$(dirname "\$0")" && pwd)
path=\$here/lib\${QS_CUBLAS_DIR:+:\$QS_CUBLAS_DIR}\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}
exec "\$here/lib/$(basename "$loader")" --library-path "\$path" \\
  "\$here/lib/$program" "\$@"
EOF
  chmod +x "$dir/$program"
done
"$dir/quantctl" --version >/dev/null || fail "the bundled quantctl does not start"
echo "bundle.sh: $(du -sh "$dir" | cut -f 1) in $dir"
