#!/usr/bin/env python3
"""quantctl against a real quantd: what goes wrong, and what is left then.

    quantctl_faults_test.py BIN_DIR [TEST...]
"""
import json
import os
import pathlib
import random
import shutil
import signal
import struct
import subprocess
import tempfile
import time

import programs
from checkpoints import (MODEL, SEED, make_big, random_bf16,
                         read_safetensors, write_safetensors)
from programs import BIN, Server, quantctl

QUANTIZE_LOGGED = '"rpc":"Quantize"'


class QuantctlFaultsTest(programs.QuantctlCase):
    def quantize_codes(self, place):
        """How the Quantize streams ended that the server has logged."""
        log = (pathlib.Path(place) / "quantd.log").read_text()
        whole = log[:log.rfind("\n") + 1].splitlines()
        return [json.loads(line)["code"] for line in whole
                if QUANTIZE_LOGGED in line]

    def test_refused_by_the_plan(self):
        """No stream is opened, so no weight was sent."""
        flags = ("--preset", "NF4", "--target", "vllm")
        with tempfile.TemporaryDirectory() as place:
            server = Server(place, "--log-level", "debug")
            try:
                address = ("--server", server.address)
                self.assert_failed(
                    quantctl("quantize", MODEL, "-o", self.work / "out",
                             *flags, *address), 3, "refused by the plan")
                self.assert_failed(quantctl("plan", MODEL, *flags, *address),
                                   3, "refused by the plan")
                self.assertEqual(self.quantize_codes(place), [])
                # A control, of one stream: what it logs comes after whatever
                # the refused commands would have.
                self.run_ok("quantize", MODEL, "-o", self.work / "out",
                            "--preset", "NF4", "--streams", "1", *address)
                deadline = time.monotonic() + 10
                while not self.quantize_codes(place):
                    self.assertLess(time.monotonic(), deadline)
                    time.sleep(0.05)
                self.assertEqual(self.quantize_codes(place), ["OK"])
            finally:
                server.close()
        self.assert_names("out")

    def test_output_that_would_harm_the_input(self):
        source = self.work / "in"
        shutil.copytree(MODEL, source)
        before = {p.name: p.read_bytes() for p in source.iterdir()}
        (self.work / "link").symlink_to("in")
        single = self.work / "w.safetensors"
        shutil.copy(MODEL / "model-00001-of-00002.safetensors", single)
        flags = ("--preset", "NF4", "--overwrite")
        for out in (source, self.work / "link", self.work, source / "out",
                    self.work / "link" / "out"):
            self.assert_failed(self.quantize(source, out, *flags), 6, "output")
        self.assert_failed(self.quantize(single, single, *flags), 6, "output")
        self.assert_failed(
            self.quantize(single, self.work / "q.safetensors", *flags,
                          "--json", single), 6, "w.safetensors")
        self.assertEqual({p.name: p.read_bytes() for p in source.iterdir()},
                         before)
        self.assertEqual(single.read_bytes(), (
            MODEL / "model-00001-of-00002.safetensors").read_bytes())
        self.assert_names("in", "link", "w.safetensors")

    def test_quantized_input_is_refused(self):
        out = self.work / "out"
        self.quantize_ok(MODEL, out, "--preset", "W4A16")
        self.assert_failed(self.quantize(out, self.work / "again", "--preset",
                                         "NF4"), 3, "SOURCE_QUANTIZED")
        self.assert_names("out")

    def test_quantized_tensors_that_are_left_out_are_carried(self):
        source, out = self.work / "in.safetensors", self.work / "out.safetensors"
        left_out = {"b.weight": ("F8_E4M3", [64, 64], bytes(range(64)) * 64),
                    "b.weight_scale": ("F32", [], b"\0\0\x80\x3f")}
        write_safetensors(source, {
            "a.weight": ("BF16", [64, 64], random_bf16(
                4096, random.Random(SEED))), **left_out})
        self.assert_failed(self.quantize(source, out, "--preset", "NF4"), 3,
                           "SOURCE_QUANTIZED", "b.weight")
        self.assert_failed(
            self.quantize(source, out, "--preset", "NF4", "--exclude",
                          "b.weight"), 3, "SOURCE_QUANTIZED", "b.weight_scale")
        done = self.quantize_ok(source, out, "--preset", "NF4", "--exclude",
                                "b.*")
        self.assertIn("CARRIED_QUANTIZED", done.stderr)
        got, _ = read_safetensors(out)
        self.assertIn("a.weight.absmax", got)
        self.assertEqual({name: got[name] for name in left_out}, left_out)
        self.assert_names("in.safetensors", "out.safetensors")

    def test_usage(self):
        self.assert_failed(self.quantize(MODEL, self.work / "out"), 2,
                           "--preset and --method")
        self.assert_failed(
            self.quantize(MODEL, self.work / "out", "--method", "nf4",
                          "--blocksize", "63"), 2, "block_size", "63")
        self.assert_failed(
            self.quantize(MODEL, self.work / "out", "--preset", "NF5"), 2,
            "preset", "NF5")
        self.assert_failed(
            self.quantize(MODEL, self.work / "out", "--preset", "NF4",
                          "--include", "no such tensor"), 2, "include")
        self.assert_names()

    def test_server_not_running(self):
        server = Server(self.work)
        server.kill()
        server.close()
        for name in ("port", "quantd.log"):
            (self.work / name).unlink()
        address = ("--server", server.address)
        self.assert_failed(quantctl("quantize", MODEL, "-o", self.work / "out",
                                    "--preset", "NF4", *address), 4,
                           server.address)
        self.assert_failed(quantctl("health", *address), 4)
        self.assert_failed(quantctl("capabilities", *address), 4)
        self.assert_names()

    def start_big(self, server, out):
        """A client in the middle of its streams; the server is stopped."""
        client = subprocess.Popen(
            [BIN / "quantctl", "quantize", self.work / "in", "-o", out,
             "--preset", "NF4", "--server", server.address],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(lambda: client.poll() is None and client.kill())
        deadline = time.monotonic() + 60
        while not list(self.work.glob(".out.quantctl-*")):
            self.assertIsNone(client.poll(), "ended before its streams began")
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.005)
        time.sleep(0.05)
        server.process.send_signal(signal.SIGSTOP)
        self.assertIsNone(client.poll(), "the input is too small")
        return client

    def end_early(self, act, code):
        make_big(self.work / "in", 256)
        with tempfile.TemporaryDirectory() as place:
            server = Server(place, "--workers", "1")
            try:
                client = self.start_big(server, self.work / "out")
                act(server, client)
                output, error = client.communicate(timeout=60)
                self.assertEqual(client.returncode, code, output + error)
            finally:
                server.close()
        self.assert_names("in")
        return error

    def test_server_killed(self):
        error = self.end_early(lambda server, client: server.kill(), 4)
        self.assertIn("127.0.0.1", error)
        self.assertIn("trying again (1 of 3)", error)
        self.assertIn("tried again 3 times; no output was written", error)

    def test_interrupt(self):
        self.end_early(lambda _, client: client.send_signal(signal.SIGINT),
                       130)

    def test_terminate(self):
        self.end_early(lambda _, client: client.terminate(), 143)

    def test_server_restarted_meanwhile(self):
        """The tensors without a report are sent again."""
        make_big(self.work / "in", 256)
        with tempfile.TemporaryDirectory() as place:
            first = Server(place, "--workers", "1")
            second = None
            try:
                client = self.start_big(first, self.work / "out")
                first.kill()
                port = first.address.rsplit(":", 1)[1]
                second = subprocess.Popen(
                    [BIN / "quantd", "--listen", "127.0.0.1:" + port],
                    stderr=subprocess.DEVNULL)
                output, error = client.communicate(timeout=200)
                self.assertEqual(client.returncode, 0, output + error)
            finally:
                first.close()
                if second is not None:
                    second.terminate()
                    second.wait(timeout=60)
        self.quantize_ok(self.work / "in", self.work / "calm", "--preset",
                         "NF4")
        self.assertEqual(
            (self.work / "out" / "model.safetensors").read_bytes(),
            (self.work / "calm" / "model.safetensors").read_bytes())

    def test_fewer_streams_than_asked_for(self):
        with tempfile.TemporaryDirectory() as place:
            server = Server(place, "--max-streams", "1")
            try:
                done = quantctl("quantize", MODEL, "-o", self.work / "out",
                                "--preset", "NF4", "--streams", "8",
                                "--server", server.address)
            finally:
                server.close()
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_tls(self):
        if not shutil.which("openssl"):
            self.skipTest("openssl is not installed")
        with tempfile.TemporaryDirectory() as name:
            place = pathlib.Path(name)
            cert, key = place / "cert.pem", place / "key.pem"
            subprocess.run(
                ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes",
                 "-keyout", key, "-out", cert, "-days", "2", "-subj",
                 "/CN=localhost", "-addext",
                 "subjectAltName=DNS:localhost,IP:127.0.0.1"],
                check=True, capture_output=True)
            server = Server(place, "--tls-cert", cert, "--tls-key", key,
                            "--tls-client-ca", cert)
            try:
                address = ("--server", server.address)
                mine = ("--tls-cert", cert, "--tls-key", key)
                self.run_ok("quantize", MODEL, "-o", self.work / "out",
                            "--preset", "NF4", *address, "--tls-ca", cert,
                            *mine)
                self.assert_failed(quantctl("health", *address), 4)
                self.assert_failed(
                    quantctl("health", *address, "--tls-ca", cert), 4)
                self.assert_failed(
                    quantctl("health", *address, "--tls-ca", place / "no"), 2,
                    "--tls-ca")
            finally:
                server.close()

    def test_output_not_writable(self):
        (self.work / "file").write_text("x")
        for out in (self.work / "no" / "out", self.work / "file" / "out",
                    "/proc/out"):
            self.assert_failed(self.quantize(MODEL, out, "--preset", "NF4"), 6)
        self.assert_failed(
            self.quantize(MODEL, self.work / "out", "--preset", "NF4",
                          "--json", self.work / "no" / "x.json"), 6, "no")
        (self.work / "photos").mkdir()
        (self.work / "photos" / "cat.jpg").write_text("cat")
        self.assert_failed(self.quantize(MODEL, self.work / "photos",
                                         "--preset", "NF4", "--overwrite"), 6)
        self.assert_names("file", "photos")
        self.assertEqual(os.listdir(self.work / "photos"), ["cat.jpg"])

    def test_disk_full(self):
        mount = self.work / "disk"
        mount.mkdir()
        if os.geteuid() != 0 or subprocess.run(
                ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", mount],
                capture_output=True).returncode != 0:
            self.skipTest("cannot mount a small tmpfs")
        try:
            done = self.quantize(MODEL, mount / "out", "--preset", "NF4")
            self.assert_failed(done, 6, "No space left")
            self.assertEqual(os.listdir(mount), [])
        finally:
            subprocess.run(["umount", mount], check=True)

    def bad(self, name, *says):
        done = self.quantize(self.work / name, self.work / "out", "--preset",
                             "NF4")
        self.assert_failed(done, 5, *says)

    def test_malformed_input(self):
        good = (MODEL / "model-00002-of-00002.safetensors").read_bytes()
        cases = {"short": good[:-100], "empty": b"",
                 "huge": struct.pack("<Q", 1 << 60) + b"{}",
                 "text": struct.pack("<Q", 8) + b"{not js}",
                 "hole": struct.pack("<Q", 80) + json.dumps(
                     {"w": {"dtype": "U8", "shape": [4],
                            "data_offsets": [4, 8]}}).encode().ljust(80)
                 + bytes(8)}
        for name, data in cases.items():
            (self.work / name).mkdir()
            (self.work / name / "model.safetensors").write_bytes(data)
            self.bad(name, "model.safetensors")
        (self.work / "none").mkdir()
        self.bad("none", ".safetensors")
        self.bad("absent", "absent")
        shutil.copytree(MODEL, self.work / "index")
        (self.work / "index" / "model-00002-of-00002.safetensors").unlink()
        self.bad("index", "model-00002-of-00002.safetensors")
        shutil.copytree(MODEL, self.work / "config")
        (self.work / "config" / "config.json").write_text("[1]")
        self.bad("config", "config.json")
        self.assertFalse((self.work / "out").exists())

    def test_not_finite_weight(self):
        source = self.work / "in"
        source.mkdir()
        rng = random.Random(SEED)
        for value in (b"\x80\x7f", b"\x80\xff", b"\xc0\x7f"):  # inf, -inf, NaN
            data = bytearray(random_bf16(256 * 128, rng))
            data[4:6] = value
            write_safetensors(source / "model.safetensors", {
                "a.weight": ("BF16", [256, 128], random_bf16(256 * 128, rng)),
                "b.weight": ("BF16", [256, 128], bytes(data))})
            self.bad("in", "NON_FINITE_INPUT", "b.weight",
                     "no output was written")
            self.assert_names("in")


if __name__ == "__main__":
    programs.main()
