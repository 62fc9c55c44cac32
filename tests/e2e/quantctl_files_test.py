#!/usr/bin/env python3
"""quantctl against a real quantd: where --json and --html may go, what
--overwrite may not take away, and what is beside the files that it writes.

Devices and FIFOs are of the test's own: a mistake must not replace the
machine's.

    quantctl_files_test.py BIN_DIR [TEST...]
"""
import json
import os
import shutil
import signal
import stat
import subprocess
import threading
import time

import programs
from checkpoints import CALIBRATION, MODEL, write_safetensors
from programs import BIN, quantctl

NOBODY = 65534
# Nothing listens there: what is refused first needs no server.
ABSENT = ("--server", "127.0.0.1:1", "--preset", "NF4")


class QuantctlFilesTest(programs.QuantctlCase):
    def setUp(self):
        super().setUp()
        self.source = self.work / "in"
        shutil.copytree(MODEL, self.source)
        self.out = self.work / "out"

    def command(self, *flags):
        return ("quantize", self.source, "-o", self.out, *flags, "--preset",
                "NF4", "--server", self.server.address)

    def make_report(self):
        report = self.work / "report.json"
        self.run_ok(*self.command("--json", report))
        return report

    def run_with_pipe(self, *args, stdout=subprocess.PIPE):
        """Its result and what it wrote to the pipe, whose name is PIPE."""
        reader, writer = os.pipe()
        got = []
        with os.fdopen(reader, "rb") as pipe:
            thread = threading.Thread(target=lambda: got.append(pipe.read()))
            thread.start()
            try:
                done = subprocess.run(
                    [BIN / "quantctl", *(str(a).replace(
                        "PIPE", f"/dev/fd/{writer}") for a in args)],
                    stdout=stdout, stderr=subprocess.PIPE, timeout=240,
                    pass_fds=[writer])
            finally:
                os.close(writer)
                thread.join()
        return done, got[0].decode()

    def test_a_pipe_gets_the_report(self):
        """As of --json >(jq .)."""
        done, text = self.run_with_pipe(*self.command("--json", "PIPE"))
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("model.layers.0", json.dumps(json.loads(text)))
        report = self.work / "r.json"
        report.write_text(text)
        done, page = self.run_with_pipe("report", report, "--html", "PIPE")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertTrue(page.rstrip().endswith("</html>"), page[-50:])
        done, text = self.run_with_pipe(
            "compare", self.source, "--json", "PIPE", "--html",
            self.work / "page.html", "--server", self.server.address)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("rtn", text)
        json.loads(text)
        self.assert_names("in", "out", "page.html", "r.json")

    def test_standard_output_gets_the_report_behind_the_table(self):
        """Also where it goes to a file, and by the name that a shell has."""
        report = self.make_report()
        os.chmod(self.work, 0o755)
        table = self.run_ok("report", report).stdout
        # Who may not replace the machine's, should this fail; the build may lie
        # where others than root cannot go.
        user = NOBODY if os.getuid() == 0 else None
        program = shutil.copy(BIN / "quantctl", self.work)
        for name in ("/dev/fd/1", "/dev/stdout"):
            with open(self.work / "redirected", "w+") as out:
                done = subprocess.run(
                    [program, "report", report, "--html", name],
                    stdout=out, stderr=subprocess.PIPE, user=user, timeout=60)
                self.assertEqual(done.returncode, 0, done.stderr)
                out.seek(0)
                text = out.read()
            self.assertTrue(text.startswith(table), text[:200])
            self.assertTrue(text[len(table):].lower().startswith(
                "<!doctype html>"))
        done = subprocess.run([BIN / "quantctl", "report", report, "--html",
                               "/dev/fd/77"], capture_output=True, text=True)
        self.assert_failed(done, 6, '"/dev/fd/77": Bad file descriptor')

    def test_devices_fifos_and_links_stay(self):
        report = self.make_report()
        fifo, link = self.work / "fifo", self.work / "link"
        os.mkfifo(fifo)
        link.symlink_to("page.html")
        got = []
        reader = threading.Thread(
            target=lambda: got.append(fifo.read_text()), daemon=True)
        reader.start()
        self.run_ok("report", report, "--html", fifo)
        reader.join(timeout=60)
        self.assertTrue(stat.S_ISFIFO(os.lstat(fifo).st_mode))
        self.run_ok("report", report, "--html", link)
        self.assertEqual(os.readlink(link), "page.html")
        self.assertEqual((self.work / "page.html").read_text(), got[0])
        try:
            os.mknod(self.work / "full", stat.S_IFCHR | 0o600,
                     os.makedev(1, 7))
            open(self.work / "full", "w").close()
        except PermissionError:
            self.skipTest("devices are not allowed here")
        shutil.rmtree(self.out)
        done = quantctl(*self.command("--json", self.work / "full"))
        self.assert_failed(
            done, 6, f'write "{self.work}/full": No space left on device')
        self.assertTrue((self.out / "config.json").exists())
        self.assertTrue(stat.S_ISCHR(os.lstat(self.work / "full").st_mode))

    def test_the_wait_for_a_reader_ends_with_a_signal(self):
        """The output, which was complete, stays."""
        fifo = self.work / "fifo"
        os.mkfifo(fifo)
        client = subprocess.Popen(
            [BIN / "quantctl", *map(str, self.command("--json", fifo))],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 60
        while not self.out.exists():
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.02)
        time.sleep(0.3)
        self.assertIsNone(client.poll())
        client.terminate()
        error = client.communicate(timeout=20)[1]
        self.assertEqual(client.returncode, 143, error)
        self.assertIn("the output is complete, its report is not", error)
        self.assert_names("fifo", "in", "out")

    def test_refused_before_the_work(self):
        folder = self.work / "folder"
        folder.mkdir()
        allowed = "allowed: a regular file, a FIFO or a character device"
        for command in (["quantize", self.source, "-o", self.out, "--json"],
                        ["compare", self.source, "--json"],
                        ["compare", self.source, "--html"]):
            flags = ABSENT if command[0] == "quantize" else ABSENT[:2]
            self.assert_failed(quantctl(*command, folder, *flags), 6,
                               "got a directory, " + allowed)
        token = self.work / "token"
        token.write_text("secret\n")
        self.assert_failed(
            quantctl("quantize", self.source, "-o", self.out, "--json", token,
                     "--token-file", token, *ABSENT), 6, "a file of its own")
        self.assertEqual(token.read_text(), "secret\n")

    def test_a_pipe_that_nobody_reads_is_an_error(self):
        """Not the end by SIGPIPE, of which nothing would be said."""
        report = self.make_report()
        reader, writer = os.pipe()
        os.close(reader)
        with os.fdopen(writer, "wb"):
            done = subprocess.run(
                [BIN / "quantctl", "report", report, "--html",
                 f"/dev/fd/{writer}"], capture_output=True, text=True,
                pass_fds=[writer], timeout=60)
        self.assert_failed(done, 6, f'write "/dev/fd/{writer}": Broken pipe')

    def test_a_merge_that_ends_early_leaves_nothing(self):
        part = self.work / "part.safetensors"
        write_safetensors(
            part, {"site": ("BF16", [64, 2048], b"\x80\x3f" * 64 * 2048)},
            {"inputs": '{"site": ["module"]}'})
        for end, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            client = subprocess.Popen(
                [BIN / "quantctl", "calibration", "merge",
                 self.work / "sum.safetensors", *[part] * 200],
                stderr=subprocess.PIPE, text=True)
            deadline = time.monotonic() + 60
            while not list(self.work.glob(".sum.safetensors.quantctl-*")):
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.005)
            client.send_signal(end)
            error = client.communicate(timeout=60)[1]
            self.assertEqual(client.returncode, code, error)
            self.assertIn("ended by", error)
            self.assert_names("in", "part.safetensors")

    def test_two_reports_of_one_place_are_refused(self):
        """Also by links, and when it is not there yet."""
        page = self.work / "page.html"
        for name in ("link", "second"):
            (self.work / name).symlink_to("page.html")
        for there in (False, True):
            if there:
                page.write_text("page")
            for json_file, html in (("link", "page.html"), ("page.html", "link"),
                                    ("link", "second"), ("link", "link")):
                self.assert_failed(
                    quantctl("compare", self.source, "--json",
                             self.work / json_file, "--html", self.work / html,
                             *ABSENT[:2]), 6, "a file of its own")

    def test_a_folder_that_is_not_there_is_no_file(self):
        (self.work / "link").symlink_to("reports/")
        for name in ("reports/", "link"):
            self.assert_failed(
                quantctl("quantize", self.source, "-o", self.out, "--json",
                         f"{self.work}/{name}", *ABSENT), 6,
                "got the name of a folder, allowed: one without / at its end")
        self.assert_names("in", "link")

    def test_the_target_of_a_link_is_the_output(self):
        source = next(self.source.glob("*.safetensors"))
        link, new = self.work / "link.safetensors", self.work / "new.safetensors"
        link.symlink_to("new.safetensors")
        quantize = ("quantize", source, "-o", link, "--preset", "NF4")
        self.assert_failed(quantctl(*quantize, *ABSENT[:2]), 6,
                           "got a name that exists")
        for _ in ("new", "replaced"):
            self.run_ok(*quantize, "--overwrite", "--server",
                        self.server.address)
            self.assertEqual(os.readlink(link), "new.safetensors")
            self.assertTrue(stat.S_ISREG(os.lstat(new).st_mode))
        self.assert_names("in", "link.safetensors", "new.safetensors")

    def test_overwrite_takes_away_nothing_that_is_read(self):
        self.run_ok(*self.command())
        config = '{"preset": "NF4"}'
        files = {"c.safetensors": CALIBRATION.read_bytes(),
                 "config": config.encode(), "token": b"secret\n",
                 "ca.pem": b"no certificate"}
        for name, data in files.items():
            (self.out / name).write_bytes(data)
        (self.work / "link").symlink_to("out/c.safetensors")
        before = {p.name: p.read_bytes() for p in self.out.iterdir()}
        quantize = ("quantize", self.source, "-o", self.out, "--overwrite",
                    *ABSENT)
        for flags in (["--calibration", self.out / "c.safetensors"],
                      ["--calibration", self.work / "link"],
                      ["--config", self.out / "config"],
                      ["--token-file", self.out / "token"],
                      ["--tls-ca", self.out / "ca.pem"]):
            self.assert_failed(quantctl(*quantize, *flags), 6,
                               "which is read, allowed: another place")
        # An input whose shards lie in OUT.
        links = self.work / "links"
        links.mkdir()
        for path in self.out.glob("*.*"):
            if path.suffix in (".json", ".safetensors"):
                (links / path.name).symlink_to(path)
        self.assert_failed(
            quantctl("quantize", links, "-o", self.out, "--overwrite", *ABSENT),
            6, "a directory that holds some of it")
        # --json below OUT.
        self.assert_failed(quantctl(*quantize, "--json", self.out / "r.json"),
                           6, "a file of its own")
        self.assertEqual({p.name: p.read_bytes() for p in self.out.iterdir()},
                         before)

    def test_a_neighbour_of_the_report_stays(self):
        neighbour = self.work / "k.json.tmp"
        neighbour.write_text("mine")
        os.mkfifo(self.work / "m.safetensors.tmp")
        self.run_ok(*self.command("--json", self.work / "k.json"))
        self.assertEqual(neighbour.read_text(), "mine")
        # A file that a killed run would have left of the same name goes.
        gone = subprocess.Popen(["true"])
        gone.wait()
        left = self.work / f".k.json.quantctl-{gone.pid}"
        left.mkdir()
        (left / "k.json.tmp").write_text("half")
        self.run_ok(*self.command("--overwrite", "--json",
                                  self.work / "k.json"))
        self.run_ok("calibration", "merge", self.work / "m.safetensors",
                    CALIBRATION, CALIBRATION)
        self.assert_names("in", "k.json", "k.json.tmp", "m.safetensors",
                          "m.safetensors.tmp", "out")

    def test_a_calibration_replaces_files_only(self):
        fifo = self.work / "fifo"
        os.mkfifo(fifo)
        self.assert_failed(
            quantctl("calibration", "merge", fifo, CALIBRATION, CALIBRATION,
                     "--overwrite"), 6, "got a FIFO, device or socket")
        token = self.work / "token"
        token.write_text("secret\n")
        self.assert_failed(
            quantctl("calibrate", "export", "c", "-o", token, "--overwrite",
                     "--token-file", token, *ABSENT[:2]), 6,
            "a file of its own")
        self.assertEqual(token.read_text(), "secret\n")
        self.assertTrue(stat.S_ISFIFO(os.lstat(fifo).st_mode))


if __name__ == "__main__":
    programs.main()
