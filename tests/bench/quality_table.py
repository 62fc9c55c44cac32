"""What quantizing costs a model, by method, profile and bits, as a table.

    quality_table.py BIN MODEL --text TEXT --calibration FILE --evaluation FILE
        [--windows 64] [--only REGEX] [--include GLOB] [--peers DIR]

Each row is quantized by BIN/quantctl through a BIN/quantd of its own, decoded
from its files by tests/interop/dequantize.py and run by transformers in
float32. A causal model's perplexity is taken on windows of TEXT (255 tokens
each, spread evenly) with the standard error of its change, windows paired; of
an encoder, how far 200 sentences' embeddings turn. Output errors (see
quality_judge.py) are of EVALUATION: second moments, as FILE, of tokens that
FILE did not see (moments.py makes both); the column "as reported" is quantctl's
own, of FILE. Weight error is relative to the weights' squares. bits counts all
that stands for the weights in the files.

DIR holds NAME.safetensors, each the decoded weights of another quantizer, for
rows that begin with *. Needs torch and transformers.
"""
import argparse
import json
import math
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import torch

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "interop"))
import agreement  # noqa: E402
import dequantize  # noqa: E402
import model_text  # noqa: E402
import quality_judge as judge  # noqa: E402


def rows():
    """{name: quantctl's arguments}"""
    table = {}
    for profile in ("reference", "best"):
        def add(name, arguments):
            table[f"{name}, {profile}"] = [*arguments.split(),
                                           "--profile", profile]
        add("NF4", "--preset NF4")
        add("NF4-dq", "--preset NF4-dq")
        for bits in (8, 4, 3, 2):
            for sign in ("symmetric", "asymmetric"):
                add(f"RTN {bits} g128 {sign}",
                    f"--method rtn --bits {bits} --group-size 128 --{sign}")
        for bits, group in ((8, 64), (4, 64), (3, 64), (2, 64), (2, 16)):
            add(f"HQQ {bits} g{group}", f"--method hqq --format hqq "
                f"--bits {bits} --group-size {group}")
        for bits in (4, 3, 2):
            add(f"HQQ {bits} g64, integer zero",
                f"--method hqq --bits {bits} --group-size 64")
        for bits in (8, 4, 3, 2):
            for sign in ("symmetric", "asymmetric"):
                add(f"AWQ {bits} g128 {sign}",
                    f"--method awq --bits {bits} --{sign}")
        for bits in (8, 4, 3, 2):
            for sign in ("symmetric", "asymmetric"):
                add(f"GPTQ {bits} g128 {sign}",
                    f"--method gptq --bits {bits} --{sign}")
    for bits in (8, 4, 3, 2):
        table[f"GPTQ {bits} g128 symmetric, act-order-static, reference"] = (
            f"--method gptq --bits {bits} --order act-order-static "
            "--damping 0.01 --profile reference").split()
    return table


class Server:
    def __init__(self, folder, work):
        port = work / "port"
        self.quantctl = folder / "quantctl"
        self.log = open(work / "quantd.log", "w")
        self.process = subprocess.Popen(
            [folder / "quantd", "--listen", "127.0.0.1:0", "--port-file", port],
            stderr=self.log, stdout=self.log)
        for _ in range(100):
            if port.exists() and port.read_text():
                break
            time.sleep(0.1)
        self.address = "127.0.0.1:" + port.read_text().strip()

    def run(self, command, model, arguments):
        return subprocess.run(
            [self.quantctl, command, model, "--server", self.address,
             *arguments], check=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True).stdout

    def stop(self):
        self.process.terminate()
        self.process.wait()


