"""Scores fixed prompts with vLLM on a CPU; compares quantized checkpoints with
the dequantized ones (QUANTIZED-float).

    check_vllm.py [--tolerance T] QUANTIZED...

All in one process, because most of the time goes into starting. Exit code 1
when the mean absolute difference of the prompts' log probabilities is above T
(natural log units): float16 arithmetic gives 6e-4 with tiny-llama, two codes
swapped throughout one of its 28 linears 0.4.
"""
import argparse
import gc
import os
import pathlib
import sys

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# The engine in this process, so that nothing is left when it exits.
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_HOST_IP", "127.0.0.1")

from vllm import LLM, SamplingParams

import agreement


def score(folder):
    vocabulary = agreement.config_of(folder)["vocab_size"]
    prompts = [[(17 * i + 31 * j) % vocabulary for j in range(64)]
               for i in range(4)]
    engine = LLM(folder, skip_tokenizer_init=True, enforce_eager=True,
                 dtype="float16", max_num_seqs=4, max_model_len=128)
    asked = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0,
                           detokenize=False)
    answers = engine.generate([{"prompt_token_ids": p} for p in prompts],
                              asked)
    scores = [list(step.values())[0].logprob
              for answer in answers for step in answer.prompt_logprobs[1:]]
    del engine
    gc.collect()
    return scores


def check(folder, tolerance):
    pairs = [abs(a - b) for a, b in zip(
        score(folder), score(agreement.float_folder(folder)), strict=True)]
    mean = sum(pairs) / len(pairs)
    good = mean <= tolerance
    print(f"{'ok  ' if good else 'FAIL'} {pathlib.Path(folder).name}: "
          f"{len(pairs)} log probabilities, mean difference {mean:.1e} "
          f"(allowed {tolerance:.0e}), largest {max(pairs):.1e}", flush=True)
    return good


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("quantized", nargs="+")
    parser.add_argument("--tolerance", type=float, default=2e-3)
    args = parser.parse_args()
    good = all([check(folder, args.tolerance) for folder in args.quantized])
    sys.stdout.flush()
    sys.stderr.flush()
    # Not by way of the interpreter's end: the engine's threads sometimes
    # abort there, after the work is done.
    os._exit(0 if good else 1)


if __name__ == "__main__":
    main()
