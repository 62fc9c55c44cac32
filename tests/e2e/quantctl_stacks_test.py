#!/usr/bin/env python3
"""quantctl on checkpoints whose experts are stacked into 3-D tensors.

    quantctl_stacks_test.py BIN_DIR [TEST...]

Every checkpoint is made twice from the same values, with one 2-D weight for
each linear of an expert and with stacks: the output must be the same, byte for
byte, shard for shard.
"""
import array
import json
import math
import pathlib
import random
import shutil
import tempfile

import programs
from checkpoints import (INDEX, SEED, random_bf16, read_checkpoint,
                         read_safetensors, write_safetensors)

EXPERTS, HIDDEN, INNER, TOKENS = 4, 64, 96, 40
PARTS = ("gate_proj", "up_proj", "down_proj")

# model_type: what stands before a layer's number, the mixture's name, its
# router, and whether stacks are [experts, in, out].
FAMILIES = {
    "qwen3_5_moe": ("model.language_model.layers.", "mlp", "gate", False),
    "qwen3_vl_moe": ("model.language_model.layers.", "mlp", "gate", True),
    "llama4": ("language_model.model.layers.", "feed_forward", "router", True),
}


def turned(data, rows, cols):
    """[rows, cols] of 16-bit values as [cols, rows]."""
    values = array.array("H", data)
    out = array.array("H", bytes(len(data)))
    for i in range(rows):
        out[i::rows] = values[i * cols:(i + 1) * cols]
    return out.tobytes()


def stack(linears, rows, cols, transposed):
    """`linears` of each expert, [rows, cols] each, in one tensor."""
    out = b""
    for expert in linears:
        joined = b"".join(expert)
        out += turned(joined, len(expert) * rows, cols) if transposed else joined
    shape = [len(linears), len(linears[0]) * rows, cols]
    return "BF16", [shape[0]] + (shape[:0:-1] if transposed else shape[1:]), out


