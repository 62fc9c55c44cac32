#!/usr/bin/env python3
"""quantctl with a token against a quantd with an access file, and the README's
worked example of both.

    access_test.py BIN_DIR [TEST...]
"""
import hashlib
import json
import pathlib
import re
import shlex
import subprocess
import tempfile

import programs
from checkpoints import MODEL
from programs import BIN, Server, quantctl

ROOT = pathlib.Path(__file__).resolve().parents[2]


def entry(token, role):
    return {"sha256": hashlib.sha256(token.encode()).hexdigest(),
            "project": "team-a", "role": role}


class AccessTest(programs.QuantctlCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.access = cls.shared / "access.json"
        cls.access.write_text(json.dumps(
            {"tokens": [entry("a" * 64, "user"), entry("b" * 64, "reader")]}))
        cls.place = tempfile.TemporaryDirectory()
        cls.closed = Server(cls.place.name, "--access-file", cls.access)

    @classmethod
    def tearDownClass(cls):
        cls.closed.close()
        cls.place.cleanup()
        super().tearDownClass()

    def token(self, text):
        path = self.work / "token"
        path.write_text(text)
        return ("--server", self.closed.address, "--token-file", path)

    def log(self):
        return (pathlib.Path(self.place.name) / "quantd.log").read_text()

    def test_roles(self):
        user = self.token("a" * 64 + "\n")
        self.run_ok("capabilities", *user)
        self.run_ok("quantize", MODEL, "-o", self.work / "out", "--preset",
                    "NF4", *user)
        reader = self.token("b" * 64)
        self.run_ok("plan", MODEL, "--preset", "NF4", *reader)
        self.assert_failed(
            quantctl("quantize", MODEL, "-o", self.work / "other", "--preset",
                     "NF4", *reader),
            4, "role: got reader, allowed from user on (ROLE_TOO_LOW)")
        self.assert_names("out", "token")

    def test_unknown(self):
        self.assert_failed(quantctl("capabilities", *self.token("c" * 64)), 4,
                           "UNKNOWN_CREDENTIAL")
        self.assert_failed(
            quantctl("capabilities", "--server", self.closed.address), 4,
            "NO_CREDENTIAL")
        # Health is for everybody.
        self.run_ok("health", "--server", self.closed.address)
        self.assertNotIn("c" * 64, self.log())

    def test_token_files(self):
        self.assert_failed(quantctl("capabilities", *self.token("\n")), 2,
                           "--token-file: got nothing")
        self.assert_failed(quantctl("capabilities", *self.token("a b")), 2,
                           "--token-file: got other characters")
        self.assert_failed(
            quantctl("capabilities", "--token-file", self.work / "no"), 2,
            "--token-file: ")

    def test_no_token_in_plaintext_beyond_loopback(self):
        flags = self.token("a" * 64)[2:]
        for address in ("quantd.example:50051", "192.0.2.1:50051",
                        "dns:///localhost:50051"):
            self.assert_failed(
                quantctl("capabilities", "--server", address, *flags), 2,
                f"--token-file: got --server {address} without TLS")

    def test_readme(self):
        """The block of the section on access, on a port and in a folder of its
        own."""
        section = (ROOT / "README.md").read_text().split("### Access\n")[1]
        block = re.search(r"(?:^    .*\n)+", section, re.M).group(0)
        port_file = self.work / "port"
        script = re.sub(r"^    ", "", block, flags=re.M)
        script = script.replace("/tmp/", f"{self.work}/")
        script = script.replace("build/release/bin",
                                shlex.quote(str(BIN)))
        script = script.replace(
            "quantd --access-file",
            f"quantd --listen 127.0.0.1:0 --port-file {port_file} "
            "--access-file")
        # The server takes a moment, for people as for this script.
        script = script.replace(" &\n", f""" &
            server=$!
            for i in $(seq 300); do [ -s {port_file} ] && break; sleep 0.1; done
            address=127.0.0.1:$(cat {port_file})
            """)
        script = script.replace("--token-file",
                                "--server $address --token-file")
        script += "kill $server\nwait $server\n"
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", script],
                              text=True, capture_output=True, timeout=120)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("API quant.v1", done.stdout)
        self.assertEqual((self.work / "token").stat().st_mode & 0o77, 0)


if __name__ == "__main__":
    programs.main()