class Bench:
    def __init__(self, options, server, work):
        self.options, self.server, self.work = options, server, work
        self.causal = model_text.is_causal(options.model)
        self.original = agreement.load_tensors(options.model)
        self.calibration = judge.Moments(options.calibration)
        self.evaluation = judge.Moments(options.evaluation)
        if self.causal:
            self.tokens = model_text.token_windows(
                options.model, options.text, options.windows)
        else:
            self.sentences = model_text.sentences(options.text, 200)
        self.base = self.behaviour(options.model)

    def behaviour(self, folder):
        model = model_text.load_model(folder)
        if self.causal:
            return judge.losses(model, self.tokens)
        return judge.embeddings(model, self.options.model, self.sentences)

    def quantized(self, arguments):
        """(decoded tensors, plan, report) and their checkpoint in `float`."""
        more = []
        for glob in self.options.include or []:
            more += ["--include", glob]
        plan = json.loads(self.server.run(
            "plan", self.options.model, [*arguments, *more, "--json"]))["plan"]
        self.server.run("quantize", self.options.model, [
            *arguments, *more, "--calibration", self.options.calibration,
            "--overwrite", "-o", self.work / "out", "--json",
            self.work / "report.json"])
        dequantize.write_dequantized(self.work / "out", self.work / "float")
        report = json.loads((self.work / "report.json").read_text())
        return agreement.load_tensors(self.work / "float"), plan, report

    def ours(self, name, arguments):
        decoded, plan, report = self.quantized(arguments)
        weights = judge.unfold(self.original, decoded, plan, self.calibration)
        tensors = report["tensors"]
        size = sum(t["bytes_out"] for t in tensors)
        count = sum(math.prod(t["shape"]) for t in tensors)
        reported = [t["output_error"] for t in tensors if "output_error" in t]
        self.print_row(name, 8 * size / count, weights, self.work / "float",
                       sum(reported) / len(reported))

    def peer(self, name, file):
        """Weights of `file` in a copy of the model."""
        found = {}
        with judge.safe_open(file, "pt") as opened:
            for key in opened.keys():
                found[key] = opened.get_tensor(key).double()
        folder = self.work / "float"
        folder.mkdir(exist_ok=True)
        for part in pathlib.Path(self.options.model).iterdir():
            if part.is_file() and not part.name.startswith("model"):
                (folder / part.name).write_bytes(part.read_bytes())
        dequantize.save_file(
            {k: found.get(k, t).to(torch.float32 if k in found else t.dtype)
             .contiguous() for k, t in self.original.items()},
            folder / "model.safetensors", metadata={"format": "pt"})
        self.print_row("* " + name, None, found, folder, None)

    def print_row(self, name, bits, weights, folder, reported):
        errors = judge.output_errors(self.original, weights, self.evaluation)
        error = signal = 0
        for key in errors:
            w = self.original[key].double()
            error += (weights[key] - w).square().sum().item()
            signal += w.square().sum().item()
        values = list(errors.values())
        worst = max(errors, key=errors.get)
        cells = [name, "" if bits is None else f"{bits:.3f}",
                 *self.cost(self.behaviour(folder)),
                 f"{sum(values) / len(values):.3e}",
                 f"{judge.geometric_mean(values):.3e}",
                 f"{errors[worst]:.2e} {worst.removesuffix('.weight')}",
                 "" if reported is None else f"{reported:.3e}",
                 f"{error / signal:.3e}"]
        print("| " + " | ".join(cells) + " |", flush=True)

    def cost(self, now):
        if self.causal:
            d = now - self.base
            relative = d.std().item() / math.sqrt(len(d))
            return [f"{math.exp(now.mean()):.3f}",
                    f"{100 * math.expm1(d.mean()):+.2f} ± "
                    f"{100 * relative:.2f} %"]
        cosine = (self.base * now).sum(1)
        apart = ~torch.eye(len(now), dtype=torch.bool)
        moved = (self.base @ self.base.T - now @ now.T).abs()[apart]
        return [f"{1 - cosine.mean():.5f}", f"{moved.mean():.4f}"]

    def print_head(self):
        cost = (["perplexity", "change"] if self.causal
                else ["1 - mean cosine", "similarities move"])
        head = ["", "bits", *cost, "output error", "geometric mean", "worst",
                "as reported", "weight error"]
        print("| " + " | ".join(head) + " |")
        print("|" + "---|" * len(head))
        cells = ["original", "", *self.cost(self.base), "", "", "", "", ""]
        print("| " + " | ".join(cells) + " |", flush=True)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bin", type=pathlib.Path)
    parser.add_argument("model")
    for name in ("--text", "--calibration", "--evaluation"):
        parser.add_argument(name, required=True)
    parser.add_argument("--windows", type=int, default=64, help="0: all")
    parser.add_argument("--only", default="", help="rows to make")
    parser.add_argument("--include", action="append", help="as quantctl's")
    parser.add_argument("--peers", type=pathlib.Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        server = Server(options.bin, work)
        try:
            bench = Bench(options, server, work)
            bench.print_head()
            for file in sorted((options.peers or work).glob("*.safetensors")):
                if re.search(options.only, "* " + file.stem):
                    bench.peer(file.stem, file)
            for name, arguments in rows().items():
                if re.search(options.only, name):
                    bench.ours(name, arguments)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
