"""quantd and quantctl as processes, and what tests of both share."""
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

from checkpoints import MODEL, SEED, read_checkpoint

# The folder of the programs, the first argument of every test here.
BIN = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()


class Server:
    def __init__(self, directory, *flags, listen="127.0.0.1:0"):
        port_file = pathlib.Path(directory) / "port"
        port_file.unlink(missing_ok=True)
        self.log = open(pathlib.Path(directory) / "quantd.log", "ab")
        self.process = subprocess.Popen(
            [BIN / "quantd", "--listen", listen, "--port-file", port_file,
             *flags], stderr=self.log)
        deadline = time.monotonic() + 30
        while not (port_file.exists() and port_file.read_text().strip()):
            assert self.process.poll() is None, "quantd did not start"
            assert time.monotonic() < deadline, "quantd gave no port"
            time.sleep(0.02)
        self.address = "127.0.0.1:" + port_file.read_text().strip()

    def kill(self):
        self.process.kill()
        self.process.wait()

    def close(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                self.kill()
        self.log.close()


def quantctl(*args, timeout=240):
    return subprocess.run([BIN / "quantctl", *map(str, args)], text=True,
                          capture_output=True, timeout=timeout)


class QuantctlCase(unittest.TestCase):
    """One server for all tests of a class, one work directory for each."""

    @classmethod
    def setUpClass(cls):
        cls.shared = pathlib.Path(tempfile.mkdtemp(prefix="quantctl-e2e-"))
        cls.server = Server(cls.shared)
        cls.source = read_checkpoint(MODEL)

    @classmethod
    def tearDownClass(cls):
        cls.server.close()
        exit_code = cls.server.process.returncode
        shutil.rmtree(cls.shared)
        assert exit_code == 0, f"quantd ended with {exit_code}"

    def setUp(self):
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="quantctl-e2e-"))
        self.addCleanup(shutil.rmtree, self.work, ignore_errors=True)

    def run_ok(self, *args):
        done = quantctl(*args)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done

    def quantize(self, source, out, *flags):
        return quantctl("quantize", source, "-o", out, "--server",
                        self.server.address, *flags)

    def quantize_ok(self, source, out, *flags):
        done = self.quantize(source, out, *flags)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done

    def assert_failed(self, done, code, *says):
        text = done.stdout + done.stderr
        self.assertEqual(done.returncode, code, text)
        for part in says:
            self.assertIn(part, done.stderr)

    def assert_names(self, *names):
        """Nothing else in the work directory, hidden files included."""
        self.assertEqual(sorted(os.listdir(self.work)), sorted(names))


def main():
    del sys.argv[1]
    print(f"seed {SEED}")
    unittest.main(verbosity=2)
