#!/usr/bin/env python3
"""The README's section on metrics: its commands run, and its table is what a
server says, no more and no less.

    metrics_test.py BIN_DIR [TEST...]
"""
import json
import pathlib
import re
import socket
import subprocess
import tempfile
import unittest

import programs
from checkpoints import MODEL
from programs import Server, quantctl

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Only where there is TLS or a GPU, or once something was refused or damaged.
SOMETIMES = {"quantd_gpu_memory_bytes", "quantd_gpu_kernel_seconds_total",
             "quantd_chunk_crc_errors_total",
             "quantd_blob_corrupt_total", "quantd_upload_resumes_total",
             "quantd_admission_rejections_total", "quantd_job_crashes_total",
             "quantd_jobs_quarantined_total",
             "quantd_tls_certificate_not_after_timestamp_seconds"}


def section():
    text = (ROOT / "README.md").read_text()
    return text.split("### Metrics, logs and traces\n")[1].split("\n###")[0]


def documented():
    names = set()
    for row in re.findall(r"^\| (`.*?) \|", section(), re.M):
        for name in re.findall(r"`([a-z_.]+)`", row):
            # `..._bytes_total` repeats the first name up to its last words.
            if name.startswith("..."):
                name = "quantd_quantized" + name[3:]
            names.add(name)
    return names


class MetricsTest(unittest.TestCase):
    def setUp(self):
        self.place = tempfile.TemporaryDirectory()
        self.addCleanup(self.place.cleanup)
        self.results = pathlib.Path(self.place.name) / "results"
        self.results.mkdir()
        self.server = Server(self.place.name, "--metrics-listen",
                             "127.0.0.1:0", "--data-dir",
                             pathlib.Path(self.place.name) / "data",
                             "--read-root", MODEL.parent, "--write-root",
                             self.results)
        self.addCleanup(self.server.close)
        log = pathlib.Path(self.place.name) / "quantd.log"
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        self.port = next(line["metrics_port"] for line in lines
                         if line["event"] == "serving")

    def scrape(self):
        command = re.search(r"^    (curl .*)$", section(), re.M).group(1)
        command = command.replace("127.0.0.1:9464", f"127.0.0.1:{self.port}")
        return subprocess.run(command, shell=True, check=True, text=True,
                              capture_output=True, timeout=30).stdout

    def test_every_metric_is_in_the_readme(self):
        done = quantctl("quantize", MODEL, "-o",
                        pathlib.Path(self.place.name) / "out", "--preset",
                        "NF4", "--server", self.server.address)
        self.assertEqual(done.returncode, 0, done.stderr)
        done = quantctl("upload", MODEL, "--server", self.server.address)
        self.assertEqual(done.returncode, 0, done.stderr)
        done = quantctl("jobs", "create", MODEL, "-o", self.results / "job",
                        "--preset", "NF4", "--wait", "--server",
                        self.server.address)
        self.assertEqual(done.returncode, 0, done.stderr)
        text = self.scrape()
        served = {name for name, _ in re.findall(
            r"^# TYPE (\S+) (\w+)$", text, re.M)}
        self.assertEqual(served - documented(), set())
        self.assertEqual(documented() - served - SOMETIMES, set())

    def test_what_else_is_sent_there(self):
        """The process that all else runs in answers, and lives on."""
        requests = [b"GET / HTTP/1.1\r\n\r\n", b"GET /%n%s HTTP/1.1\r\n\r\n",
                    b"GET /../etc/passwd HTTP/1.1\r\n\r\n",
                    b"POST /metrics HTTP/1.1\r\nContent-Length: 9\r\n\r\n",
                    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
                    b"\x16\x03\x01" * 1000, b"\r\n\r\n"]
        for request in requests:
            with socket.create_connection(("127.0.0.1", self.port),
                                          timeout=20) as connection:
                connection.sendall(request)
                connection.shutdown(socket.SHUT_WR)
                try:
                    answer = connection.recv(100)
                except ConnectionResetError:
                    answer = b""
            self.assertRegex(answer, rb"^(HTTP/1.1 [45]|$)", request[:20])
            self.assertIn("quantd_build_info", self.scrape())

    def test_names_and_types(self):
        """What promtool check metrics asks for."""
        text = self.scrape()
        types = dict(re.findall(r"^# TYPE (\S+) (\w+)$", text, re.M))
        helps = dict(re.findall(r"^# HELP (\S+) (.+)$", text, re.M))
        self.assertGreater(len(types), 10)
        for name, kind in types.items():
            self.assertIn(name, helps)
            self.assertEqual(name.endswith("_total"), kind == "counter", name)
            self.assertRegex(name, r"^(quantd|process)_[a-z_]+$")


if __name__ == "__main__":
    programs.main()
