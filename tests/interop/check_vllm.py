"""Scores fixed prompts with vLLM on a CPU; compares two checkpoints.

    check_vllm.py QUANTIZED DEQUANTIZED [--tolerance T]

Each directory is loaded in a process of its own, because the engine does not
give its memory back. Exit code 1 when the mean absolute difference of the
prompts' log probabilities is above T (natural log units).
"""
import argparse
import json
import os
import subprocess
import sys


def score(folder):
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    # The engine in this process, so that nothing is left when it exits.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_HOST_IP", "127.0.0.1")
    from vllm import LLM, SamplingParams

    with open(os.path.join(folder, "config.json")) as file:
        vocabulary = json.load(file)["vocab_size"]
    prompts = [[(17 * i + 31 * j) % vocabulary for j in range(64)]
               for i in range(4)]
    engine = LLM(folder, skip_tokenizer_init=True, enforce_eager=True,
                 dtype="bfloat16", max_num_seqs=4, max_model_len=128)
    asked = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0,
                           detokenize=False)
    answers = engine.generate([{"prompt_token_ids": p} for p in prompts],
                              asked)
    return [list(step.values())[0].logprob
            for answer in answers for step in answer.prompt_logprobs[1:]]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("quantized")
    parser.add_argument("dequantized", nargs="?")
    parser.add_argument("--tolerance", type=float, default=0.01)
    args = parser.parse_args()
    if args.dequantized is None:
        print("SCORES", json.dumps(score(args.quantized)), flush=True)
        # Not by way of the interpreter's end: the engine's threads sometimes
        # abort there, after the work is done.
        os._exit(0)
    scores = []
    for folder in (args.quantized, args.dequantized):
        done = subprocess.run([sys.executable, __file__, folder],
                              stdout=subprocess.PIPE, text=True, check=True)
        # The engine logs on standard output too.
        line = next(s for s in done.stdout.splitlines()
                    if s.startswith("SCORES "))
        scores.append(json.loads(line[len("SCORES "):]))
    pairs = [abs(a - b) for a, b in zip(*scores)]
    mean = sum(pairs) / len(pairs)
    good = mean <= args.tolerance and len(pairs) > 0
    print(f"{'ok  ' if good else 'FAIL'} {len(pairs)} log probabilities, mean "
          f"difference {mean:.1e}, largest {max(pairs):.1e}")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
