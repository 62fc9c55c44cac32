#!/usr/bin/env python3
"""The end-to-end stream on other workers than the CPU's, beside the CPU's.

    stream_test.py BIN_DIR WORKERS [TEST...]

A quantd with --workers WORKERS ("gpu:0") and one with --workers 1 quantize the
same checkpoint. Codes that are rounded element by element are equal to the byte;
solved ones may differ where sums end differently, and are as good. On a GPU the
device has done all of it. BIN_DIR is a build's, or what bundle.sh made: then no
library but those in it is loaded, except what the driver brings.
"""
import functools
import json
import pathlib
import re
import shutil
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

import programs  # noqa: E402
from checkpoints import CALIBRATION, MODEL, read_checkpoint  # noqa: E402
from programs import BIN, quantctl  # noqa: E402

WORKERS = sys.argv.pop(2) if len(sys.argv) > 2 else "gpu:0"
ON_GPU = WORKERS.startswith("gpu:")

# Relative, of the whole checkpoint's output error, as in device_test.cc; a
# single small tensor may gain or lose more by one code or one candidate.
TOLERANCE = 0.01
TENSOR_TOLERANCE = 0.10

# From the driver's packages, wherever the machine has them.
OF_THE_DRIVER = re.compile(
    r"^lib(cuda|cublas|cusolver|cusparse|nvidia-|nvJitLink)[-\w]*\.so")


class StreamTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.work = pathlib.Path(tempfile.mkdtemp(prefix="gpu-stream-"))
        cls.addClassCleanup(shutil.rmtree, cls.work, ignore_errors=True)
        cls.servers = {}
        for name, workers in (("tested", WORKERS), ("cpu", "1")):
            folder = cls.work / name
            folder.mkdir()
            server = programs.Server(folder, "--workers", workers)
            cls.addClassCleanup(server.close)
            cls.servers[name] = server

    @classmethod
    @functools.cache
    def quantize(cls, where, preset, profile="best"):
        out = cls.work / where / f"{preset}-{profile}"
        report = cls.work / where / f"{preset}-{profile}.json"
        done = quantctl("quantize", MODEL, "-o", out, "--server",
                        cls.servers[where].address, "--preset", preset,
                        "--profile", profile,
                        "--calibration", CALIBRATION, "--json", report)
        assert done.returncode == 0, done.stdout + done.stderr
        return read_checkpoint(out), json.loads(report.read_text())

    @classmethod
    def both(cls, *how):
        return cls.quantize("tested", *how), cls.quantize("cpu", *how)

    def assert_same_bytes(self, *how):
        (tested, _), (cpu, _) = self.both(*how)
        self.assertEqual(list(tested), list(cpu))
        for name, tensor in tested.items():
            self.assertEqual(tensor, cpu[name], name)

    def assert_as_good(self, preset):
        (tested, report), (cpu, wanted) = self.both(preset)
        self.assertEqual(list(tested), list(cpu))
        self.assertEqual({n: t[:2] for n, t in tested.items()},
                         {n: t[:2] for n, t in cpu.items()})
        want = {t["name"]: t["output_error"]
                for t in wanted["tensors"]}
        self.assertGreater(len(want), 5)
        total = {"got": 0.0, "want": 0.0}
        for tensor in report["tensors"]:
            name = tensor["name"]
            got = tensor["output_error"]
            self.assertLessEqual(abs(got - want[name]),
                                 TENSOR_TOLERANCE * want[name], name)
            total["got"] += got
            total["want"] += want[name]
        self.assertLessEqual(abs(total["got"] - total["want"]),
                             TOLERANCE * total["want"], total)

    def test_nf4(self):
        self.assert_same_bytes("NF4")

    def test_nf4_dq(self):
        self.assert_same_bytes("NF4-dq")

    def test_rtn(self):
        self.assert_same_bytes("W4A16")

    def test_hqq(self):
        self.assert_same_bytes("W4A16-hqq")

    def test_reference_profile(self):
        """What searches nothing has kernels of its own."""
        for preset in ("NF4-dq", "W4A16", "W4A16-hqq"):
            with self.subTest(preset):
                self.assert_same_bytes(preset, "reference")

    def test_gptq(self):
        self.assert_as_good("W4A16-gptq")

    def test_awq(self):
        self.assert_as_good("W4A16-awq")

    def test_who_did_it(self):
        self.quantize("tested", "NF4")
        self.quantize("tested", "W4A16-gptq")
        done = quantctl("capabilities", "--server",
                        self.servers["tested"].address, "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        device = json.loads(done.stdout)["devices"][0]
        print(device, file=sys.stderr)
        self.assertFalse(device.get("lost"), device)
        self.assertEqual(int(device.get("host_calls", 0)), 0, device)
        if not ON_GPU:
            return
        self.assertEqual(device["name"], WORKERS.split(",")[0])
        self.assertGreater(int(device["memory_high_water_bytes"]), 0)
        # Without cuBLAS the host would have solved.
        self.assertNotIn("AWQ on the host", device["description"])

    def test_libraries_are_the_bundle_s(self):
        if not (BIN / "lib").is_dir():
            self.skipTest("not a bundle")
        maps = pathlib.Path(
            f"/proc/{self.servers['tested'].process.pid}/maps").read_text()
        loaded = {line.split(maxsplit=5)[-1] for line in maps.splitlines()
                  if re.search(r"\.so(\.|$)", line)}
        self.assertTrue(loaded)
        for path in sorted(loaded):
            name = pathlib.Path(path).name
            self.assertTrue(path.startswith(f"{BIN}/lib/") or
                            OF_THE_DRIVER.match(name), path)


if __name__ == "__main__":
    programs.main()
