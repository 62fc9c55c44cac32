"""What the checks of one engine each have in common: what is compared, and how.

A check gets directories QUANTIZED; QUANTIZED-float beside each holds what
dequantize.py made of it. Logits are compared as relative norms. In tiny-llama,
of 28 linears, two codes swapped throughout one linear give 0.2, its zero points
off by one 0.02; float16 arithmetic gives 0.0005 and bfloat16 0.004.
"""
import json
import pathlib
import sys

import torch
from safetensors import safe_open


def config_of(folder):
    return json.loads((pathlib.Path(folder) / "config.json").read_text())


def load_tensors(folder):
    tensors = {}
    for file in sorted(pathlib.Path(folder).glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            for name in opened.keys():
                assert name not in tensors, f"{name} is in two files"
                tensors[name] = opened.get_tensor(name)
    return tensors


def float_folder(folder):
    return str(folder).rstrip("/") + "-float"


def load_model(folder, **options):
    """By transformers, as the class that its config.json names."""
    import transformers
    made = getattr(transformers, config_of(folder)["architectures"][0])
    return made.from_pretrained(folder, device_map="cpu", **options)


def logits_of(model):
    vocabulary = model.config.get_text_config().vocab_size
    ids = (torch.arange(96).reshape(4, 24) * 37) % vocabulary
    model.train(False)
    with torch.no_grad():
        return model(input_ids=ids).logits.float()


def float_logits(folder):
    """Of the dequantized checkpoint, by transformers in float32."""
    return logits_of(load_model(float_folder(folder), dtype=torch.float32))


def relative(got, want):
    return (got - want).norm() / want.norm()


def near_source(folder):
    """Whether the dequantized weights are near those of QUANTIZED-source, where
    there is one, parameter by parameter as transformers has them: experts that
    were cut from the wrong rows of a stack are not."""
    source = pathlib.Path(str(folder).rstrip("/") + "-source")
    if not source.exists():
        return True
    got, want = (load_model(path, dtype=torch.float32).state_dict()
                 for path in (float_folder(folder), source))
    assert got.keys() == want.keys()
    worst = max((relative(got[name], want[name]).item(), name)
                for name in want if want[name].norm() > 0)
    print(f"{pathlib.Path(folder).name}: {worst[1]} is {worst[0]:.1e} from its "
          "source")
    return worst[0] < 0.05


def judge(folder, count, got, tolerance):
    """Prints a line; whether `got` are the dequantized checkpoint's logits."""
    want = float_logits(folder)
    difference = relative(got, want).item()
    good = (count > 0 and torch.isfinite(got).all().item()
            and difference <= tolerance and near_source(folder))
    print(f"{'ok  ' if good else 'FAIL'} {pathlib.Path(folder).name}: {count} "
          f"quantized modules, logits differ by {difference:.1e} (allowed "
          f"{tolerance:.0e})", flush=True)
    return good


def check_all(check):
    """Runs `check` on every directory of the command line; the exit code."""
    folders = sys.argv[1:]
    assert folders, "no directory to check"
    sys.exit(0 if all([check(folder) for folder in folders]) else 1)