class Mixture:
    """Layers of which the last one's experts lie in a second shard."""

    def __init__(self, family, count=EXPERTS, layers=2):
        self.family, self.count = family, count
        start, self.mixture, router, self.transposed = FAMILIES[family]
        rng = random.Random(SEED)
        self.blocks = [f"{start}{layer}." for layer in range(layers)]
        self.plain, self.experts = {}, {}
        for block in self.blocks:
            self.add_plain(block, router, rng)
            for expert in range(self.count):
                for part in PARTS:
                    shape = ([HIDDEN, INNER] if part == "down_proj"
                             else [INNER, HIDDEN])
                    self.experts[f"{block}{self.mixture}.experts.{expert}."
                                 f"{part}.weight"] = (
                        "BF16", shape, random_bf16(math.prod(shape), rng))

    def add_plain(self, block, router, rng):
        shapes = {f"self_attn.{p}_proj": [HIDDEN, HIDDEN] for p in "qkvo"}
        shapes |= {name: [HIDDEN] for name in
                   ("input_layernorm", "post_attention_layernorm")}
        shapes[f"{self.mixture}.{router}"] = [self.count, HIDDEN]
        for name, shape in shapes.items():
            self.plain[f"{block}{name}.weight"] = (
                "BF16", shape, random_bf16(math.prod(shape), rng))

    def stacks(self):
        out = {}
        for block in self.blocks:
            base = f"{block}{self.mixture}.experts."
            for name, parts in (("gate_up_proj", PARTS[:2]),
                                ("down_proj", PARTS[2:])):
                linears = [[self.experts[f"{base}{e}.{p}.weight"][2]
                            for p in parts] for e in range(self.count)]
                rows, cols = self.experts[f"{base}0.{parts[0]}.weight"][1]
                out[base + name] = stack(linears, rows, cols, self.transposed)
        return out

    def write(self, folder, experts):
        folder.mkdir()
        second = {k: v for k, v in experts.items()
                  if k.startswith(self.blocks[-1])}
        first = self.plain | {k: v for k, v in experts.items()
                              if k not in second}
        weight_map = {}
        for i, tensors in enumerate((first, second), 1):
            name = f"model-{i:05d}-of-00002.safetensors"
            write_safetensors(folder / name, tensors, {"format": "pt"})
            weight_map |= {tensor: name for tensor in tensors}
        (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
        (folder / "config.json").write_text(json.dumps({
            "model_type": self.family, "text_config": {
                "num_attention_heads": 4, "hidden_size": HIDDEN}}))
        return folder

    def write_calibration(self, path, of_stacks=False):
        """Inputs of single experts, the last one's down saw few tokens; or what
        modules of stacked experts see."""
        rng = random.Random(SEED + 1)
        tensors, inputs = {}, {}

        def add(name, modules, size, tokens=TOKENS):
            inputs[name] = modules
            values = array.array("f", (rng.gauss(0, 1 + 9 * (i % size % 7 == 0))
                                       for i in range(tokens * size)))
            tensors[name] = ("F32", [tokens, size], values.tobytes())

        for i, block in enumerate(self.blocks):
            attention, base = block + "self_attn.", block + self.mixture
            add(f"qkv{i}", [f"{attention}{p}_proj" for p in "qkv"], HIDDEN)
            add(f"o{i}", [attention + "o_proj"], HIDDEN)
            if of_stacks:
                add(f"in{i}", [base + ".experts"], HIDDEN)
                add(f"down{i}", [base + ".experts.down_proj"], INNER)
                continue
            for e in range(self.count):
                expert = f"{base}.experts.{e}."
                add(f"in{i}.{e}", [expert + p for p in PARTS[:2]], HIDDEN)
                add(f"down{i}.{e}", [expert + PARTS[2]], INNER,
                    3 if e == self.count - 1 else TOKENS)
        write_safetensors(path, tensors, {"inputs": json.dumps(inputs)})
        return path


class StacksCase(programs.QuantctlCase):
    def make(self, family, *size):
        mixture = Mixture(family, *size)
        self.singles = mixture.write(self.work / "singles", mixture.experts)
        self.stacked = mixture.write(self.work / "stacked", mixture.stacks())
        self.calibration = mixture.write_calibration(
            self.work / "calibration.safetensors")
        return mixture

    def check_same(self, *flags):
        """Quantizes both; the output of the stacked one."""
        outs = []
        for source in (self.singles, self.stacked):
            outs.append(self.work / (source.name + "-out"))
            self.done = self.quantize_ok(source, outs[-1], "--overwrite",
                                         "--group-size", "32", *flags)
        singles, stacked = outs
        names = sorted(p.name for p in singles.iterdir())
        self.assertEqual(names, sorted(p.name for p in stacked.iterdir()))
        for name in names:
            if name.endswith(".safetensors"):
                self.assertEqual(read_safetensors(singles / name),
                                 read_safetensors(stacked / name), name)
            else:
                self.assertEqual((singles / name).read_bytes(),
                                 (stacked / name).read_bytes(), name)
        return stacked


class StacksTest(StacksCase):
    def test_every_method_and_family(self):
        calibration = ("--calibration", self.work / "calibration.safetensors")
        runs = (("--preset", "W4A16"), ("--preset", "W4A16-hqq"),
                ("--preset", "W4A16-gptq", *calibration),
                ("--preset", "W4A16-awq", *calibration))
        for family in FAMILIES:
            with self.subTest(family):
                self.make(family)
                for flags in runs:
                    out = self.check_same(*flags, "--target", "vllm")
                    packed = [name for name in read_checkpoint(out)
                              if name.endswith(".weight_packed")]
                    self.assertEqual(len(packed), 2 * (4 + 3 * EXPERTS))
                # Awq: single experts were scaled, or nothing was tested.
                self.assertIn(" of them scaled", self.done.stdout)
            for path in self.work.iterdir():
                programs.shutil.rmtree(path, ignore_errors=True)

    def test_gptq_files_and_report(self):
        self.make("qwen3_5_moe")
        report = self.work / "report.json"
        out = self.check_same("--preset", "W4A16-gptq", "--format", "gptq",
                              "--calibration", self.calibration, "--json",
                              report, "--target", "gptqmodel")
        self.assertTrue((out / "quantize_config.json").exists())
        self.assertIn("experts of layer 1: 3 to 40 tokens each",
                      self.done.stdout)
        plan = json.loads(report.read_text())["plan"]
        files = {f["path"]: f["action"] for f in plan["files"]}
        self.assertEqual(files["quantize_config.json"], "REWRITE")
        actions = [e["action"] for e in plan["entries"]]
        self.assertEqual(actions.count("SPLIT"), 4)
        self.assertEqual(actions.count("QUANTIZE"), 2 * (4 + 3 * EXPERTS))
        self.assertEqual(plan["summary"]["tensors"], len(actions) - 4)

    def test_formats_that_keep_the_stack(self):
        mixture = self.make("qwen3_5_moe")
        out = self.work / "out"
        done = self.quantize_ok(self.stacked, out, "--preset", "NF4",
                                "--target", "transformers")
        self.assertIn("warning EXPERT_STACK", done.stderr)
        tensors = read_checkpoint(out)
        for name, tensor in mixture.stacks().items():
            self.assertEqual(tensors[name], tensor)

    def test_plan(self):
        self.make("llama4")
        done = self.run_ok("plan", self.stacked, "--preset", "W4A16",
                           "--group-size", "32", "--server",
                           self.server.address)
        self.assertRegex(done.stdout, r"experts\.gate_up_proj +split +0 +0 ")
        self.assertRegex(done.stdout,
                         r"experts\.3\.up_proj\.weight +quantize +12288 ")
        self.assertIn("loads in: vLLM 0.33.0, transformers 5.23.0",
                      done.stdout)
        done = programs.quantctl(
            "plan", self.stacked, "--preset", "W4A16", "--group-size", "32",
            "--target", "vllm", "--exclude", "*experts.0.*", "--server",
            self.server.address)
        self.assertEqual(done.returncode, 3)
        self.assertIn("error GROUP_SPLIT", done.stdout)
        self.assertNotIn("loads in", done.stdout)


class ManyExpertsTest(StacksCase):
    """More experts than are solved in one group, through a job, too."""

    SIZE = 12, 1  # experts, layers

    @classmethod
    def setUpClass(cls):
        cls.shared = pathlib.Path(tempfile.mkdtemp(prefix="quantctl-e2e-"))
        cls.server = programs.Server(
            cls.shared, "--data-dir", cls.shared / "data", "--read-root",
            cls.shared, "--write-root", cls.shared, "--workers", "2")

    def setUp(self):
        self.work = pathlib.Path(tempfile.mkdtemp(dir=self.shared))

    def check_job(self, source, by_stream, *flags):
        """A job gives what the stream has given."""
        out = self.work / "job-out"
        shutil.rmtree(out, ignore_errors=True)
        self.run_ok("jobs", "create", source, "-o", out, "--group-size", "32",
                    "--wait", "--server", self.server.address, *flags)
        self.assertEqual(sorted(p.name for p in out.iterdir()),
                         sorted(p.name for p in by_stream.iterdir()))
        for path in out.iterdir():
            self.assertEqual(path.read_bytes(),
                             (by_stream / path.name).read_bytes(), path.name)

    def scaled(self, report):
        """Whose inputs were scaled, of the linears of experts."""
        tensors = json.loads(report.read_text())["tensors"]
        return {t["name"].rsplit(".", 2)[1] for t in tensors
                if ".experts." in t["name"] and
                t["solver"]["scale_min"] < t["solver"]["scale_max"]}

    def test_a_job_is_the_stream(self):
        self.make("qwen3_5_moe", *self.SIZE)
        report = self.work / "report.json"
        for preset in ("W4A16", "W4A16-gptq", "W4A16-awq"):
            with self.subTest(preset):
                flags = ["--preset", preset, "--target", "vllm"]
                if preset != "W4A16":
                    flags += ["--calibration", self.calibration]
                out = self.check_same(*flags, "--json", report)
                self.check_job(self.stacked, out, *flags)
                if preset == "W4A16-gptq":
                    # Not what all experts share.
                    self.assertEqual(self.scaled(report), {"down_proj"})
                if preset == "W4A16-awq":
                    self.assertIn("down_proj", self.scaled(report))

    def test_overrides(self):
        """Experts in one way, their layer's attention in another; by globs on
        the names of stacks' parts, which single experts have, too."""
        self.make("qwen3_5_moe", *self.SIZE)
        report = self.work / "report.json"
        for preset, rules in (
                ("W4A16-awq", ["*.experts.*=W4A16-gptq"]),
                ("W4A16-gptq", ["*.self_attn.[qkv]_proj.*=skip",
                                '*.experts.*={"awq": {"bits": 3, '
                                '"group_size": 32}}'])):
            with self.subTest(preset):
                flags = ["--preset", preset, "--calibration", self.calibration,
                         "--target", "vllm"]
                for rule in rules:
                    rule = rule.replace("W4A16-gptq", '{"gptq": {"group_size": '
                                        '32}}')
                    flags += ["--override", rule]
                out = self.check_same(*flags, "--json", report)
                self.check_job(self.stacked, out, *flags)
                self.assertIn("down_proj", self.scaled(report))
                methods = {t["algorithm"].split("-")[0]
                           for t in json.loads(report.read_text())["tensors"]
                           if ".experts." in t["name"]}
                self.assertEqual(methods, {"gptq" if preset == "W4A16-awq"
                                           else "awq"})

    def test_calibration_of_stacks(self):
        mixture = self.make("llama4", *self.SIZE)
        calibration = mixture.write_calibration(
            self.work / "stacks.safetensors", of_stacks=True)
        report = self.work / "report.json"
        for preset in ("W4A16-gptq", "W4A16-awq"):
            with self.subTest(preset):
                flags = ("--preset", preset, "--calibration", calibration)
                out = self.check_same(*flags, "--json", report)
                self.check_job(self.stacked, out, *flags)
                for tensor in json.loads(report.read_text())["tensors"]:
                    tokens = 0 if ".down_proj." in tensor["name"] else TOKENS
                    self.assertEqual(int(tensor["tokens"]), tokens)
                    self.assertLess(tensor["output_error"],
                                    tensor["rtn_output_error"])
        self.assertIn("0 tokens each", self.done.stdout)


if __name__ == "__main__":
    programs.main()
