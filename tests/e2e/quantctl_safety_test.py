#!/usr/bin/env python3
"""quantctl against a real quantd: what a careless user or a file from a stranger
must not be able to do.

    quantctl_safety_test.py BIN_DIR [TEST...]
"""
import os
import shutil

import programs
from checkpoints import MODEL
from programs import quantctl


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


if __name__ == "__main__":
    programs.main()
