#!/usr/bin/env python3
"""quantctl against a real quantd: what a careless user or a file from a stranger
must not be able to do.

    quantctl_safety_test.py BIN_DIR [TEST...]
"""
import json
import os
import random
import shutil
import subprocess
import time

import programs
from checkpoints import MODEL, random_bf16, write_safetensors
from programs import BIN, Server, quantctl


class QuantctlSafetyTest(programs.QuantctlCase):
    def setUp(self):
        super().setUp()
        self.source = self.work / "in"
        shutil.copytree(MODEL, self.source)

    def server_flags(self, *flags):
        return ("--server", self.server.address, "--preset", "NF4", *flags)

    def test_a_file_name_that_is_no_utf8(self):
        """Refused before anything is sent, with a name that can be read."""
        (self.source / os.fsdecode(b"b\xffd.txt")).write_text("text")
        out = self.work / "out"
        for command in (["plan", self.source], ["compare", self.source],
                        ["quantize", self.source, "-o", out]):
            flags = self.server_flags()
            if command[0] == "compare":
                flags = flags[:2]
            self.assert_failed(quantctl(*command, *flags), 5,
                               'got the file name "b\\xffd.txt"',
                               "allowed: names in UTF-8; rename the file")
        self.assert_names("in")

    def test_a_glob_that_is_no_utf8(self):
        for flag in ("--include", "--exclude"):
            done = quantctl("plan", self.source, *self.server_flags(
                flag, os.fsdecode(b"a\xff*")))
            self.assert_failed(done, 2, flag + ': got "a\\xff*", allowed UTF-8')

    def test_a_report_replaces_nothing(self):
        """Neither the input nor the output nor the report that is shown."""
        out, report = self.work / "out", self.work / "r.json"
        before = {p.name: p.read_bytes() for p in self.source.iterdir()}
        (self.work / "link").symlink_to("in")
        flags = self.server_flags()
        shard = next(self.source.glob("*.safetensors"))
        for path in (self.source / "config.json", shard, out / "config.json",
                     self.work / "link" / shard.name, out / "x.json"):
            self.assert_failed(quantctl("quantize", self.source, "-o", out,
                                        "--json", path, *flags), 6,
                               "allowed: a file of its own")
        self.assertEqual(
            {p.name: p.read_bytes() for p in self.source.iterdir()}, before)
        self.assert_names("in", "link")

        self.run_ok("quantize", self.source, "-o", out, "--json", report,
                    *flags)
        text = report.read_bytes()
        (self.work / "symbolic").symlink_to("r.json")
        os.link(report, self.work / "hard")
        os.chdir(self.work)
        for html in ("r.json", "./r.json", "symbolic", "hard", "out/../r.json"):
            self.assert_failed(quantctl("report", "r.json", "--html", html), 6,
                               "allowed: a file of its own")
        self.assertEqual(report.read_bytes(), text)
        self.run_ok("report", "r.json", "--html", "page.html")
        both = quantctl("compare", self.source, "--json", "both", "--html",
                        "./both", *flags[:2])
        self.assert_failed(both, 6, "allowed: a file of its own")

    def test_nothing_that_a_terminal_obeys_is_printed(self):
        """Names of tensors and files that were made to be printed."""
        evil = "w\x1b]0;title\x07\x9b2J\u202e\nwrote all.weight"
        write_safetensors(self.source / "model.safetensors", {
            evil: ("BF16", [64, 64], random_bf16(64 * 64, random.Random(1))),
            evil + "2": ("BF16", [64], bytes(128))})
        for name in self.source.glob("model-*"):
            name.unlink()
        for name in ("model.safetensors.index.json", "config.json"):
            (self.source / name).unlink()
        (self.source / "side\x1b[31m.txt").write_text("text")
        report = self.work / "report.json"
        flags = self.server_flags()
        seen = [
            quantctl("plan", self.source, *flags),
            quantctl("quantize", self.source, "-o", self.work / "out",
                     "--json", report, *flags),
            quantctl("report", report),
            quantctl("compare", self.source, *flags[:2]),
            # Errors, too.
            quantctl("plan", self.work / "no\x1b[31m", *flags),
            quantctl("pl\x1b[31man"),
            quantctl("plan", self.source, "--server", "x\x1b[31m:1", "--preset",
                     "NF4"),
        ]
        for done in seen:
            text = done.stdout + done.stderr
            self.assertEqual([c for c in text if c != "\n" and (
                ord(c) < 32 or 127 <= ord(c) < 160 or c == "\u202e")], [], text)
            self.assertNotIn("\nwrote all", text)
        self.assertEqual([done.returncode for done in seen[:4]], [0] * 4, seen)
        self.assertIn("w\\x1b]0;title\\x07\\xc2\\x9b2J\\xe2\\x80\\xae\\nwrote "
                      "all.weight", seen[0].stdout)
        self.assertIn("side\\x1b[31m.txt", seen[0].stdout)
        # JSON is exact.
        plan = json.loads(self.run_ok("plan", self.source, "--json",
                                      *flags).stdout)["plan"]
        self.assertIn(evil, [entry["name"] for entry in plan["entries"]])
        self.assertIn(evil, [tensor["name"] for tensor in
                             json.loads(report.read_text())["tensors"]])

    def test_columns_of_other_alphabets(self):
        """Columns are as wide as their characters, not their bytes."""
        write_safetensors(self.work / "w.safetensors", {
            "\u6f22\u5b57.weight": ("BF16", [64], bytes(128)),
            "plain.weight": ("BF16", [64], bytes(128))})
        done = quantctl("plan", self.work / "w.safetensors",
                        *self.server_flags())
        self.assert_failed(done, 3, "NOTHING_TO_QUANTIZE")
        lines = done.stdout.splitlines()
        rows = [line for line in lines if ".weight " in line]
        self.assertEqual(len({row.index("carry") for row in rows}), 1, rows)

    def test_limits_of_the_server_refuse_the_plan(self):
        """Before any byte of a weight is sent, with a code of its own."""
        server = Server(self.work, "--log-level", "debug",
                        "--max-tensor-bytes", "64KiB")
        self.addCleanup(server.close)
        flags = ("--server", server.address, "--preset", "NF4")
        for command in (["plan", self.source],
                        ["quantize", self.source, "-o", self.work / "out"]):
            self.assert_failed(quantctl(*command, *flags), 3,
                               "TENSOR_TOO_LARGE model.layers.0.",
                               "bytes, allowed 65536")
        self.assertNotIn('"rpc":"Quantize"',
                         (self.work / "quantd.log").read_text())

    def test_a_checkpoint_without_config(self):
        (self.source / "config.json").unlink()
        for target in ("vllm", "transformers"):
            done = self.run_ok("plan", self.source, "--server",
                               self.server.address, "--preset", "W4A16",
                               "--target", target)
            self.assertIn("warning NO_CONFIG: config.json: got none",
                          done.stdout)
            self.assertNotIn("vLLM", done.stdout.split("loads in")[-1]
                             if "loads in" in done.stdout else "")
        done = self.run_ok("quantize", self.source, "-o", self.work / "out",
                           "--server", self.server.address, "--preset", "W4A16",
                           "--target", "vllm")
        self.assertIn("warning NO_CONFIG: config.json: got none", done.stderr)

    def test_why_nothing_would_be_quantized(self):
        """quantize says why, and warns, as plan does."""
        write_safetensors(self.work / "w.safetensors", {
            "a.bias": ("BF16", [64], bytes(128)),
            "b.bias": ("BF16", [64], bytes(128))})
        done = quantctl("quantize", self.work / "w.safetensors", "-o",
                        self.work / "q.safetensors", *self.server_flags(
                            "--target", "transformers"))
        self.assert_failed(done, 3, "NOTHING_TO_QUANTIZE",
                           "2 tensors (the first is a.bias): 1-D",
                           "warning NO_CONFIG")
        write_safetensors(self.work / "w.safetensors", {
            "a.weight": ("BF16", [64, 64],
                         random_bf16(64 * 64, random.Random(1)))})
        done = self.run_ok("quantize", self.work / "w.safetensors", "-o",
                           self.work / "q.safetensors", "--streams", "1",
                           *self.server_flags())
        self.assertIn("quantizing 1 of 1 tensor, 8.19 kB, 1 stream to",
                      done.stderr)
        self.assertIn("total: 1 tensor ", done.stdout)

    def test_output_that_is_lost(self):
        report = self.work / "report.json"
        self.run_ok("quantize", self.source, "-o", self.work / "out",
                    "--json", report, *self.server_flags())
        server = self.server_flags()[:2]
        commands = [["plan", self.source, *self.server_flags()],
                    ["plan", self.source, "--json", *self.server_flags()],
                    ["report", report], ["capabilities", *server],
                    ["capabilities", "--json", *server], ["health", *server],
                    ["--help"], ["quantize", "--help"], ["--version"]]
        for command in commands:
            for target in ("/dev/full", None):
                with open(target or "/dev/null", "w") as out:
                    done = subprocess.run(
                        [BIN / "quantctl", *map(str, command)], stdout=out,
                        stderr=subprocess.PIPE, text=True, timeout=60,
                        preexec_fn=None if target else lambda: os.close(1))
                self.assertEqual(done.returncode, 6, (command, done.stderr))
                self.assertIn("standard output: some of it cannot be written",
                              done.stderr)
        with open("/dev/full", "w") as out:
            done = subprocess.run([BIN / "quantd", "--help"], text=True,
                                  timeout=60, stdout=out,
                                  stderr=subprocess.PIPE)
        self.assertEqual(done.returncode, 1, done.stderr)

    def test_a_server_without_standard_descriptors(self):
        """It serves, and what it logs is taken neither for a signal nor for the
        bytes of a connection."""
        for closed in ((1, 2), (0, 1, 2), (0,), (2,)):
            port = self.work / "port"
            port.unlink(missing_ok=True)
            server = subprocess.Popen(
                [BIN / "quantd", "--listen", "127.0.0.1:0", "--port-file", port],
                preexec_fn=lambda: [os.close(fd) for fd in closed],
                stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            self.addCleanup(lambda one=server: one.poll() is None and one.kill())
            deadline = time.monotonic() + 30
            while not (port.exists() and port.read_text().strip()):
                self.assertIsNone(server.poll(), closed)
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.02)
            address = "127.0.0.1:" + port.read_text().strip()
            self.run_ok("plan", self.source, "--preset", "NF4", "--server",
                        address)
            self.run_ok("health", "--server", address)
            for fd in closed:
                self.assertEqual(
                    os.readlink(f"/proc/{server.pid}/fd/{fd}"), "/dev/null")
            self.assertIsNone(server.poll(), closed)
            server.terminate()
            self.assertEqual(server.wait(timeout=30), 0, closed)

    def test_a_client_without_standard_descriptors(self):
        out = self.work / "out"
        done = subprocess.run(
            [BIN / "quantctl", "quantize", self.source, "-o", out,
             *self.server_flags()], timeout=60,
            preexec_fn=lambda: [os.close(fd) for fd in (0, 1, 2)])
        self.assertEqual(done.returncode, 6)  # its report went nowhere
        self.assertEqual({p.name for p in out.iterdir()},
                         {p.name for p in self.source.iterdir()})
        done = subprocess.run(
            [BIN / "quantctl", "health", *self.server_flags()[:2]], timeout=60,
            stdout=subprocess.DEVNULL, preexec_fn=lambda: os.close(2))
        self.assertEqual(done.returncode, 0)


if __name__ == "__main__":
    programs.main()
