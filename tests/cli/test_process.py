"""Streams that are closed, full or of another encoding, and signals: real processes, and no traceback."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from perpcs_cli.cli import process
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.main import app

RUN = "import sys; sys.argv[0] = 'perpcs'; from perpcs_cli.cli.entry import run; run()"
WORDS = "é 🙂 \u2028"


def perpcs(line: str, redirections: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`perpcs LINE` in a shell, with redirections."""
    command = f'"{sys.executable}" -c "{RUN}" {line} {redirections}'
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, encoding="utf-8", env={**os.environ, **environment}, check=False
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no full device")
@pytest.mark.parametrize("line", ["model list", "model list --json", "completion bash", "--help", "model list --help"])
@pytest.mark.parametrize(("to", "why"), [("> /dev/full", "No space left on device"), (">&-", "Bad file descriptor")])
def test_a_result_that_cannot_be_written_is_an_error(line: str, to: str, why: str) -> None:
    done = perpcs(line, to)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"error: stdout: {why}\n")


@pytest.mark.parametrize("closed", ["2>&-", "<&-", "2> /dev/full", "<&- 2>&-"])
def test_talk_that_nobody_hears_is_no_error(closed: str, tmp_path: Path) -> None:
    done = perpcs(f"synth --count 2 --history 2 --queries 1 --out {tmp_path}/u.jsonl", closed)
    assert (done.returncode, done.stderr) == (0, "")
    assert len((tmp_path / "u.jsonl").read_text().splitlines()) == 2
    # Nothing but the users went into the file that was opened first.
    assert all(json.loads(line) for line in (tmp_path / "u.jsonl").read_text().splitlines())
    refused = perpcs(f"synth --out {tmp_path}/u.jsonl", closed)
    assert (refused.returncode, refused.stdout, "Traceback" in refused.stderr) == (2, "", False)


@pytest.mark.parametrize("reader", ["| true", "| head -n 1", "2>&1 | true"])
def test_a_reader_that_has_gone(reader: str) -> None:
    done = perpcs("model list", reader)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_characters_that_an_encoding_lacks(encoding: str) -> None:
    stream = process.Stream(io.BytesIO(), encoding, "stdout")
    stream.write(json.dumps({"user_id": WORDS}, ensure_ascii=False))
    stream.flush()
    assert json.loads(stream.buffer.getvalue().decode(encoding)) == {"user_id": WORDS}  # type: ignore[attr-defined]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_json_is_utf8_in_every_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = process.Stream(io.BytesIO(), encoding, "stdout")
    monkeypatch.setattr(sys, "stdout", stream)
    Console(json=True).result({"user_id": WORDS}, "")
    assert json.loads(stream.buffer.getvalue()) == {"user_id": WORDS}  # type: ignore[attr-defined]


def test_a_process_in_another_encoding(tmp_path: Path) -> None:
    users = [{"user_id": WORDS.replace(" ", ""), "queries": [{"id": "1", "input": WORDS}]}]
    (tmp_path / "u.jsonl").write_text("\n".join(map(json.dumps, users)))
    for where in ({"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}):
        done = perpcs(f"split --users-file {tmp_path}/u.jsonl --out {tmp_path}/new", "", **where)
        assert done.returncode == 3
        assert "Traceback" not in done.stderr


def test_a_file_that_the_locale_cannot_name(tmp_path: Path) -> None:
    line = "init é --task LaMP_4"
    done = perpcs(line, "", LC_ALL="C", PYTHONUTF8="0")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Set LC_ALL=C.UTF-8" in done.stderr


SLEEPER = """
import sys, time
from perpcs_cli.artifacts.io import atomic
from perpcs_cli.cli import entry
def asleep(*_, **__):
    print("ready", flush=True)
    time.sleep(30)
atomic._sync_file = asleep
sys.argv = ["perpcs", "synth", "--count", "2", "--out", sys.argv[1]]
entry.run()
"""


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_in_the_middle_of_a_write(name: str, code: int, tmp_path: Path) -> None:
    words = [sys.executable, "-c", SLEEPER, str(tmp_path / "users.jsonl")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.send_signal(getattr(signal, name))
        out, err = child.communicate(timeout=20)
    assert (child.returncode, out, err) == (code, "", "stopped; run the same command again to go on\n")
    assert list(tmp_path.iterdir()) == []


def test_a_signal_that_is_ignored_remains_ignored() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        process.heed_signals()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        with pytest.raises(process.Stopped) as stop:
            signal.raise_signal(signal.SIGTERM)
        assert stop.value.exit_code == 143
        # A second one does not stop the tidying up.
        signal.raise_signal(signal.SIGTERM)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("line", ["model list", "synth --out {path}"])
def test_ctrl_c(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Console, "result", interrupt)
    done = CliRunner().invoke(app, line.format(path=tmp_path / "u.jsonl").split())
    assert (done.exit_code, done.stdout) == (130, "")
    assert done.stderr.endswith("stopped; run the same command again to go on\n")


def test_too_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Console, "result", none)
    done = CliRunner().invoke(app, ["model", "list"])
    assert (done.exit_code, done.stderr.splitlines()[0]) == (1, "error: this machine has too little memory")


def test_what_breaks_lines_is_shown_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    process.talk("a\u2028b\x9bc\td\n")
    assert capsys.readouterr().err == "a\\u2028b\\u009bc\td\n"
