#!/usr/bin/env python3
"""Checks the lock annotations (ABSL_GUARDED_BY, ...) with clang, which alone
understands them. Nothing is compiled, only parsed.

    thread_annotations_test.py BUILD_FOLDER     one that clang was configured for
"""
import concurrent.futures
import functools
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Where classes with locks are.
CHECKED = ("kernels/base/", "quant/", "service/")


LOCK = re.compile(r"absl::Mutex|ABSL_[A-Z_]+\(")
INCLUDE = re.compile(r'^#include "([^"]+)"', re.MULTILINE)


@functools.lru_cache(maxsize=None)
def sees_a_lock(file):
    """Whether the file, or a header of ours that it includes, has a lock: in
    the others there is nothing to find, and parsing them takes longest."""
    try:
        text = (ROOT / file).read_text()
    except FileNotFoundError:  # generated, or a library's
        return False
    return bool(LOCK.search(text)) or any(map(sees_a_lock, INCLUDE.findall(text)))


def command_of(entry):
    words = shlex.split(entry["command"])
    words = words[next(i for i, w in enumerate(words) if "clang" in w):]
    output = words.index("-o")
    return words[:output] + words[output + 2:] + [
        "-fsyntax-only", "-Wthread-safety", "-Werror=thread-safety"]


def check(entry):
    done = subprocess.run(command_of(entry), cwd=entry["directory"],
                          stderr=subprocess.PIPE, text=True)
    return done.returncode, done.stderr


def main():
    database = pathlib.Path(sys.argv[1]) / "compile_commands.json"
    entries = [e for e in json.loads(database.read_text())
               if e["file"].startswith(tuple(f"{ROOT}/{c}" for c in CHECKED))
               and sees_a_lock(e["file"])]
    # The check itself must be able to fail.
    probe = dict(entries[0], file="probe")
    source = ('#include "absl/synchronization/mutex.h"\n'
              "absl::Mutex m; int n ABSL_GUARDED_BY(m);\n"
              "int Get() { return n; }\n")
    words = [w for w in command_of(probe) if not w.endswith(".cc")]
    found = subprocess.run(words + ["-x", "c++", "-"], input=source, text=True,
                           cwd=probe["directory"], stderr=subprocess.PIPE)
    if "thread-safety" not in found.stderr:
        sys.exit("the check does not find a missing lock:\n" + found.stderr)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(check, entries))
    for code, text in results:
        if code != 0:
            print(text)
    bad = sum(code != 0 for code, _ in results)
    print(f"{len(entries)} files, {bad} with errors")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
