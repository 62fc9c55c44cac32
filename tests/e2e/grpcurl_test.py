#!/usr/bin/env python3
"""Types every grpcurl line of the README against a real server.

    grpcurl_test.py BIN_DIR

Without grpcurl and Go (deploy/find-grpcurl.sh) the test is skipped (exit code
77), and says so.
"""
import base64
import json
import pathlib
import re
import shlex
import struct
import subprocess
import sys
import tempfile
import time
import urllib.parse

from checkpoints import make_small

ROOT = pathlib.Path(__file__).resolve().parents[2]
SKIPPED = 77


def find_grpcurl():
    found = subprocess.run([ROOT / "deploy" / "find-grpcurl.sh"],
                           stdout=subprocess.PIPE, text=True, check=False)
    return found.stdout.strip() if found.returncode == 0 else None


def readme_commands():
    """Indented blocks that start with grpcurl; a deeper indent continues one."""
    text = (ROOT / "README.md").read_text()
    return [m.group(0) for m in
            re.finditer(r"^    grpcurl .*(?:\n      .*)*", text, re.M)]


def json_values(text):
    decoder, values, at = json.JSONDecoder(), [], 0
    while text[at:].strip():
        at += len(text[at:]) - len(text[at:].lstrip())
        value, at = decoder.raw_decode(text, at)
        values.append(value)
    return values


def field(message, snake_name):
    """A field, by the name that the server's reflection gives grpcurl."""
    words = snake_name.split("_")
    camel = words[0] + "".join(w.capitalize() for w in words[1:])
    return message[snake_name] if snake_name in message else message[camel]


def check_quantize(output):
    values = json_values(output)
    kinds = [next(iter(v)) for v in values]
    assert kinds[0] == "accepted" and kinds[-1] == "summary", kinds
    assert "report" in kinds, kinds
    frames = {v["frame"]["tensor"]: v["frame"] for v in values if "frame" in v}
    assert set(frames) == {"w", "w.absmax", "w.quant_map",
                           "w.quant_state.bitsandbytes__nf4"}, set(frames)
    assert frames["w"]["dtype"] == "U8" and frames["w"]["shape"] == ["2", "1"]
    # By hand: 0.1, -0.2, 0.3 and 0.4 of 0.4 are 0.25, -0.5, 0.75 and 1. Either
    # profile takes NF4's entries 10 (0.2461), 2 (-0.5251), 14 (0.723) and
    # 15 (1), the first of each two in the high nibble.
    codes = base64.b64decode(frames["w"]["data"])
    assert codes == bytes([0xA2, 0xEF]), codes.hex()
    absmax, = struct.unpack("<f", base64.b64decode(frames["w.absmax"]["data"]))
    assert 0.39 < absmax < 0.41, absmax
    report = next(v["report"] for v in values if "report" in v)
    assert report["error"]["count"] == "4", report


def check_job(command, output, out):
    values = json_values(output)
    if "/WatchJob" in command:
        revisions = [int(v["revision"]) for v in values]
        assert revisions == sorted(revisions), revisions
        last = values[-1].get("change", {}).get("job",
                                                values[-1].get("snapshot"))
        assert last["state"] == "SUCCEEDED", last
        made = json.loads((out / "tiny-llama-gptq/config.json").read_text())
        method = made["quantization_config"]["quant_method"]
        assert method == "compressed-tensors", method
    elif "/ReadResult" in command:
        frames = {v["frame"]["tensor"] for v in values if "frame" in v}
        name = "model.layers.0.self_attn.k_proj.weight"
        assert name in frames and name + ".absmax" in frames, frames
        assert [v["report"]["name"] for v in values if "report" in v] == [name]
        assert values[-1]["end"]["complete"], values[-1]
    elif "/GetJob" in command:
        summary = values[0]["summary"]
        assert field(summary, "output_error") < field(
            summary, "rtn_output_error"), summary
    else:
        assert [j["state"] for j in values[0]["jobs"]] == ["SUCCEEDED"], values


def main():
    binaries = pathlib.Path(sys.argv[1])
    grpcurl = find_grpcurl()
    if grpcurl is None:
        print("skipped: neither grpcurl nor Go is installed")
        return SKIPPED
    commands = readme_commands()
    assert len(commands) >= 4, commands
    with tempfile.TemporaryDirectory() as work:
        port_file = pathlib.Path(work) / "port"
        here = pathlib.Path(work) / "a b"
        escaped = urllib.parse.quote(str(here))
        data, out = pathlib.Path(work) / "data", pathlib.Path(work) / "out"
        out.mkdir()
        # A smaller model of the name that the README has.
        read_root = here / "tests" / "data"
        make_small(read_root, layers=1)
        job = "JOB"
        server = subprocess.Popen(
            [binaries / "quantd", "--listen", "127.0.0.1:0", "--port-file",
             port_file, "--data-dir", data, "--read-root", read_root,
             "--write-root", out],
            stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 20
            while not (port_file.exists() and port_file.read_text().strip()):
                assert server.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)
            port = port_file.read_text().strip()
            for command in commands:
                # A folder may have spaces; its URI has them escaped.
                command = command.replace("'\"$PWD\"'", escaped)
                assert "$PWD" not in command, command
                typed = command.replace("127.0.0.1:50051", f"127.0.0.1:{port}")
                typed = typed.replace("/tmp/quantized", str(out))
                typed = typed.replace("JOB", job)
                typed = typed.replace("grpcurl", shlex.quote(grpcurl), 1)
                done = subprocess.run(["bash", "-c", typed], text=True,
                                      cwd=here, capture_output=True, timeout=60)
                assert done.returncode == 0, (typed, done.stdout, done.stderr)
                if "/CreateJob" in command:
                    job = json.loads(done.stdout)["name"].split("/")[-1]
                elif "JobService/" in command:
                    check_job(command, done.stdout, out)
                elif "/Quantize" in command:
                    check_quantize(done.stdout)
                elif "Health/Check" in command:
                    assert '"SERVING"' in done.stdout, done.stdout
                elif "GetCapabilities" in command:
                    limits = json.loads(done.stdout)["limits"]
                    assert field(limits, "max_message_bytes") == "4194304"
                else:
                    assert "quant.v1." in done.stdout, done.stdout
        finally:
            server.terminate()
            assert server.wait(timeout=40) == 0, "the server did not exit 0"
    print(f"{len(commands)} lines of the README typed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
