"""Texts as models read them, and models in float32. Used by moments.py and
quality_table.py.

A text is UTF-8, documents apart by two empty lines. A causal model gets windows
of the start token and a stretch of the text's tokens, documents closed by the
end token; an encoder gets such stretches between its own two special tokens.
"""
import json
import pathlib
import re

import torch
import transformers

DOCUMENT_BREAK = "\n\n\n"


def is_causal(folder):
    config = json.loads((pathlib.Path(folder) / "config.json").read_text())
    return any("CausalLM" in name for name in config.get("architectures", []))


def load_model(folder):
    if is_causal(folder):
        kind, options = transformers.AutoModelForCausalLM, {}
    else:
        kind, options = transformers.AutoModel, {"add_pooling_layer": False}
    return kind.from_pretrained(folder, dtype=torch.float32, **options).eval()


def documents(path):
    text = pathlib.Path(path).read_text(encoding="utf-8")
    return [part.strip("\n") for part in text.split(DOCUMENT_BREAK)]


def evenly(items, count):
    """At most `count` of the rows, spread evenly; all of them for count 0."""
    if not count or count >= len(items):
        return items
    return items[torch.linspace(0, len(items) - 1, count).round().long()]


def token_windows(folder, text_file, count=0, size=256):
    """[at most count, size] token ids, spread evenly over the text."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    if is_causal(folder):
        begin, stop = [tokenizer.bos_token_id], [tokenizer.eos_token_id]
        end = []
    else:
        begin, stop = [tokenizer.cls_token_id], []
        end = [tokenizer.sep_token_id]
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    encoded = backend.encode_batch(documents(text_file),
                                   add_special_tokens=False)
    stream = torch.tensor([i for e in encoded for i in (*e.ids, *stop)])
    body = size - len(begin) - len(end)
    rows = len(stream) // body
    parts = [torch.tensor(begin).expand(rows, -1),
             stream[:rows * body].view(rows, body),
             torch.tensor(end, dtype=torch.long).expand(rows, -1)]
    return evenly(torch.cat(parts, 1), count)


def sentences(text_file, count):
    """`count` different sentences of 40 to 200 characters, spread evenly."""
    found = {}
    for document in documents(text_file):
        for paragraph in document.splitlines():
            for part in re.split(r"(?<=[.!?])\s+(?=[A-Z])", paragraph):
                if 40 <= len(part.strip()) <= 200:
                    found[part.strip()] = None
    found = list(found)
    return [found[i] for i in evenly(torch.arange(len(found)), count)]
