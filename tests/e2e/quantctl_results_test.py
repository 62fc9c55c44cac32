#!/usr/bin/env python3
"""quantctl jobs result against a real quantd: a result of the server's store
becomes a directory, whatever ends in between.

    quantctl_results_test.py BIN_DIR [TEST...]
"""
import hashlib
import json
import pathlib
import random
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

import programs
from checkpoints import MODEL, SEED, make_big, make_small
from programs import BIN, Server, quantctl


def tree(directory):
    """{path below: bytes} of all files."""
    root = pathlib.Path(directory)
    return {str(p.relative_to(root)): p.read_bytes()
            for p in root.rglob("*") if p.is_file()}


class QuantctlResultsTest(unittest.TestCase):
    def setUp(self):
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="quantctl-e2e-"))
        self.addCleanup(shutil.rmtree, self.work, ignore_errors=True)
        (self.work / "in").mkdir()
        self.flags = ("--data-dir", self.work / "data", "--read-root",
                      MODEL.parent, "--read-root", self.work / "in",
                      "--workers", "2")
        self.server = Server(self.work, *self.flags)
        self.addCleanup(lambda: self.server.close())

    def restart(self):
        """A new process at the same address."""
        self.server.close()
        self.server = Server(self.work, *self.flags,
                             listen=self.server.address)

    def jobs(self, *args):
        return quantctl("jobs", *args, "--server", self.server.address)

    def create(self, source, *flags):
        done = self.jobs("create", source, "--json", *flags)
        self.assertEqual(done.returncode, 0, done.stderr)
        job = json.loads(done.stdout)
        self.assertNotIn("destination", job)
        return job["name"]

    def start_result(self, job, out):
        process = subprocess.Popen(
            [BIN / "quantctl", "jobs", "result", job, out, "--server",
             self.server.address], text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE)
        self.addCleanup(process.kill)
        return process

    def big(self):
        """A job that is done, of several seconds' reading in small steps."""
        make_big(self.work / "in" / "big", 256)
        job = self.create(self.work / "in" / "big", "--preset", "NF4",
                          "--profile", "reference", "--wait")
        stored = (self.work / "data" / "results" / "default" /
                  job.split("/")[-1])
        return job, tree(stored)

    def test_equals_what_quantize_writes(self):
        small, calibration = make_small(self.work / "in" / "small")
        for preset, model, *more in (
                ("NF4", MODEL),
                ("W4A16-gptq", small, "--calibration", calibration)):
            streamed = self.work / f"streamed-{preset}"
            done = quantctl("quantize", model, "-o", streamed, "--preset",
                            preset, *more, "--server", self.server.address)
            self.assertEqual(done.returncode, 0, done.stderr)
            # `result` waits for the job.
            job = self.create(model, "--preset", preset, *more)
            out = self.work / f"out-{preset}"
            done = self.jobs("result", job, out)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn("state:       SUCCEEDED", done.stdout)
            self.assertIn("destination: the server's store", done.stdout)
            self.assertEqual(tree(out), tree(streamed))
        self.assertEqual([p.name for p in self.work.glob(".*")], [])

    def test_exit_codes(self):
        job = self.create(MODEL, "--preset", "NF4", "--wait")
        elsewhere = self.work / "taken"
        elsewhere.mkdir()
        for args, code, says in (
                ((job, elsewhere), 6, "exists"),
                ((job, self.work / "no" / "out"), 6, "no"),
                (("nothing", self.work / "out"), 2, "JOB_NOT_FOUND"),
                ((job,), 2, "OUT")):
            with self.subTest(args=args):
                done = self.jobs("result", *args)
                self.assertEqual(done.returncode, code, done.stderr)
                self.assertIn(says, done.stderr)
        shutil.copytree(MODEL, self.work / "in" / "gone")
        waits = self.create(self.work / "in" / "gone", "--preset", "NF4",
                            "--priority", "batch", "--queue-timeout", "1000")
        self.jobs("cancel", waits)
        if "CANCELLED" in self.jobs("get", waits).stdout:
            done = self.jobs("result", waits, self.work / "out")
            self.assertEqual(done.returncode, 8, done.stderr)
            self.assertIn("CANCELLED", done.stderr)
        # What the store lost is said, and no directory is made of it.
        stored = self.work / "data/results/default" / job.split("/")[-1]
        damaged = stored / "config.json"
        damaged.write_bytes(damaged.read_bytes().replace(b"nf4", b"fp4"))
        done = self.jobs("result", job, self.work / "out")
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("RESULT_CORRUPT", done.stderr)
        self.assertFalse((self.work / "out").exists())
        self.assertEqual(self.jobs("delete", job).returncode, 0)
        self.assertFalse(stored.exists())

    def test_killed_servers_and_clients(self):
        """F5: at random times; each one goes on where the last one was."""
        job, expected = self.big()
        rng = random.Random(SEED)
        out = self.work / "out"
        process = self.start_result(job, out)
        for _ in range(4):
            staging = self.work / f".out.quantctl-{job.split('/')[-1]}"
            try:
                process.wait(timeout=rng.uniform(0.02, 0.12))
                break
            except subprocess.TimeoutExpired:
                pass
            if rng.random() < 0.5:
                self.server.kill()
                self.restart()
                continue
            process.send_signal(rng.choice((signal.SIGKILL, signal.SIGINT)))
            process.communicate(timeout=30)
            if process.returncode == 0:
                break
            self.assertFalse(out.exists())
            process = self.start_result(job, out)
        _, text = process.communicate(timeout=120)
        self.assertEqual(process.returncode, 0, text)
        self.assertEqual(tree(out), expected)
        self.assertFalse(staging.exists())

    def test_a_second_run_goes_on(self):
        job, expected = self.big()
        out = self.work / "out"
        name = next(n for n in expected if n.endswith(".safetensors"))
        part = (self.work / f".out.quantctl-{job.split('/')[-1]}" / "files" /
                name)
        process = self.start_result(job, out)
        while not part.exists() or part.stat().st_size < 8 << 20:
            self.assertIsNone(process.poll())
        process.send_signal(signal.SIGINT)
        _, text = process.communicate(timeout=30)
        if process.returncode != 0:
            self.assertEqual(process.returncode, 130, text)
            self.assertIn("run it again", text)
            self.assertFalse(out.exists())
            # The second run takes what is there: damage in it is found.
            received = part.stat().st_size
            self.assertGreaterEqual(received, 8 << 20)
            with open(part, "r+b") as file:
                file.seek(4 << 20)
                byte = file.read(1)
                file.seek(4 << 20)
                file.write(bytes([byte[0] ^ 1]))
            again = self.start_result(job, out)
            _, text = again.communicate(timeout=120)
            self.assertEqual(again.returncode, 0, text)
        self.assertEqual(tree(out), expected)

    def test_waits_for_a_job_over_a_killed_server(self):
        make_big(self.work / "in" / "big", 128)
        job = self.create(self.work / "in" / "big", "--preset", "W4A16")
        process = self.start_result(job, self.work / "out")
        time.sleep(0.5)
        self.server.kill()
        self.restart()
        out, text = process.communicate(timeout=120)
        self.assertEqual(process.returncode, 0, text)
        lines = "".join(
            f"{hashlib.sha256(data).hexdigest()}  ./{name}\n"
            for name, data in sorted(tree(self.work / "out").items()))
        self.assertIn("digest:      sha256:" +
                      hashlib.sha256(lines.encode()).hexdigest(), out)

    def test_two_at_once_do_not_mix(self):
        job, expected = self.big()
        first = self.start_result(job, self.work / "out")
        second = self.start_result(job, self.work / "out")
        texts = [p.communicate(timeout=120)[1] for p in (first, second)]
        codes = sorted(p.returncode for p in (first, second))
        self.assertEqual(codes, [0, 6], texts)
        self.assertEqual(tree(self.work / "out"), expected)


if __name__ == "__main__":
    programs.main()
