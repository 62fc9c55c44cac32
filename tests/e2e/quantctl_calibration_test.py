#!/usr/bin/env python3
"""quantctl with a calibration against a real quantd: GPTQ, AWQ and HQQ.

    quantctl_calibration_test.py BIN_DIR [TEST...]

Packed weights are decoded here, by few lines of Python, and must have the error
that was reported.
"""
import array
import json
import math
import random
import re
import shutil
import struct

import programs
from checkpoints import (SEED, decode_w4, floats, make_small, random_bf16,
                         read_checkpoint, write_safetensors)

LAYER = "model.layers.1."
FEW = ("--include", LAYER + "*")


def unpack(words, bits, count):
    """Codes from the low end of little-endian 32-bit words."""
    mask, per = (1 << bits) - 1, 32 // bits
    return [(words[i // per] >> (bits * (i % per))) & mask
            for i in range(count)]


def decode_gptq(tensors, name, first_zero):
    """4-bit GPTQ: words run down the inputs; [inputs][outputs] -> rows."""
    base = name[:-len("weight")]
    _, (packed_rows, outputs), data = tensors[base + "qweight"]
    words = array.array("I", data)
    inputs = packed_rows * 8
    dtype, (groups, _), scale_data = tensors[base + "scales"]
    scales = floats(dtype, scale_data)
    zeros = unpack(array.array("I", tensors[base + "qzeros"][2]), 4,
                   groups * outputs)
    group_of = array.array("i", tensors[base + "g_idx"][2])
    out = []
    for row in range(outputs):
        for col in range(inputs):
            code = (words[(col >> 3) * outputs + row] >> (4 * (col & 7))) & 15
            at = group_of[col] * outputs + row
            out.append((code - zeros[at] - first_zero) * scales[at])
    return out


def decode_awq(tensors, name):
    """AWQ GEMM: words run along the outputs, in the order 0 2 4 6 1 3 5 7."""
    base = name[:-len("weight")]
    places = [0, 4, 1, 5, 2, 6, 3, 7]
    _, (inputs, packed), data = tensors[base + "qweight"]
    outputs = packed * 8
    words = array.array("I", data)
    zero_words = array.array("I", tensors[base + "qzeros"][2])
    dtype, (groups, _), scale_data = tensors[base + "scales"]
    scales = floats(dtype, scale_data)
    size = inputs // groups
    out = []
    for row in range(outputs):
        word, shift = row >> 3, 4 * places[row & 7]
        for col in range(inputs):
            group = col // size
            code = (words[col * packed + word] >> shift) & 15
            zero = (zero_words[group * packed + word] >> shift) & 15
            out.append((code - zero) * scales[group * outputs + row])
    return out


class CalibrationTest(programs.QuantctlCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.model, cls.calibration = make_small(cls.shared / "small",
                                                inner=384)
        cls.moments = ("--calibration", cls.calibration)
        cls.source = read_checkpoint(cls.model)

    def run_method(self, *flags):
        """The output's tensors and the report."""
        out, file = self.work / "out", self.work / "report.json"
        shutil.rmtree(out, ignore_errors=True)
        self.quantize_ok(self.model, out, *FEW, *self.moments, *flags,
                         "--json", file)
        return read_checkpoint(out), json.loads(file.read_text())

    def check_error(self, report, name, decoded):
        """The file's own error is the reported one. Not to be had from AWQ:
        its weights were scaled."""
        weights = floats(self.source[name][0], self.source[name][2])
        self.assertEqual(len(decoded), len(weights))
        error = sum((w - d) ** 2 for w, d in zip(weights, decoded))
        reported = {r["name"]: r for r in report["tensors"]}[name]["error"]
        self.assertAlmostEqual(
            error / len(weights) / reported["mean_squared_error"], 1,
            delta=5e-3, msg=name)

    def check_rest(self, packed, report, changed=()):
        """What is not quantized is there byte for byte, or listed."""
        self.assertEqual({t["name"] for t in report["folded"]}, set(changed))
        outputs = {o for t in report["tensors"] for o in t["output_tensors"]}
        for name, source in self.source.items():
            if name in changed:
                self.assertEqual(packed[name][:2], source[:2], name)
                self.assertNotEqual(packed[name][2], source[2], name)
            elif name not in {t["name"] for t in report["tensors"]}:
                self.assertEqual(packed[name], source, name)
            else:
                self.assertEqual(
                    sum(len(packed[o][2]) for o in outputs
                        if o.startswith(name[:-len("weight")])),
                    {t["name"]: t for t in report["tensors"]}[name]
                    ["bytes_out"])

    def check_reports(self, report, better=True):
        self.assertEqual(len(report["tensors"]), 7)
        for tensor in report["tensors"]:
            self.assertEqual(tensor["tokens"], 120)
            self.assertGreater(tensor["output_error"], 0)
            if better:
                self.assertLessEqual(tensor["output_error"],
                                     tensor["rtn_output_error"] * 1.0001,
                                     tensor["name"])
        summary = report["summary"]
        self.assertEqual(summary["with_output_error"], 7)
        mean = sum(t["output_error"] for t in report["tensors"]) / 7
        self.assertAlmostEqual(summary["output_error"] / mean, 1)
        self.check_sums(report)

    def check_sums(self, report):
        """Time, cosine and worst groups of all are those of the tensors."""
        summary, tensors = report["summary"], report["tensors"]
        for tensor in tensors:
            self.assertAlmostEqual(
                sum(tensor["phases"].values()) / tensor["quantize_seconds"], 1)
        for phase, seconds in summary["phases"].items():
            self.assertAlmostEqual(
                seconds, sum(t["phases"][phase] for t in tensors), msg=phase)
        for phase in ("prepare", "encode", "pack", "verify", "report"):
            self.assertGreater(summary["phases"][phase], 0, phase)
        errors = [t["error"] for t in tensors]
        weights, decoded, dot = (sum(e[key] for e in errors) for key in
                                 ("weight_squared", "decoded_squared",
                                  "dot_product"))
        self.assertAlmostEqual(summary["error"]["cosine_similarity"],
                               dot / (weights * decoded) ** 0.5)
        worst = max((g["mean_squared_error"], t["name"], g["group"])
                    for t in tensors for g in t["worst_groups"])
        first = summary["worst_groups"][0]
        self.assertEqual((first["mean_squared_error"], first["tensor"],
                          first["group"]), worst)
        self.assertEqual(summary["memory_bytes"],
                         max(t["memory_bytes"] for t in tensors))

    def test_gptq_compressed_tensors(self):
        packed, report = self.run_method("--preset", "W4A16-gptq",
                                         "--no-awq-scaling",
                                         "--target", "vllm")
        self.check_reports(report)
        self.check_rest(packed, report)
        for part in ("self_attn.q_proj", "mlp.down_proj"):
            name = LAYER + part + ".weight"
            self.check_error(report, name, decode_w4(packed, name))
        solver = report["tensors"][0]["solver"]
        self.assertGreater(solver["damping"], 0)
        self.assertGreater(solver["codes_changed"], 0)
        self.assertEqual(report["calibration"], str(self.calibration))
        self.assertFalse((self.work / "out" / "quantize_config.json").exists())

    def test_gptq_formats(self):
        for form, first_zero in (("gptq", 1), ("gptq-v2", 0)):
            packed, report = self.run_method(
                "--method", "gptq", "--group-size", "64", "--format", form,
                "--order", "as-stored", "--no-awq-scaling")
            self.check_reports(report)
            name = LAYER + "mlp.up_proj.weight"
            self.check_error(report, name,
                             decode_gptq(packed, name, first_zero))
            beside = json.loads(
                (self.work / "out" / "quantize_config.json").read_text())
            config = json.loads((self.work / "out" / "config.json").read_text())
            self.assertEqual(beside, config["quantization_config"])
            self.assertEqual(beside["quant_method"], "gptq")

    def test_act_order_is_refused_for_vllm(self):
        self.assert_failed(
            self.quantize(self.model, self.work / "out", "--method", "gptq",
                          "--order", "act-order", "--format", "gptq",
                          "--target", "vllm", *self.moments), 3,
            "refused by the plan")
        self.assert_names()

    def test_scaled(self):
        for preset in ("W4A16-awq", "W4A16-gptq"):
            packed, report = self.run_method("--preset", preset)
            self.check_reports(report)
            self.assertTrue(report["folded"])
            for tensor in report["folded"]:
                self.assertTrue(tensor["name"].endswith("norm.weight"))
            self.check_rest(packed, report,
                            {t["name"] for t in report["folded"]})
            scaled = [t["solver"] for t in report["tensors"]
                      if t["solver"]["scale_max"] > t["solver"]["scale_min"]]
            self.assertTrue(scaled)

    def test_awq_gemm(self):
        packed, report = self.run_method("--method", "awq", "--format", "awq",
                                         "--group-size", "64")
        self.check_reports(report)
        config = json.loads((self.work / "out" / "config.json").read_text())
        self.assertEqual(config["quantization_config"]["quant_method"], "awq")
        # The scales of o's input are v's rows; nothing scales q's rows, so its
        # columns give back the weights once the norm's scales are taken off.
        name = LAYER + "self_attn.q_proj.weight"
        norm = LAYER + "input_layernorm.weight"
        before = floats(self.source[norm][0], self.source[norm][2])
        after = floats(packed[norm][0], packed[norm][2])
        ratio = [a / b if b else 1 for a, b in zip(after, before)]
        decoded = decode_awq(packed, name)
        cols = len(ratio)
        undone = [d * ratio[i % cols] for i, d in enumerate(decoded)]
        weights = floats(self.source[name][0], self.source[name][2])
        error = sum((w - d) ** 2 for w, d in zip(weights, undone))
        self.assertLess(error / sum(w * w for w in weights), 0.15 ** 2)

    def test_hqq(self):
        packed, report = self.run_method("--preset", "W4A16-hqq")
        self.check_reports(report, better=False)
        self.check_rest(packed, report)
        self.assertGreater(report["tensors"][0]["solver"]["iterations"], 0)
        packed, report = self.run_method("--preset", "HQQ-3")
        self.check_reports(report, better=False)
        self.assertEqual(report["plan"]["summary"]["resolved"]["format"],
                         "HQQ_STATE_DICT")

    def test_hqq_without_calibration(self):
        out, file = self.work / "out", self.work / "report.json"
        done = self.quantize_ok(self.model, out, *FEW, "--preset", "HQQ-2",
                                "--json", file)
        self.assertNotIn("output error", done.stdout)
        report = json.loads(file.read_text())
        self.assertEqual(report["summary"]["with_output_error"], 0)

    def test_output_error_of_methods_that_need_no_calibration(self):
        for preset in ("W4A16", "NF4"):
            packed, report = self.run_method("--preset", preset)
            self.check_reports(report, better=False)
            self.quantize_ok(self.model, self.work / preset, *FEW, "--preset",
                             preset)
            self.assertEqual(packed, read_checkpoint(self.work / preset))

    def test_streams_do_not_change_bytes(self):
        for preset in ("W4A16-gptq", "W4A16-awq"):
            for streams in ("1", "4"):
                self.quantize_ok(self.model, self.work / streams, "--preset",
                                 preset, *self.moments, "--streams", streams,
                                 "--include", "*.self_attn.*", "--overwrite")
            self.assertEqual(read_checkpoint(self.work / "1"),
                             read_checkpoint(self.work / "4"))

    def test_config_file(self):
        file = self.work / "c.json"
        file.write_text(json.dumps({"gptq": {
            "bits": 3, "group_size": 64, "order": "GROUP_AWARE",
            "sweeps": 0, "scale_refit": False}, "profile": "REFERENCE"}))
        _, report = self.run_method("--config", file, "--group-size", "32")
        gptq = report["plan"]["summary"]["resolved"]["gptq"]
        self.assertEqual((gptq["bits"], gptq["group_size"], gptq["sweeps"]),
                         (3, 32, 0))
        self.assertEqual(gptq["order"], "GROUP_AWARE")
        file.write_text('{"gptq": {"bit": 3}}')
        self.assert_failed(
            self.quantize(self.model, self.work / "no", "--config", file,
                          *self.moments), 2, "c.json", '"bit"')
        self.assert_failed(
            self.quantize(self.model, self.work / "no", "--config",
                          self.work / "none.json"), 2, "none.json")

    def test_skip(self):
        _, report = self.run_method("--method", "gptq", "--skip-error-report",
                                    "--skip-digest")
        self.assertNotIn("error", report["tensors"][0])

    def make_mixture(self):
        """Four experts in one layer, and moments of which the last expert has
        none and the third few."""
        rng = random.Random(SEED)
        hidden, inner = 64, 96
        shapes = {"model.embed_tokens.weight": [64, hidden],
                  "model.norm.weight": [hidden],
                  "lm_head.weight": [64, hidden]}
        block = "model.layers.0."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{block}{norm}.weight"] = [hidden]
        for part in "qkvo":
            shapes[f"{block}self_attn.{part}_proj.weight"] = [hidden, hidden]
        mixture = block + "block_sparse_moe."
        shapes[mixture + "gate.weight"] = [4, hidden]
        moments, inputs = {}, {}

        def add_site(name, modules, n, tokens):
            inputs[name] = modules
            diagonal = array.array("f", bytes(4 * n * n))
            # Few inputs are active, so that it pays to scale them.
            sizes = [30 if i % 9 == 0 else 1 for i in range(n)]
            for i in range(n):
                diagonal[i * n + i] = tokens * sizes[i] ** 2
            moments[name + ".second_moment"] = ("F32", [n, n],
                                                diagonal.tobytes())
            moments[name + ".abs_sum"] = (
                "F32", [n], array.array("f", [0.8 * tokens * size
                                              for size in sizes]).tobytes())
            moments[name + ".token_count"] = ("I64", [1],
                                              struct.pack("<q", tokens))

        add_site("qkv", [f"{block}self_attn.{p}_proj" for p in "qkv"], hidden,
                 1000)
        add_site("o", [block + "self_attn.o_proj"], hidden, 1000)
        for expert, tokens in enumerate((600, 390, 10, 0)):
            base = f"{mixture}experts.{expert}."
            shapes[base + "w1.weight"] = shapes[base + "w3.weight"] = [inner,
                                                                       hidden]
            shapes[base + "w2.weight"] = [hidden, inner]
            add_site(f"in{expert}", [base + "w1", base + "w3"], hidden, tokens)
            add_site(f"down{expert}", [base + "w2"], inner, tokens)
        source = self.work / "mixture"
        source.mkdir()
        tensors = {}
        for name, shape in shapes.items():
            data = bytearray(random_bf16(math.prod(shape), rng))
            # Weights of active inputs are small, a sixteenth.
            for i in range(0, shape[-1], 9) if len(shape) == 2 else ():
                column = data[2 * i + 1::2 * shape[-1]]
                data[2 * i + 1::2 * shape[-1]] = bytes(b - 2 for b in column)
            tensors[name] = ("BF16", shape, bytes(data))
        write_safetensors(source / "model.safetensors", tensors,
                          {"format": "pt"})
        (source / "config.json").write_text(json.dumps({
            "architectures": ["MixtralForCausalLM"], "model_type": "mixtral",
            "hidden_size": hidden, "intermediate_size": inner,
            "num_attention_heads": 2, "num_key_value_heads": 2,
            "num_hidden_layers": 1, "num_local_experts": 4,
            "vocab_size": 64, "tie_word_embeddings": False}))
        path = self.work / "mixture.safetensors"
        write_safetensors(path, moments, {"inputs": json.dumps(inputs)})
        return source, path

    def test_mixture_of_experts(self):
        source, path = self.make_mixture()
        weights = read_checkpoint(source)
        file, out = self.work / "report.json", self.work / "out"
        for method, scales in (("gptq --no-awq-scaling", False),
                               ("gptq", True), ("awq", True)):
            done = self.quantize_ok(source, out, "--method", *method.split(),
                                    "--group-size", "32", "--calibration",
                                    path, "--json", file, "--overwrite")
            self.assertIn("experts of layer 0: 0 to 600 tokens each",
                          done.stdout)
            report = json.loads(file.read_text())
            tokens = {t["name"]: t["tokens"] for t in report["tensors"]}
            for expert, own in enumerate((600, 390, 10, 0)):
                base = f"model.layers.0.block_sparse_moe.experts.{expert}."
                self.assertEqual(tokens[base + "w2.weight"], own)
                self.assertEqual(tokens[base + "w1.weight"], 1000)
            self.assertEqual(len(report["tensors"]), 16)
            packed = read_checkpoint(out)
            router = "model.layers.0.block_sparse_moe.gate.weight"
            changed = {t["name"] for t in report["folded"]}
            self.assertEqual(router in changed, scales)
            self.assertEqual(packed[router] != weights[router], scales)

    def test_compare(self):
        page, file = self.work / "page.html", self.work / "compare.json"
        server = ("--server", self.server.address)
        done = self.run_ok("compare", self.model, *FEW, *self.moments,
                           "--html", page, "--json", file, *server)
        report = json.loads(file.read_text())
        self.assertEqual(report["schema"], "quantd.compare/1")
        methods = {m["name"]: m for m in report["methods"]}
        self.assertEqual(list(methods), ["rtn", "nf4", "hqq", "gptq", "awq"])
        for name, method in methods.items():
            self.assertEqual(method["refused"], "", name)
            self.assertEqual(method["summary"]["tensors"], 7)
            self.assertEqual(method["summary"]["with_output_error"], 7)
            self.assertGreater(method["weights_per_second"], 0)
            self.assertGreater(method["summary"]["memory_bytes"], 1 << 20)
            self.assertEqual(method["summary"]["phases"]["search"] > 0,
                             name in ("gptq", "awq"), name)
            self.assertIn(name, done.stdout)
        self.assertLess(methods["gptq"]["summary"]["output_error"],
                        methods["rtn"]["summary"]["output_error"])
        self.assertIn("memory", done.stdout)
        text = page.read_text()
        self.assertEqual(text.count("<svg"), 6)
        self.assertNotIn("<script", text)
        self.assert_names("page.html", "compare.json")
        # Five bits: some methods have them and others say why not.
        done = self.run_ok("compare", self.model, *FEW, *self.moments,
                           "--bits", "5", *server)
        self.assertIn("gptq did not run: ", done.stdout)
        self.assertIn("rtn ", done.stdout)
        # Without a calibration the other three.
        done = self.run_ok("compare", self.model, *FEW, *server)
        self.assertNotIn("gptq", done.stdout)

    def test_calibrated_report_page(self):
        self.run_method("--preset", "W4A16-awq")
        file, page = self.work / "report.json", self.work / "report.html"
        self.run_ok("report", file, "--html", page)
        text = page.read_text()
        for part in ("Output error by layer", "Bits against error",
                     "tokens", "exponent", "Worker time by phase",
                     "Worst groups", "search s", "cosine", "of the server"):
            self.assertIn(part, text)
        shown = self.run_ok("report", file).stdout
        for line in (r"figures: +MSE \S+, .*, cosine 0\.9\d+$",
                     r"worker time: .*search \d+%",
                     r"memory: +at most \S+ MB",
                     r"made by: +awq-best/\d+ on ",
                     r"solver: .*exponent",
                     r"carried: +\S+ \S+ in \d+ tensors?: ",
                     r"worst group: MSE \S+ in model\.layers\S+, group \d+$"):
            self.assertRegex(shown, re.compile(line, re.M))
        self.assertEqual(text.count("<svg"), text.count("</svg>"))


if __name__ == "__main__":
    programs.main()
