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


if __name__ == "__main__":
    programs.main()
