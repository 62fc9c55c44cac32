"""Second moments of the inputs of a model's linears, as a calibration file.

    moments.py MODEL TEXT OUT [--tokens 65536]

MODEL is a directory that transformers loads (a causal model or an encoder); it
runs in float32, sums are made in float64 and stored in float32. Linears that
are given the same tensor share a site. The form is that of
quant/calibration/calibration_file.h.
"""
import argparse
import json

import torch
from safetensors.torch import save_file

import model_text


class Site:
    def __init__(self, inputs):
        self.second_moment = torch.zeros(inputs, inputs, dtype=torch.float64)
        self.abs_sum = torch.zeros(inputs, dtype=torch.float64)
        self.tokens = 0

    def add(self, x):
        x = x.reshape(-1, x.shape[-1]).double()
        self.second_moment += x.T @ x
        self.abs_sum += x.abs().sum(0)
        self.tokens += len(x)


class Recorder:
    """Sums what reaches each linear while `model` runs."""

    def __init__(self, model):
        self.seen = []  # (input tensor, module name) of the first run
        self.sites = {}  # first reader: Site
        self.readers = {}  # first reader: module names
        self.hooks = [
            module.register_forward_pre_hook(
                lambda _, arguments, name=name: self.record(name, arguments[0]))
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear)
            and module is not model.get_output_embeddings()]

    def record(self, name, x):
        if self.seen is not None:
            # Tensors are kept, so that no two of a run can be one by chance.
            first = next((n for t, n in self.seen if t is x), name)
            self.seen.append((x, name))
            self.readers.setdefault(first, []).append(name)
        if name in self.readers:
            self.sites.setdefault(name, Site(x.shape[-1])).add(x)

    def end_first_run(self):
        self.seen = None


@torch.inference_mode()
def collect(model, tokens, batch=8):
    """{site: Site}, {site: [modules]}; `tokens` [windows, size]."""
    recorder = Recorder(model)
    for part in tokens.split(batch):
        model.base_model(input_ids=part)
        recorder.end_first_run()
    return recorder.sites, recorder.readers


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("out")
    parser.add_argument("--tokens", type=int, default=65536)
    parser.add_argument("--window", type=int, default=256)
    options = parser.parse_args()
    tokens = model_text.token_windows(options.model, options.text,
                                      options.tokens // options.window,
                                      options.window)
    sites, readers = collect(model_text.load_model(options.model), tokens)
    tensors = {}
    for name, site in sites.items():
        tensors[name + ".second_moment"] = site.second_moment.float()
        tensors[name + ".abs_sum"] = site.abs_sum.float()
        tensors[name + ".token_count"] = torch.tensor([site.tokens])
    save_file(tensors, options.out, {
        "inputs": json.dumps({n: readers[n] for n in sites}),
        "sequence_length": str(options.window)})
    print(f"{len(sites)} sites, {tokens.numel()} tokens: {options.out}")


if __name__ == "__main__":
    main()
