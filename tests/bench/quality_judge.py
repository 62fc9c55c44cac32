"""Judges of quantized checkpoints. Used by quality_table.py.

Output error of a linear: tr(D H D^T) / tr(W H W^T), with H the second moment of
its input on tokens that nothing was solved with, D what the decoded weight is
off the original one. Weights that AWQ scaled are scaled back first.
"""
import json
import math

import torch
from safetensors import safe_open

import model_text


class Moments:
    """A calibration file, by weight name."""

    def __init__(self, path):
        self.file = safe_open(path, "pt")
        inputs = json.loads(self.file.metadata()["inputs"])
        self.site = {m + ".weight": site
                     for site, modules in inputs.items() for m in modules}

    def of(self, weight):
        name = self.site[weight] + ".second_moment"
        return self.file.get_tensor(name).double()


def unfold(original, decoded, plan, moments):
    """{weight: in the space of the original model}, for the weights of `plan`.

    A norm tells the scales of its readers' columns. What the rows of a linear
    before were divided by is in no file: it is the factor that brings the
    decoded row nearest to the original one in the norm of `moments`, as near
    to the true one as the row's error lets it.
    """
    weights = {e["name"]: decoded[e["name"]].double()
               for e in plan["entries"] if e["action"] == "QUANTIZE"}
    resolved = plan["summary"]["resolved"]
    if "awq" not in resolved and not resolved.get("gptq", {}).get(
            "awq_scaling"):
        return weights
    sites, producers = plan["sites"], {
        s["fold"]["producer"] for s in plan["sites"]
        if s["fold"]["kind"] == "LINEAR"}
    row_factor = {}
    # Producers come before their readers: norms first, then chains of linears.
    pending = list(sites)
    while pending:
        site = next(s for s in pending
                    if s["fold"]["kind"] != "LINEAR"
                    or s["fold"]["producer"] in row_factor)
        pending.remove(site)
        columns = column_factor(site, original, decoded, row_factor)
        for name in site["consumers"]:
            weight = decoded[name].double() * columns
            if name in producers:
                row_factor[name] = nearest_rows(original[name].double(), weight,
                                                moments.of(name))
                weight = weight * row_factor[name][:, None]
            weights[name] = weight
    return weights


def column_factor(site, original, decoded, row_factor):
    """1 / s of the site's inputs."""
    fold, inputs = site["fold"], site["inputs"]
    if fold["kind"] in ("NORM", "NORM_PLUS_ONE"):
        one = 1.0 if fold["kind"] == "NORM_PLUS_ONE" else 0.0
        before, now = (t[fold["producer"]].double() + one
                       for t in (original, decoded))
        return torch.where(before == 0, 1.0, now / before)
    if fold["kind"] != "LINEAR":
        return torch.ones(inputs, dtype=torch.float64)
    rows = torch.arange(inputs)
    if fold["head_dim"]:
        size, repeat = fold["head_dim"], fold["repeat"]
        rows = rows // (size * repeat) * size + rows % size
    return 1 / row_factor[fold["producer"]][fold["row_offset"] + rows]


def nearest_rows(original, weight, h):
    product = weight @ h
    return (product * original).sum(1) / (product * weight).sum(1)


def output_errors(original, weights, moments):
    """{weight: output error}."""
    errors = {}
    for name, weight in weights.items():
        if name not in moments.site:
            continue
        w, h = original[name].double(), moments.of(name)
        d = weight - w
        errors[name] = (((d @ h) * d).sum() / ((w @ h) * w).sum()).item()
    return errors


def geometric_mean(values):
    return math.exp(sum(map(math.log, values)) / len(values))


@torch.inference_mode()
def losses(model, tokens, batch=8):
    """[windows] mean negative log-likelihood of the tokens after the first."""
    found = []
    for part in tokens.split(batch):
        logits = model(input_ids=part, use_cache=False).logits[:, :-1].float()
        found.append(torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), part[:, 1:], reduction="none").mean(1))
    return torch.cat(found).double()


@torch.inference_mode()
def embeddings(model, folder, text, batch=25):
    """Unit vectors [sentences, hidden]: the mean over a sentence's tokens."""
    tokenizer = model_text.transformers.AutoTokenizer.from_pretrained(folder)
    found = []
    for begin in range(0, len(text), batch):
        tokens = tokenizer(text[begin:begin + batch], padding=True,
                           truncation=True, max_length=256, return_tensors="pt")
        hidden = model(**tokens).last_hidden_state.double()
        mask = tokens["attention_mask"][..., None].double()
        found.append(torch.nn.functional.normalize(
            (hidden * mask).sum(1) / mask.sum(1), dim=1))
    return torch.cat(found)
