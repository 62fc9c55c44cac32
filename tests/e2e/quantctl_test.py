#!/usr/bin/env python3
"""quantctl against a real quantd: what users type and what they get.

    quantctl_test.py BIN_DIR [TEST...]

Output files are read by checkpoints.py, not by the code under test, and packed
weights are decoded again and compared with the error that was reported.
"""
import fcntl
import html.parser
import json
import os
import pty
import random
import re
import shlex
import shutil
import struct
import subprocess
import termios

import programs
from checkpoints import (INDEX, MODEL, ROOT, SEED, decode_nf4, decode_w4,
                         floats, make_big, make_small, random_bf16,
                         read_checkpoint, read_safetensors, round_bf16,
                         write_safetensors)
from programs import BIN, quantctl


class PageParser(html.parser.HTMLParser):
    VOID = {"meta", "br", "link", "img"}

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.problems = [], {}, []

    def handle_starttag(self, tag, attrs):
        self.seen[tag] = self.seen.get(tag, 0) + 1
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen[tag] = self.seen.get(tag, 0) + 1

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.problems.append(tag)


class QuantctlTest(programs.QuantctlCase):
    def check_index(self, directory):
        index = json.loads((directory / INDEX).read_text())
        actual, size = {}, 0
        for shard in directory.glob("*.safetensors"):
            for name, (_, _, data) in read_safetensors(shard)[0].items():
                actual[name] = shard.name
                size += len(data)
        self.assertEqual(index["weight_map"], actual)
        self.assertEqual(index["metadata"]["total_size"], size)

    def check_side_files(self, source, out, plan):
        for item in plan["files"]:
            if item["action"] == "COPY":
                self.assertEqual((source / item["path"]).read_bytes(),
                                 (out / item["path"]).read_bytes(),
                                 item["path"])
            if item["action"] == "SKIP":
                self.assertFalse((out / item["path"]).exists())
                self.assertTrue(item["reason"], item)
        planned = {item["path"] for item in plan["files"]}
        found = {str(p.relative_to(source)) for p in source.rglob("*")
                 if p.is_file()}
        self.assertEqual(planned, found)

    def check_config(self, source, out, method):
        before = json.loads((source / "config.json").read_text())
        after = json.loads((out / "config.json").read_text())
        added = after.pop("quantization_config")
        self.assertEqual(before, after)
        self.assertEqual(added["quant_method"], method)
        return added

    def check_tensors(self, out, report, decode, most_error):
        """Every input tensor is there: packed, carried or tied."""
        packed = read_checkpoint(out)
        reports = {r["name"]: r for r in report["tensors"]}
        expected = set()
        for entry in report["plan"]["entries"]:
            name = entry["name"]
            if entry["action"] == "CARRY":
                self.assertEqual(packed[name], self.source[name], name)
                self.assertTrue(entry["reason"], name)
                expected.add(name)
            elif entry["action"] == "QUANTIZE":
                outputs = reports[name]["output_tensors"]
                self.assertTrue(outputs, name)
                self.assertEqual(
                    sum(len(packed[o][2]) for o in outputs),
                    reports[name]["bytes_out"])
                expected.update(outputs)
            else:
                self.assertEqual(entry["action"], "TIED")
                self.assertNotIn(name, packed)
        self.assertEqual(set(packed), expected)
        self.assertEqual([e["name"] for e in report["plan"]["entries"]],
                         list(self.source))
        self.check_errors(packed, reports, decode, most_error)

    def check_errors(self, packed, reports, decode, most_error):
        """The file's own error is the one that was reported."""
        self.assertGreater(len(reports), 20)
        for name in sorted(reports)[:6]:
            dtype, shape, data = self.source[name]
            weights = floats(dtype, data)
            decoded = [round_bf16(v) for v in decode(packed, name)]
            self.assertEqual(len(decoded), shape[0] * shape[1])
            error = sum((w - d) ** 2 for w, d in zip(weights, decoded))
            energy = sum(w * w for w in weights)
            self.assertLess(error / energy, most_error ** 2, name)
            stats = reports[name]["error"]
            self.assertAlmostEqual(
                error / len(weights) / stats["mean_squared_error"], 1,
                delta=1e-3, msg=name)

    def test_nf4_directory(self):
        out, file = self.work / "out", self.work / "report.json"
        done = self.quantize_ok(MODEL, out, "--preset", "NF4", "--target",
                                "transformers", "--json", file)
        report = json.loads(file.read_text())
        self.assertIn("total:", done.stdout)
        # No terminal: plain lines, no cursor movement.
        self.assertTrue(done.stderr.startswith(
            f"quantizing {len(report['tensors'])} of {len(self.source)} "))
        self.assertNotIn("\x1b", done.stderr)
        self.assertNotIn("\r", done.stderr)
        self.assertIn("model.layers.0.mlp.down_proj.weight", done.stdout)
        self.assert_names("out", "report.json")
        self.check_tensors(out, report, decode_nf4, 0.12)
        config = self.check_config(MODEL, out, "bitsandbytes")
        self.assertTrue(config["load_in_4bit"])
        self.assertEqual(config["bnb_4bit_quant_type"], "nf4")
        self.check_index(out)
        self.check_side_files(MODEL, out, report["plan"])
        self.assertEqual(report["schema"], "quantd.report/1")
        self.assertEqual(report["output"]["data_bytes"], json.loads(
            (out / INDEX).read_text())["metadata"]["total_size"])
        self.assertEqual(report["summary"]["tensors"], len(report["tensors"]))

    def test_w4a16_directory(self):
        out, file = self.work / "out", self.work / "report.json"
        self.quantize_ok(MODEL, out, "--preset", "W4A16", "--target", "vllm",
                         "--json", file, "--streams", "4")
        report = json.loads(file.read_text())
        self.check_tensors(out, report, decode_w4, 0.2)
        config = self.check_config(MODEL, out, "compressed-tensors")
        self.assertEqual(config["format"], "pack-quantized")
        self.check_index(out)
        self.check_side_files(MODEL, out, report["plan"])

    def test_streams_do_not_change_bytes(self):
        for streams in ("1", "3"):
            self.quantize_ok(MODEL, self.work / streams, "--preset", "NF4-dq",
                             "--streams", streams)
        for shard in MODEL.glob("*.safetensors"):
            self.assertEqual((self.work / "1" / shard.name).read_bytes(),
                             (self.work / "3" / shard.name).read_bytes())

    def test_method_flags(self):
        out, file = self.work / "out", self.work / "report.json"
        self.quantize_ok(MODEL, out, "--method", "rtn", "--bits", "8",
                         "--group-size", "64", "--asymmetric",
                         "--profile", "reference", "--include",
                         "*.mlp.*", "--exclude", "*.layers.3.*", "--json",
                         file)
        report = json.loads(file.read_text())
        names = {r["name"] for r in report["tensors"]}
        self.assertEqual(names, {n for n in self.source if ".mlp." in n and
                                 ".layers.3." not in n})
        resolved = report["plan"]["summary"]["resolved"]
        self.assertEqual(resolved["rtn"], {"bits": 8, "group_size": 64,
                                           "symmetric": False})
        self.assertEqual(resolved["profile"], "REFERENCE")

    def test_flags_reach_the_output(self):
        """Blocks, double quantization, targets and ranks, in what is written."""
        name = "model.layers.0.mlp.down_proj.weight"
        out = self.work / "nf4"
        self.quantize_ok(MODEL, out, "--method", "nf4", "--blocksize", "256",
                         "--double-quant", "--target", "bitsandbytes",
                         "--include", "*.layers.0.mlp.*")
        packed = read_checkpoint(out)
        state = json.loads(
            packed[name + ".quant_state.bitsandbytes__nf4"][2])
        self.assertEqual((state["blocksize"], state["nested_blocksize"]),
                         (256, 256))
        rows, cols = self.source[name][1]
        self.assertEqual(packed[name + ".absmax"][:2],
                         ("U8", [-(-rows * cols // 256)]))
        config = self.check_config(MODEL, out, "bitsandbytes")
        self.assertTrue(config["bnb_4bit_use_double_quant"])

        out, file = self.work / "rtn", self.work / "report.json"
        self.quantize_ok(MODEL, out, "--method", "rtn", "--group-size", "32",
                         "--symmetric", "--target", "vllm",
                         "--tensor-parallel", "2", "--json", file)
        config = self.check_config(MODEL, out, "compressed-tensors")
        weights = config["config_groups"]["group_0"]["weights"]
        self.assertEqual((weights["symmetric"], weights["group_size"]),
                         (True, 32))
        self.assertNotIn(name.replace("weight", "weight_zero_point"),
                         read_checkpoint(out))
        report = json.loads(file.read_text())
        self.assertFalse(report["plan"]["summary"].get("refused", False))
        # More ranks than the model has groups in a row: nothing is written.
        refused = self.quantize(MODEL, self.work / "no", "--method", "rtn",
                                "--group-size", "128", "--target", "vllm",
                                "--tensor-parallel", "16")
        self.assertEqual(refused.returncode, 3, refused.stdout + refused.stderr)
        self.assertFalse((self.work / "no").exists())

    def test_presets(self):
        """Every preset that the server lists, and one that is changed."""
        server = ("--server", self.server.address)
        presets = json.loads(self.run_ok("capabilities", "--json", *server)
                             .stdout)["presets"]
        self.assertLessEqual({"NF4", "NF4-dq", "FP4", "W4A16", "W8A16",
                              "W4A16-gptq", "W4A16-awq", "W4A16-hqq", "HQQ-2"},
                             {p["name"] for p in presets})
        file = self.work / "report.json"
        small, calibration = make_small(self.work / "small", layers=1)
        for preset in presets:
            calibrated = preset["config"].keys() & {"gptq", "awq"}
            self.quantize_ok(small if calibrated else MODEL,
                             self.work / preset["name"], "--preset",
                             preset["name"], "--json", file,
                             *(("--calibration", calibration) if calibrated
                               else ()))
            report = json.loads(file.read_text())
            self.assertEqual(report["plan"]["summary"]["resolved"],
                             preset["config"])
        self.quantize_ok(MODEL, self.work / "changed", "--preset", "W4A16",
                         "--method", "rtn", "--group-size", "32", "--profile",
                         "reference", "--json", file)
        resolved = json.loads(file.read_text())["plan"]["summary"]["resolved"]
        self.assertEqual(resolved["rtn"], {"bits": 4, "group_size": 32,
                                           "symmetric": True})
        self.assertEqual(resolved["profile"], "REFERENCE")
        for flags in (("--method", "nf4"), ("--blocksize", "64")):
            self.assert_failed(
                self.quantize(MODEL, self.work / "no", "--preset", "W4A16",
                              *flags), 2, flags[0])
        self.assertFalse((self.work / "no").exists())

    def make_crowded(self):
        """A checkpoint with a bit of everything beside its weights."""
        source = self.work / "in"
        shutil.copytree(MODEL, source)
        (source / "original" / "deep").mkdir(parents=True)
        (source / "original" / "params.json").write_text("{}")
        (source / "original" / "deep" / "notes.txt").write_text("kept")
        (source / "README.md").write_bytes(b"\x00\xff any bytes")
        (source / ".gitattributes").write_text("* text")
        (source / "chat_template.jinja").write_text("{{ x }}")
        (source / "empty.txt").write_text("")
        (source / "a name with spaces & umlaut \u00e4.txt").write_text("kept")
        (source / "pytorch_model.bin").write_bytes(b"\x80\x04.")
        (source / "training_args.pt").write_bytes(b"\x80\x04.")
        write_safetensors(source / "adapter.safetensors",
                          {"x": ("F32", [1], bytes(4))})
        (source / "link.txt").symlink_to("README.md")
        (source / "nowhere").symlink_to("absent")
        (source / "around").symlink_to(".")
        os.mkfifo(source / "pipe")
        (source / "1/2/3/4/5").mkdir(parents=True)
        (source / "1/2/3/4/kept.txt").write_text("deep")
        (source / "1/2/3/4/5/lost.txt").write_text("deeper")
        return source

    def test_every_tensor_and_file_is_accounted_for(self):
        source, out = self.make_crowded(), self.work / "out"
        file = self.work / "report.json"
        self.quantize_ok(source, out, "--preset", "NF4", "--json", file)
        report = json.loads(file.read_text())
        self.check_tensors(out, report, decode_nf4, 0.12)
        plan = {f["path"]: f for f in report["plan"]["files"]}
        skipped = {path for path, f in plan.items() if f["action"] == "SKIP"}
        self.assertEqual(skipped, {
            "pytorch_model.bin", "training_args.pt", "adapter.safetensors",
            "nowhere", "around", "pipe", "1/2/3/4/5"})
        for path in skipped:
            self.assertTrue(plan[path]["reason"], path)
        # Whatever is in the input is in the plan, itself or a folder above.
        for path in source.rglob("*"):
            name = path.relative_to(source)
            if path.is_dir() and not path.is_symlink():
                continue
            above = {str(name), *map(str, name.parents)}
            self.assertTrue(above & plan.keys(), name)
        # The output holds what the plan says and nothing else.
        made = {str(p.relative_to(out)) for p in out.rglob("*")
                if not p.is_dir()}
        self.assertEqual(made, set(plan) - skipped)
        for path, item in plan.items():
            if item["action"] == "COPY":
                self.assertEqual((source / path).read_bytes(),
                                 (out / path).read_bytes(), path)
                self.assertFalse((out / path).is_symlink(), path)
        table = self.run_ok("plan", source, "--preset", "NF4", "--server",
                            self.server.address).stdout
        for path in plan:
            self.assertIn(path, table)

    def test_tied_tensors_are_stored_once(self):
        source, out = self.work / "in", self.work / "out"
        source.mkdir()
        config = json.loads((MODEL / "config.json").read_text())
        config["tie_word_embeddings"] = True
        (source / "config.json").write_text(json.dumps(config))
        tensors = {n: t for n, t in self.source.items()
                   if n != "lm_head.weight"}
        embedding = tensors["model.embed_tokens.weight"]
        tensors["lm_head.weight"] = embedding
        write_safetensors(source / "model.safetensors", tensors,
                          {"format": "pt"})
        file = self.work / "report.json"
        self.quantize_ok(source, out, "--preset", "NF4", "--json", file)
        entries = {e["name"]: e for e in
                   json.loads(file.read_text())["plan"]["entries"]}
        self.assertEqual(entries["lm_head.weight"]["action"], "TIED")
        self.assertEqual(entries["lm_head.weight"]["tied_to"],
                         "model.embed_tokens.weight")
        packed = read_checkpoint(out)
        self.assertNotIn("lm_head.weight", packed)
        self.assertEqual(packed["model.embed_tokens.weight"], embedding)

    def test_links(self):
        """As in a download cache: files are links, and so is the directory."""
        blobs, links = self.work / "blobs", self.work / "links"
        shutil.copytree(MODEL, blobs)
        links.mkdir()
        for path in blobs.iterdir():
            (links / path.name).symlink_to(f"../blobs/{path.name}")
        (self.work / "in").symlink_to("links")
        (self.work / "real").mkdir()
        (self.work / "outlink").symlink_to("real")
        self.quantize_ok(self.work / "in", self.work / "outlink" / "out",
                         "--preset", "NF4")
        self.quantize_ok(MODEL, self.work / "plain", "--preset", "NF4")
        out = self.work / "real" / "out"
        names = {p.name for p in out.iterdir()}
        self.assertEqual(names, {p.name for p in MODEL.iterdir()})
        for name in names:
            self.assertFalse((out / name).is_symlink())
            self.assertEqual((out / name).read_bytes(),
                             (self.work / "plain" / name).read_bytes(), name)

    def test_progress_bar_on_a_terminal(self):
        make_big(self.work / "in", 128)
        columns = 60
        leader, follower = pty.openpty()
        fcntl.ioctl(follower, termios.TIOCSWINSZ,
                    struct.pack("HHHH", 24, columns, 0, 0))
        client = subprocess.Popen(
            [BIN / "quantctl", "quantize", self.work / "in", "-o",
             self.work / "out", "--preset", "NF4", "--server",
             self.server.address], stdout=subprocess.DEVNULL, stderr=follower)
        os.close(follower)
        screen = b""
        try:
            while True:
                piece = os.read(leader, 4096)
                if not piece:
                    break
                screen += piece
        except OSError:
            pass  # the client closed its end
        os.close(leader)
        self.assertEqual(client.wait(timeout=60), 0, screen)
        bars = [b for b in screen.split(b"\r") if b.endswith(b"\x1b[K")]
        self.assertTrue(any(b"tensors" in b for b in bars), screen)
        for bar in bars:
            self.assertLess(len(bar) - len(b"\x1b[K"), columns, bar)
        self.assertEqual(bars[-1], b"\x1b[K", "the bar was not taken away")

    def test_single_file(self):
        source, out = self.work / "w.safetensors", self.work / "q.safetensors"
        rng = random.Random(SEED)
        tensors = {"b": ("F32", [3], struct.pack("<3f", 1, 2, 3)),
                   "a.weight": ("BF16", [256, 128],
                                random_bf16(256 * 128, rng))}
        write_safetensors(source, tensors, {"note": "kept"})
        done = self.quantize_ok(source, out, "--preset", "NF4")
        self.assert_names("w.safetensors", "q.safetensors")
        packed, metadata = read_safetensors(out)
        self.assertEqual(packed["b"], tensors["b"])
        self.assertEqual(packed["a.weight"][1], [256 * 128 // 2, 1])
        self.assertEqual(metadata["note"], "kept")
        self.assertEqual(metadata["format"], "pt")
        self.assertIn("quant_method", metadata["quantization_config"])
        self.assertIn("wrote", done.stdout)
        self.assert_failed(self.quantize(source, self.work / "dir",
                                         "--preset", "NF4"), 2, "--output")

    def test_resharded_input_gives_the_same_tensors(self):
        source = self.work / "in"
        (source / "extra").mkdir(parents=True)
        for name in ("config.json", "tokenizer.json"):
            shutil.copy(MODEL / name, source / name)
        (source / "extra" / "notes.txt").write_text("kept")
        names = list(self.source)
        weight_map = {}
        for i, part in enumerate((names[::3], names[1::3], names[2::3])):
            shard = f"model-{i + 1:05}-of-00003.safetensors"
            write_safetensors(source / shard,
                              {n: self.source[n] for n in part},
                              {"format": "pt"})
            weight_map.update(dict.fromkeys(part, shard))
        (source / INDEX).write_text(json.dumps(
            {"metadata": {"total_size": 1}, "weight_map": weight_map}))
        out, file = self.work / "out", self.work / "report.json"
        self.quantize_ok(source, out, "--preset", "W4A16", "--json", file)
        self.quantize_ok(MODEL, self.work / "two", "--preset", "W4A16")
        self.assertEqual(read_checkpoint(out),
                         read_checkpoint(self.work / "two"))
        self.check_index(out)
        self.assertEqual(sorted(p.name for p in out.glob("*.safetensors")),
                         sorted(set(weight_map.values())))
        self.check_side_files(source, out,
                              json.loads(file.read_text())["plan"])

    def test_report_page(self):
        file, page = self.work / "report.json", self.work / "report.html"
        done = self.quantize_ok(MODEL, self.work / "out", "--preset", "NF4",
                                "--json", file)
        shown = self.run_ok("report", file, "--html", page)
        for line in shown.stdout.splitlines():
            self.assertIn(line, done.stdout)
        parser = PageParser()
        parser.feed(page.read_text())
        parser.close()
        self.assertEqual(parser.problems, [])
        self.assertEqual(parser.open, [])
        self.assertEqual(parser.seen["svg"], 5)
        self.assertNotIn("script", parser.seen)
        tensors = len(json.loads(file.read_text())["tensors"])
        self.assertGreaterEqual(parser.seen["circle"], 2 * tensors)
        broken = self.work / "broken.json"
        broken.write_text(file.read_text()[:-20])
        self.assert_failed(quantctl("report", broken), 5, "report")
        self.assert_failed(quantctl("report", self.work / "no"), 5)
        self.assert_failed(quantctl("report", file, "--html",
                                    self.work / "no" / "x.html"), 6)

    def test_names_that_no_message_holds(self):
        """config.json names all that is left alone, however much that is."""
        source = self.work / "in"
        source.mkdir()
        (source / "config.json").write_text('{"model_type": "other"}')
        modules = [f"model.layers.{i}.mlp.{'n' * 470}" for i in range(9000)]
        write_safetensors(source / "model.safetensors", {
            f"{module}.weight": ("BF16", [16, 128], bytes(2 * 16 * 128))
            for module in modules})
        flags = ("--preset", "W4A16", "--include", "model.layers.0.*")
        self.run_ok("plan", source, *flags, "--server", self.server.address)
        out, report = self.work / "out", self.work / "report.json"
        self.quantize_ok(source, out, *flags, "--json", report)
        config = json.loads((out / "config.json").read_text())
        ignored = config["quantization_config"]["ignore"]
        self.assertTrue(set(modules[1:]) <= set(ignored))
        self.assertNotIn(modules[0], set(ignored))
        self.run_ok("report", report)

    def test_plan_capabilities_health(self):
        server = ("--server", self.server.address)
        table = self.run_ok("plan", MODEL, "--preset", "W4A16", *server)
        for name in self.source:
            self.assertIn(name, table.stdout)
        plan = json.loads(self.run_ok("plan", MODEL, "--preset", "W4A16",
                                      "--json", *server).stdout)
        self.assertEqual(plan["schema"], "quantd.plan/1")
        assumed = self.run_ok("plan", MODEL, *server)
        self.assertEqual(assumed.stdout, table.stdout)
        self.assertIn("the plan of W4A16", assumed.stderr)
        self.assertNotIn("the plan of", table.stderr)
        self.assertEqual(len(plan["plan"]["entries"]), len(self.source))
        text = self.run_ok("capabilities", *server).stdout
        self.assertIn("NF4", text)
        self.assertRegex(text, r"\nCUDA kernels verified on: \w")
        capabilities = json.loads(
            self.run_ok("capabilities", "--json", *server).stdout)
        limits = capabilities["limits"]
        proto = (ROOT / "proto/quant/v1/quantization.proto").read_text()
        block = re.search(r"^message Limits \{.*?^\}", proto, re.M | re.S)
        self.assertEqual(list(limits), re.findall(r"^  \w+ (\w+) = \d+;",
                                                  block[0], re.M))
        self.assertEqual(limits["max_message_bytes"], 4 << 20)
        self.assertEqual(limits["max_name_bytes"], 512)
        self.assertEqual(limits["max_plan_name_bytes"], 1024)
        for name, value in limits.items():
            self.assertGreater(value, 0, name)
            self.assertRegex(text, rf"(?m)^{name} +{value}$")
        self.assertIn("SERVING", self.run_ok("health", *server).stdout)

    def test_readme(self):
        """Its lines run, on a smaller model of that name and in a folder with
        a space, its tables agree with --help, its tests exist."""
        readme = (ROOT / "README.md").read_text()
        lines = re.findall(r"^    build/release/bin/quantctl .*(?:\n     .*)*",
                           readme, re.M)
        lines = [line for line in lines if "--token-file" not in line]
        self.assertEqual(len(lines), 16, lines)
        job = "JOB"
        (self.work / "quantized").mkdir()
        here = self.work / "a b"
        make_small(here / "tests" / "data", layers=1)
        server = programs.Server(
            self.work, "--data-dir", self.work / "data", "--read-root",
            here / "tests" / "data", "--write-root",
            self.work / "quantized")
        self.addCleanup(server.close)
        for line in lines:
            typed = line.replace("/tmp/", f"{self.work}/")
            typed = typed.replace(" JOB ", f" {job} ")
            typed = typed.replace("build/release/bin/quantctl",
                                  shlex.quote(str(BIN / "quantctl")))
            if "quantctl report" not in line:
                typed += f" --server {server.address}"
            done = subprocess.run(["bash", "-c", typed], cwd=here,
                                  text=True, capture_output=True, timeout=120)
            self.assertEqual(done.returncode, 0, typed + done.stderr)
            if made := re.search(r"projects/default/jobs/(\w+)", done.stdout):
                job = made.group(1)
        self.assertTrue(
            (self.work / "tiny-llama-W4A16-stored/config.json").exists())
        self.assertIn("<svg", (self.work / "report.html").read_text())

        texts = {command: self.run_ok(command, "--help").stdout
                 for command in ("quantize", "plan", "compare", "report",
                                 "capabilities", "health")}
        texts["calibration"] = "".join(
            self.run_ok("calibration", command, "--help").stdout
            for command in ("merge", "inspect"))
        section = readme[readme.index("## quantctl"):
                         readme.index("## Running the server")]
        for command in texts:
            self.assertIn(f"| `{command}", section)
        known = {flag for text in texts.values()
                 for flag in re.findall(r"--[a-z-]+", text)} - {"--help"}
        self.assertEqual(set(re.findall(r"--[a-z][a-z-]+", section)),
                         known - {"--output"})
        codes = {code for row in re.findall(r"^\| ([0-9, ]+) \|", section, re.M)
                 for code in re.findall(r"\d+", row)}
        help_codes = texts["quantize"].split("Exit codes:")[1]
        self.assertEqual(codes, set(re.findall(r"^  (\d+) ", help_codes, re.M))
                         | set(re.findall(r"; (\d+):", help_codes)))
        counted = ("open uploads, results of jobs without a destination, and "
                   "calibrations together")
        for text in (readme,
                     subprocess.run([BIN / "quantd", "--help"], text=True,
                                    capture_output=True, check=True).stdout,
                     (ROOT / "proto/quant/v1/quantization.proto").read_text()):
            self.assertIn(counted, re.sub(r"\s+(// )?", " ", text))
        for path in re.findall(r"`(tests/[^` ]+)`", readme):
            self.assertTrue(list(ROOT.glob(path)), path)

    def test_overwrite(self):
        out = self.work / "out"
        self.quantize_ok(MODEL, out, "--preset", "NF4")
        before = (out / "config.json").read_bytes()
        self.assert_failed(self.quantize(MODEL, out, "--preset", "W4A16"), 6,
                           "--overwrite")
        self.assertEqual((out / "config.json").read_bytes(), before)
        self.quantize_ok(MODEL, out, "--preset", "W4A16", "--overwrite")
        self.assertNotEqual((out / "config.json").read_bytes(), before)
        self.assert_names("out")


if __name__ == "__main__":
    programs.main()
