#!/usr/bin/env python3
"""quantctl calibrate against a real quantd, also one that is killed.

    quantctl_calibrate_test.py BIN_DIR [TEST...]
"""
import json
import pathlib
import random
import shutil
import struct
import subprocess
import tempfile
import time
import unittest

import programs
from checkpoints import CALIBRATION, MODEL, SEED, write_safetensors
from programs import BIN, Server, quantctl


def big_calibration(path, sites, inputs, seed=SEED):
    """Sites of one token x: the moments are x x^T."""
    rng = random.Random(seed)
    tensors, names = {}, {}
    for site in range(sites):
        x = [float(rng.randint(-8, 8)) for _ in range(inputs)]
        packed = [x[i] * x[j] for i in range(inputs) for j in range(i, inputs)]
        tensors[f"s{site}.second_moment"] = (
            "F32", [len(packed)], struct.pack(f"<{len(packed)}f", *packed))
        tensors[f"s{site}.abs_sum"] = (
            "F32", [inputs], struct.pack(f"<{inputs}f", *map(abs, x)))
        tensors[f"s{site}.token_count"] = ("I64", [1], struct.pack("<q", 1))
        names[f"s{site}"] = [f"module.{site}"]
    write_safetensors(path, tensors, {"inputs": json.dumps(names)})


class QuantctlCalibrateTest(unittest.TestCase):
    def setUp(self):
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="quantctl-e2e-"))
        self.addCleanup(shutil.rmtree, self.work, ignore_errors=True)
        self.servers = []
        self.addCleanup(lambda: [server.close() for server in self.servers])

    def serve(self, listen="127.0.0.1:0"):
        self.servers.append(
            Server(self.work, "--data-dir", self.work / "data", listen=listen))
        return self.servers[-1]

    def run_ok(self, *args):
        done = quantctl(*args)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done

    def upload(self, server, file, name, *flags):
        done = self.run_ok("calibrate", "upload", file, "--name", name,
                           "--server", server.address, *flags)
        self.assertEqual(done.stdout,
                         f"projects/default/calibrations/{name}\n")
        return done.stderr.splitlines()[-1]

    def export(self, server, name, file, *flags):
        self.run_ok("calibrate", "export", name, "-o", file, "--server",
                    server.address, *flags)

    def facts(self, file):
        """What a calibration file knows, however it is stored."""
        said = json.loads(self.run_ok("calibration", "inspect", file,
                                      "--json").stdout)
        for site in said["sites"]:
            del site["packed"]
        return said["metadata"], said["sites"]

    def test_what_went_in_comes_out(self):
        server = self.serve()
        sites = len(self.facts(CALIBRATION)[1])
        self.assertEqual(self.upload(server, CALIBRATION, "c"),
                         f"sent {sites} sites; 0 were there")
        out = self.work / "out.safetensors"
        self.export(server, "c", out)
        self.assertEqual(self.facts(out), self.facts(CALIBRATION))
        again = quantctl("calibrate", "export", "c", "-o", out, "--server",
                         server.address)
        self.assertEqual(again.returncode, 6, again.stderr)
        self.export(server, "c", out, "--overwrite")
        # It serves as a calibration.
        reports = []
        for file in (CALIBRATION, out):
            report = self.work / "report.json"
            self.run_ok("quantize", MODEL, "-o", self.work / "q",
                        "--overwrite", "--preset", "W4A16-gptq", "--include",
                        "model.layers.1.self_attn.*", "--calibration", file,
                        "--json", report, "--server", server.address)
            reports.append([path.read_bytes() for path in
                            sorted((self.work / "q").glob("*.safetensors"))])
        self.assertEqual(reports[0], reports[1])

    def test_a_second_run_adds_nothing_and_another_file_adds(self):
        server = self.serve()
        self.upload(server, CALIBRATION, "c", "--keep-open")
        sites = len(self.facts(CALIBRATION)[1])
        self.assertEqual(self.upload(server, CALIBRATION, "c", "--keep-open"),
                         f"sent 0 sites; {sites} were there")
        open_one = quantctl("calibrate", "export", "c", "-o",
                            self.work / "x", "--server", server.address)
        self.assertEqual(open_one.returncode, 5, open_one.stderr)
        self.assertFalse((self.work / "x").exists())
        self.assertEqual(self.upload(server, CALIBRATION, "c"),
                         f"sent 0 sites; {sites} were there")
        first, second = self.work / "1", self.work / "2"
        big_calibration(first, 2, 8)
        big_calibration(second, 2, 8, SEED + 1)
        self.upload(server, first, "d", "--keep-open")
        self.upload(server, second, "d")
        self.export(server, "d", self.work / "d")
        self.run_ok("calibration", "merge", self.work / "m", first, second)
        self.assertEqual(self.facts(self.work / "d")[1],
                         self.facts(self.work / "m")[1])

    def test_a_server_that_is_killed(self):
        big = self.work / "big.safetensors"
        big_calibration(big, 12, 1024)
        server = self.serve()
        rng = random.Random(SEED)
        run = subprocess.Popen(
            [BIN / "quantctl", "calibrate", "upload", big, "--name", "c",
             "--server", server.address], stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True)
        kills = 0
        while run.poll() is None and kills < 4:
            time.sleep(0.02 + rng.random() * 0.05)
            server.kill()
            kills += 1
            server = self.serve(listen=server.address)
        out, error = run.communicate(timeout=120)
        self.assertEqual(run.returncode, 0, out + error)
        self.assertGreater(kills, 0)
        self.export(server, "c", self.work / "out")
        self.assertEqual(self.facts(self.work / "out"), self.facts(big))


if __name__ == "__main__":
    programs.main()
