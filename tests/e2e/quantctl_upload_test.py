#!/usr/bin/env python3
"""quantctl upload against a real quantd, also one that is killed.

    quantctl_upload_test.py BIN_DIR [TEST...]
"""
import os
import pathlib
import random
import shutil
import subprocess
import tempfile
import time
import unittest

import programs
from checkpoints import MODEL, SEED, read_checkpoint, write_safetensors
from programs import BIN, Server, quantctl

BIG = 24 << 20  # bytes of a tensor that takes a while


class QuantctlUploadTest(unittest.TestCase):
    def setUp(self):
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="quantctl-e2e-"))
        self.addCleanup(shutil.rmtree, self.work, ignore_errors=True)
        self.servers = []
        self.addCleanup(lambda: [server.close() for server in self.servers])

    def serve(self, *flags, listen="127.0.0.1:0"):
        self.servers.append(Server(self.work, "--data-dir", self.work / "data",
                                   *flags, listen=listen))
        return self.servers[-1]

    def upload(self, server, source, *flags):
        done = quantctl("upload", source, "--server", server.address, *flags)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        names = dict(reversed(line.split(" ", 1))
                     for line in done.stdout.splitlines())
        return names, done.stderr.splitlines()[-1]

    def stored(self):
        blobs = self.work / "data" / "blobs" / "blobs"
        return sorted(path.name for path in blobs.rglob("*")
                      if path.is_file() and path.suffix != ".crc")

    def big(self):
        rng = random.Random(SEED)
        path = self.work / "big.safetensors"
        write_safetensors(path, {
            f"layers.{i}.weight": ("U8", [BIG], rng.randbytes(BIG))
            for i in range(6)})
        return path

    def test_a_second_run_sends_nothing(self):
        server = self.serve()
        names, said = self.upload(server, MODEL)
        self.assertEqual(names.keys(), read_checkpoint(MODEL).keys())
        self.assertIn("; 0 were there", said)
        stored = self.stored()
        again, said = self.upload(server, MODEL, "--streams", "4")
        self.assertEqual(again, names)
        self.assertIn("sent 0 tensors, 0 B;", said)
        self.assertEqual(self.stored(), stored)
        server.close()
        again, said = self.upload(self.serve(), MODEL)
        self.assertEqual(again, names)
        self.assertIn("sent 0 tensors, 0 B;", said)

    def test_selection(self):
        server = self.serve()
        names, _ = self.upload(server, MODEL, "--include", "*q_proj*",
                               "--exclude", "*layers.0.*")
        self.assertTrue(names)
        for name in names:
            self.assertIn("q_proj", name)
            self.assertNotIn("layers.0.", name)
        done = quantctl("upload", MODEL, "--include", "none", "--server",
                        server.address)
        self.assertEqual(done.returncode, 2, done.stderr)

    def test_goes_on_after_killed_servers(self):
        """The client stays; what it sends in all is little more than once."""
        source = self.big()
        server = self.serve()
        client = subprocess.Popen(
            [BIN / "quantctl", "upload", source, "--server", server.address],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3):
            time.sleep(0.15)
            server.kill()
            server = self.serve(listen=server.address)
        out, error = client.communicate(timeout=120)
        self.assertEqual(client.returncode, 0, out + error)
        self.assertIn("trying again", error)
        self.assertEqual(len(out.splitlines()), 6)
        self.assertEqual(len(self.stored()), 6)
        self.assertEqual(os.listdir(self.work / "data/blobs/staging"), [])
        self.assertIn("sent 0 tensors", self.upload(server, source)[1])

    def test_goes_on_after_a_killed_client(self):
        source = self.big()
        server = self.serve()
        client = subprocess.Popen(
            [BIN / "quantctl", "upload", source, "--server", server.address],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        staging = self.work / "data/blobs/staging"
        deadline = time.monotonic() + 30
        while not any(f.stat().st_size for f in staging.iterdir()):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        client.kill()
        client.wait()
        names, said = self.upload(server, source)
        self.assertEqual(len(names), 6)
        self.assertEqual(len(self.stored()), 6)
        self.assertIn("sent", said)

    def test_failures(self):
        gone = quantctl("upload", MODEL, "--server", "127.0.0.1:1")
        self.assertEqual(gone.returncode, 4, gone.stderr)
        bad = quantctl("upload", self.work / "none", "--server", "127.0.0.1:1")
        self.assertEqual(bad.returncode, 5, bad.stderr)
        server = self.serve("--max-store-bytes", "1000")
        full = quantctl("upload", MODEL, "--server", server.address)
        self.assertEqual(full.returncode, 4, full.stderr)
        self.assertIn("DISK_FULL", full.stderr)


if __name__ == "__main__":
    programs.main()
