#!/usr/bin/env python3
"""quantctl jobs against a real quantd with a data directory.

    quantctl_jobs_test.py BIN_DIR [TEST...]
"""
import json
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

import programs
from checkpoints import CALIBRATION, MODEL, make_small, read_checkpoint
from programs import BIN, Server, quantctl


class QuantctlJobsTest(unittest.TestCase):
    def setUp(self):
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="quantctl-e2e-"))
        self.addCleanup(shutil.rmtree, self.work, ignore_errors=True)
        (self.work / "out").mkdir()
        self.model, self.calibration = make_small(self.work / "in")
        self.flags = ("--data-dir", self.work / "data", "--read-root",
                      MODEL.parent, "--read-root", self.work / "in",
                      "--write-root", self.work / "out",
                      "--workers", "1")
        self.server = Server(self.work, *self.flags)
        self.addCleanup(lambda: self.server.close())

    def restart(self):
        """A new process at the same address."""
        self.server.close()
        self.server = Server(self.work, *self.flags,
                             listen=self.server.address)

    def jobs(self, *args):
        return quantctl("jobs", *args, "--server", self.server.address)

    def jobs_ok(self, *args):
        done = self.jobs(*args)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout

    def create(self, name, *flags, preset="W4A16-gptq"):
        return ("create", self.model, "-o", self.work / "out" / name,
                "--preset", preset, "--calibration", self.calibration, *flags)

    def create_long(self, name, *flags):
        """Runs for a second or more."""
        return ("create", MODEL, "-o", self.work / "out" / name, "--preset",
                "W4A16-gptq", "--calibration", CALIBRATION, "--exclude",
                "*.down_proj.*", *flags)

    def test_create_and_wait(self):
        done = self.jobs(*self.create("a", "--wait", "--label", "team=search"))
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("SUCCEEDED", done.stderr)
        self.assertIn("state:       SUCCEEDED", done.stdout)
        self.assertIn("label:       team=search", done.stdout)
        self.assertRegex(done.stdout, "digest:      sha256:[0-9a-f]{64}\n")
        # What the stream-through call writes, byte for byte.
        streamed = quantctl("quantize", self.model, "-o",
                            self.work / "streamed", "--preset", "W4A16-gptq",
                            "--calibration", self.calibration, "--server",
                            self.server.address)
        self.assertEqual(streamed.returncode, 0, streamed.stderr)
        self.assert_same_tree(self.work / "out" / "a", self.work / "streamed")

    def test_the_commands(self):
        plan = self.jobs_ok(*self.create("a", "--validate-only"))
        self.assertIn("plan:", plan)
        self.assertEqual(json.loads(self.jobs_ok("list", "--json")), [])
        job = json.loads(self.jobs_ok(*self.create("a", "--json")))
        name = job["name"]
        number = name.split("/")[-1]
        again = json.loads(self.jobs_ok("get", number, "--json"))
        self.assertEqual(again["name"], name)
        waits = json.loads(self.jobs_ok(*self.create_long(
            "b", "--json", "--priority", "urgent", "--request-id", "r")))
        self.assertEqual(waits["priority"], "URGENT")
        same = json.loads(self.jobs_ok(*self.create_long(
            "b", "--json", "--priority", "urgent", "--request-id", "r")))
        self.assertEqual(same["name"], waits["name"])
        table = self.jobs_ok("list")
        self.assertIn(number, table)
        self.assertIn("W4A16-gptq", table)
        self.jobs_ok("cancel", waits["name"])
        done = self.jobs("watch", waits["name"])
        self.assertEqual(done.returncode, 8, done.stderr)
        self.assertIn("CANCELLED", done.stderr)
        self.assertIn("state:       SUCCEEDED",
                      self.jobs_ok("watch", number))
        self.jobs_ok("delete", number)
        self.assertEqual(self.jobs("get", number).returncode, 2)
        self.assertEqual(
            [j["state"] for j in json.loads(self.jobs_ok(
                "list", "--json", "--filter", "state=CANCELLED"))],
            ["CANCELLED"])

    def test_exit_codes(self):
        for args, code, says in (
                (("get", "nothing"), 2, "JOB_NOT_FOUND"),
                (("get", "projects/other/jobs/1"), 4, "PROJECT_NOT_ALLOWED"),
                (("list", "--filter", "x"), 2, "filter"),
                (("create", "/etc", "-o", self.work / "out" / "a", "--preset",
                  "NF4"), 2, "URI_NOT_ALLOWED"),
                (("create", MODEL.parent / "no", "-o", self.work / "out" / "a",
                  "--preset", "NF4"), 5, "SOURCE_NOT_FOUND"),
                (("create", MODEL, "-o", self.work / "out" / "no" / "a",
                  "--preset", "NF4"), 6, "DESTINATION_NOT_FOUND"),
                (("create", MODEL, "-o", self.work / "out" / "a", "--preset",
                  "NF4", "--target", "vllm"), 3, "TARGET_REFUSED"),
                (("create", MODEL, "-o", self.work / "out" / "a", "--preset",
                  "W4A16-awq"), 2, "CALIBRATION_MISSING"),
                (("create", MODEL, "-o", self.work / "out" / "a", "--preset",
                  "NF4", "--label", "x"), 2, "--label"),
                (("create", MODEL), 2, "preset"),
                (("stop", "x"), 2, "subcommand")):
            with self.subTest(args=args):
                done = self.jobs(*args)
                self.assertEqual(done.returncode, code, done.stderr)
                self.assertIn(says, done.stderr)

    def assert_same_tree(self, a, b):
        names = sorted(p.name for p in a.iterdir())
        self.assertEqual(names, sorted(p.name for p in b.iterdir()))
        for name in names:
            self.assertEqual((a / name).read_bytes(), (b / name).read_bytes(),
                             name)

    def test_overrides(self):
        rules = ("--override", "*.down_proj.*=W8A16", "--override",
                 '*.o_proj.*={"rtn": {"bits": 3, "group_size": 32}}',
                 "--override", "*layers.0.self_attn.[qkv]_proj.*=skip",
                 "--target", "vllm")
        shown = self.jobs_ok(*self.create("a", "--validate-only", "--json",
                                          *rules))
        resolved = json.loads(shown)["plan"]["summary"]["overrides"]
        self.assertEqual([list(r)[-1] for r in resolved],
                         ["config", "config", "skip"])
        self.assertEqual(resolved[1]["config"]["rtn"]["bits"], 3)
        done = self.jobs_ok(*self.create("a", "--wait", *rules))
        self.assertIn("override:    *.down_proj.*=W8A16\n", done)
        self.assertIn("override:    *layers.0.self_attn.[qkv]_proj.*=skip\n",
                      done)
        # What the stream-through call writes, byte for byte.
        streamed = quantctl("quantize", self.model, "-o",
                            self.work / "streamed", "--preset", "W4A16-gptq",
                            "--calibration", self.calibration, *rules,
                            "--server", self.server.address)
        self.assertEqual(streamed.returncode, 0, streamed.stderr)
        self.assert_same_tree(self.work / "out" / "a", self.work / "streamed")
        self.check_mixed(self.work / "streamed")
        plan = quantctl("plan", self.model, "--preset", "W4A16-gptq", *rules,
                        "--server", self.server.address)
        self.assertRegex(plan.stdout, r"layers\.0\.mlp\.down_proj\.weight +"
                         r"quantize .*; override 1\n")
        for rule, code, says in (
                ("*.q_proj.*=W8A16", 3, "GROUP_SPLIT"),
                ("*.dwn_proj.*=skip", 2, "matches none of"),
                ("*.down_proj.*=NF4", 2, "format"),
                ("*.down_proj.*", 2, "--override"),
                ('*={"rtn": {"bit": 3}}', 2, "bit")):
            with self.subTest(rule=rule):
                done = quantctl("quantize", self.model, "-o", self.work / "x",
                                "--preset", "W4A16", "--override", rule,
                                "--server", self.server.address)
                self.assertEqual(done.returncode, code, done.stderr)
                self.assertIn(says, done.stderr)
                self.assertFalse((self.work / "x").exists())

    def check_mixed(self, out):
        """Tensors and config agree, by what their sizes say."""
        tensors = read_checkpoint(out)
        quantization = json.loads(
            (out / "config.json").read_text())["quantization_config"]
        self.assertIn("model.layers.0.self_attn.q_proj",
                      quantization["ignore"])
        self.assertIn("model.layers.0.self_attn.q_proj.weight", tensors)
        bits = {"down_proj": 8, "o_proj": 3, "up_proj": 4}
        for name in [n for n in tensors if n.endswith(".weight_packed")]:
            module = name.removesuffix(".weight_packed")
            groups = [g["weights"] for g in
                      quantization["config_groups"].values()
                      if any(re.match(t[3:], module) if t.startswith("re:")
                             else t == module for t in g["targets"])]
            self.assertEqual(len(groups), 1, module)
            rows, cols = tensors[name][1]
            _, shape, _ = tensors[module + ".weight_scale"]
            wide = bits.get(module.split(".")[-1], 4)
            self.assertEqual(groups[0]["num_bits"], wide, module)
            size = groups[0]["group_size"]
            inputs = cols * 32 // wide
            self.assertEqual(shape, [rows, inputs // size if size else 1],
                             module)

    def calibrate(self, *args):
        done = quantctl("calibrate", *args, "--server", self.server.address)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_a_calibration_of_the_server(self):
        self.calibrate("upload", self.calibration, "--name", "c", "--keep-open")
        # Nothing is sealed yet: the job waits, and is there after a kill.
        job = json.loads(self.jobs_ok(
            "create", self.model, "-o", self.work / "out" / "named", "--preset",
            "W4A16-gptq", "--calibration-name", "c", "--json"))
        self.assertGreater(int(job["waiting_for"]["open_sites"]), 5)
        self.assertIn("waiting for: ", self.jobs_ok("get", job["name"]))
        self.server.kill()
        self.restart()
        self.assertIn("waiting for: ", self.jobs_ok("get", job["name"]))
        self.calibrate("upload", self.calibration, "--name", "c")
        self.jobs_ok("watch", job["name"])
        self.calibrate("export", "c", "-o", self.work / "in" / "c.safetensors")
        self.jobs_ok("create", self.model, "-o", self.work / "out" / "filed",
                     "--preset", "W4A16-gptq", "--calibration",
                     self.work / "in" / "c.safetensors", "--wait")
        self.assert_same_tree(self.work / "out" / "named",
                              self.work / "out" / "filed")

    def test_a_kill_while_a_calibration_of_the_server_is_used(self):
        self.calibrate("upload", self.calibration, "--name", "c")
        self.jobs_ok(*self.create("filed", "--wait"))
        job = json.loads(self.jobs_ok(
            "create", self.model, "-o", self.work / "out" / "named", "--preset",
            "W4A16-gptq", "--calibration-name", "c", "--delete-calibration",
            "--json"))
        while json.loads(self.jobs_ok("get", job["name"], "--json"))[
                "state"] == "QUEUED":
            time.sleep(0.01)
        self.server.kill()
        self.restart()
        self.assertIn("SUCCEEDED", self.jobs_ok("watch", job["name"]))
        self.assert_same_tree(self.work / "out" / "named",
                              self.work / "out" / "filed")
        gone = quantctl("calibrate", "export", "c", "-o", self.work / "x",
                        "--server", self.server.address)
        self.assertIn("CALIBRATION_NOT_FOUND", gone.stderr)

    def test_uploaded_tensors(self):
        uploaded = quantctl("upload", self.model, "--server",
                            self.server.address)
        self.assertEqual(uploaded.returncode, 0, uploaded.stderr)
        out = self.work / "out" / "uploaded"
        job = json.loads(self.jobs_ok(
            "create", "--tensors", "*", "--model-config",
            self.model / "config.json", "-o", out, "--preset", "W4A16-gptq",
            "--calibration", self.calibration, "--json"))
        self.assertEqual(job["plan"]["summary"]["architecture"], "llama")
        while json.loads(self.jobs_ok("get", job["name"], "--json"))[
                "state"] == "QUEUED":
            time.sleep(0.01)
        self.server.kill()
        self.restart()
        done = self.jobs_ok("watch", job["name"])
        self.assertIn("SUCCEEDED", done)
        self.assertIn("source:      uploaded tensors *", done)
        streamed = self.work / "streamed"
        done = quantctl("quantize", self.model, "-o", streamed, "--preset",
                        "W4A16-gptq", "--calibration", self.calibration,
                        "--server", self.server.address)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(read_checkpoint(out), read_checkpoint(streamed))
        self.assertEqual((out / "config.json").read_bytes(),
                         (streamed / "config.json").read_bytes())
        self.assertEqual(
            sorted(path.name for path in out.iterdir()),
            ["config.json", "model-00001-of-00001.safetensors",
             "model.safetensors.index.json"])
        for args, code, says in (
                (("--tensors", "nothing*"), 2, "TENSOR_NOT_FOUND"),
                (("--tensors", "*", "--model-config", "/nowhere"), 5,
                 "nowhere")):
            done = self.jobs("create", *args, "-o", self.work / "out" / "b",
                             "--preset", "NF4")
            self.assertEqual(done.returncode, code, done.stderr)
            self.assertIn(says, done.stderr)

    def test_watch_goes_on_after_a_kill(self):
        job = json.loads(self.jobs_ok(*self.create_long("a", "--json")))
        watch = subprocess.Popen(
            [BIN / "quantctl", "jobs", "watch", job["name"], "--server",
             self.server.address], text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE)
        self.addCleanup(watch.kill)
        seen = ""
        while "RUNNING" not in seen:
            line = watch.stderr.readline()
            self.assertTrue(line, seen)
            seen += line
        self.server.kill()
        time.sleep(1)
        self.restart()
        out, more = watch.communicate(timeout=120)
        self.assertEqual(watch.returncode, 0, seen + more)
        self.assertIn("connection lost", more)
        self.assertIn("SUCCEEDED", out)
        states = re.findall(r"QUEUED|RUNNING|SUCCEEDED", seen + more)
        self.assertEqual(states[-3:], ["QUEUED", "RUNNING", "SUCCEEDED"])
        self.assertIn("attempt 2", more)

    def test_an_interrupted_watch_leaves_the_job(self):
        job = json.loads(self.jobs_ok(*self.create_long("a", "--json")))
        watch = subprocess.Popen(
            [BIN / "quantctl", "jobs", "watch", job["name"], "--server",
             self.server.address], text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE)
        self.addCleanup(watch.kill)
        self.assertTrue(watch.stderr.readline())
        watch.send_signal(signal.SIGINT)
        _, text = watch.communicate(timeout=30)
        self.assertEqual(watch.returncode, 130, text)
        self.assertIn("the job goes on", text)
        self.assertIn("SUCCEEDED", self.jobs_ok("watch", job["name"]))


if __name__ == "__main__":
    programs.main()
