#!/usr/bin/env python3
"""quantctl with a calibration against a real quantd: what goes wrong.

    quantctl_calibration_faults_test.py BIN_DIR [TEST...]
"""
import array
import json
import pathlib
import struct
import subprocess
import tempfile
import time

import programs
from checkpoints import (CALIBRATION, MODEL, make_big, read_checkpoint,
                         read_safetensors, write_safetensors)
from programs import BIN, Server, quantctl

LAYER = "model.layers.1."
FEW = ("--include", LAYER + "self_attn.*")
WITH = ("--calibration", CALIBRATION)


class CalibrationFaultsTest(programs.QuantctlCase):
    def other_calibration(self, change):
        """A calibration file with `change` made to (tensors, inputs)."""
        tensors, metadata = read_safetensors(CALIBRATION)
        inputs = json.loads(metadata["inputs"])
        change(tensors, inputs)
        metadata["inputs"] = json.dumps(inputs)
        path = self.work / "other.safetensors"
        write_safetensors(path, tensors, metadata)
        return path

    def refused(self, method, path, code, *says):
        """Nothing was sent: no Quantize call is in the server's log."""
        with tempfile.TemporaryDirectory() as place:
            server = Server(place, "--log-level", "debug")
            flags = () if path is None else ("--calibration", path)
            try:
                done = quantctl("quantize", MODEL, "-o", self.work / "out",
                                "--method", method, *flags, "--server",
                                server.address)
            finally:
                server.close()
            log = (pathlib.Path(place) / "quantd.log").read_text()
        self.assert_failed(done, code, *says)
        self.assertIn('"rpc":"PlanCheckpoint"', log)
        self.assertNotIn('"rpc":"Quantize"', log)
        self.assertFalse((self.work / "out").exists())

    def test_calibration_missing(self):
        for method in ("gptq", "awq"):
            self.refused(method, None, 2, "--calibration", method)
        self.refused("gptq", self.work / "none", 5, "none")

    def test_calibration_of_another_model(self):
        def rename(tensors, inputs):
            for name in inputs:
                inputs[name] = ["other." + module for module in inputs[name]]
        path = self.other_calibration(rename)
        for method in ("gptq", "rtn"):
            self.refused(method, path, 5, "other.safetensors")

    def test_calibration_without_a_site(self):
        def drop(tensors, inputs):
            for layer in (1, 2):
                del tensors[f"model.layers.{layer}.mlp.down"]
                del inputs[f"model.layers.{layer}.mlp.down"]
        path = self.other_calibration(drop)
        self.refused("awq", path, 5, "model.layers.1.mlp.down_proj.weight",
                     "model.layers.2.mlp.down_proj.weight")
        # Without the need for it the others get their output error.
        file = self.work / "report.json"
        self.quantize_ok(MODEL, self.work / "out", "--method", "rtn",
                         "--calibration", path, "--json", file)
        summary = json.loads(file.read_text())["summary"]
        self.assertEqual(summary["tensors"] - summary["with_output_error"], 2)

    def test_calibration_of_another_size(self):
        def swap(tensors, inputs):
            down, o = "model.layers.1.mlp.down", "model.layers.1.self_attn.o"
            tensors[down], tensors[o] = tensors[o], tensors[down]
        self.refused("gptq", self.other_calibration(swap), 5,
                     "inputs", "256", "768")

    def test_calibration_not_finite(self):
        def spoil(tensors, inputs):
            name = "model.layers.1.mlp.down"
            dtype, shape, data = tensors[name]
            tensors[name] = (dtype, shape, struct.pack("<e", float("inf"))
                             + data[2:])
        path = self.other_calibration(spoil)
        done = self.quantize(MODEL, self.work / "out", "--method", "gptq",
                             "--calibration", path)
        self.assert_failed(done, 5, "model.layers.1.mlp.down",
                           "no output was written")
        self.assertFalse((self.work / "out").exists())

    def test_fail_on_warning(self):
        """Moments without a relation between inputs leave GPTQ nothing to do:
        its codes are those of rounding, which is a warning."""
        def flatten(tensors, inputs):
            for name, (_, (_, n), _) in list(tensors.items()):
                del tensors[name]
                identity = array.array("f", bytes(4 * n * n))
                for i in range(n):
                    identity[i * n + i] = 100
                tensors[name + ".second_moment"] = ("F32", [n, n],
                                                    identity.tobytes())
                tensors[name + ".abs_sum"] = (
                    "F32", [n], array.array("f", [100] * n).tobytes())
                tensors[name + ".token_count"] = ("I64", [1],
                                                  struct.pack("<q", 100))
        path = self.other_calibration(flatten)
        flags = (*FEW, "--method", "gptq", "--profile", "reference",
                 "--range-search", "min-max", "--calibration", path)
        done = self.quantize_ok(MODEL, self.work / "a", *flags)
        self.assertIn("warning " + LAYER, done.stdout)
        self.assertIn("NO_CHANGE: ", done.stdout)
        file = self.work / "report.json"
        done = self.quantize(MODEL, self.work / "b", *flags,
                             "--fail-on-warning", "--json", file)
        self.assert_failed(done, 7, "--fail-on-warning", LAYER)
        self.assertEqual(read_checkpoint(self.work / "a"),
                         read_checkpoint(self.work / "b"))
        self.assertGreater(json.loads(file.read_text())["summary"]["warnings"],
                           0)
        self.quantize_ok(MODEL, self.work / "c", *FEW, "--method", "gptq",
                         *WITH, "--fail-on-warning")

    def make_wide(self, layers):
        """A checkpoint with large solve groups, and moments for it."""
        make_big(self.work / "in", 4 * layers, columns=512)
        weights, _ = read_safetensors(self.work / "in" / "model.safetensors")
        moments, inputs = {}, {}
        for name, (_, (_, n), _) in weights.items():
            module = name[:-len(".weight")]
            inputs[module] = [module]
            diagonal = array.array("f", bytes(4 * n * n))
            for i in range(n):
                diagonal[i * n + i] = 1 + i % 7
            moments[module + ".second_moment"] = ("F32", [n, n],
                                                  diagonal.tobytes())
            moments[module + ".abs_sum"] = (
                "F32", [n], array.array("f", [1] * n).tobytes())
            moments[module + ".token_count"] = ("I64", [1],
                                                struct.pack("<q", 64))
        path = self.work / "wide.safetensors"
        write_safetensors(path, moments, {"inputs": json.dumps(inputs)})
        return path

    def test_server_killed_in_a_group(self):
        """Its groups are sent again, whole, to the next server."""
        path = self.make_wide(6)
        flags = ("--method", "gptq", "--bits", "4", "--profile", "reference",
                 "--calibration", path)
        with tempfile.TemporaryDirectory() as place:
            first = Server(place, "--workers", "1")
            second = None
            client = subprocess.Popen(
                [BIN / "quantctl", "quantize", self.work / "in", "-o",
                 self.work / "out", *flags, "--server", first.address],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            try:
                deadline = time.monotonic() + 60
                while not list(self.work.glob(".out.quantctl-*")):
                    self.assertIsNone(client.poll(), "ended too early")
                    self.assertLess(time.monotonic(), deadline)
                    time.sleep(0.005)
                time.sleep(0.1)
                self.assertIsNone(client.poll(), "the input is too small")
                first.kill()
                port = first.address.rsplit(":", 1)[1]
                second = subprocess.Popen(
                    [BIN / "quantd", "--listen", "127.0.0.1:" + port],
                    stderr=subprocess.DEVNULL)
                output, error = client.communicate(timeout=300)
                self.assertEqual(client.returncode, 0, output + error)
                self.assertIn("trying again", error)
            finally:
                client.kill()
                first.close()
                if second is not None:
                    second.terminate()
                    second.wait(timeout=60)
        self.quantize_ok(self.work / "in", self.work / "calm", *flags)
        self.assertEqual(
            (self.work / "out" / "model.safetensors").read_bytes(),
            (self.work / "calm" / "model.safetensors").read_bytes())


if __name__ == "__main__":
    programs.main()
