"""`-` as a file is stdin or stdout; progress is a line now and then where there is no terminal."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from shell import Shell

from perpcs_cli.cli import console as talking
from perpcs_cli.cli.console import Console, spoken_seconds
from perpcs_cli.cli.process import spooled

RUN = "from perpcs_cli.cli.entry import run; run()"


def run(where: Path, line: str, data: bytes) -> subprocess.CompletedProcess[str]:
    """`perpcs LINE` with `data` on stdin."""
    command = [sys.executable, "-c", RUN, *line.split()]
    done = subprocess.run(command, cwd=where, input=data, capture_output=True, check=False)
    return subprocess.CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())


def test_predictions_are_evaluated_from_stdin(walked: Shell) -> None:
    data = (walked.root / "predictions" / "base.jsonl").read_bytes()
    piped = json.loads(run(walked.root, "eval - --resamples 0 --json", data).stdout)
    given = json.loads(walked("eval predictions/base.jsonl --resamples 0 --json").stdout)
    assert piped["systems"]["stdin"]["values"] == given["systems"]["base"]["values"]


def test_stdin_has_no_name_to_keep(walked: Shell) -> None:
    done = walked("eval - --resamples 0 --out new.json")
    assert done.exit_code == 2 and "stdin has none" in done.stderr


def test_predictions_go_to_stdout(walked: Shell) -> None:
    done = walked("predict --base --max-new-tokens 8 --out -")
    assert done.stdout == (walked.root / "predictions" / "base.jsonl").read_text(encoding="utf-8")
    assert not (walked.root / "-").exists()


def test_users_go_through(walked: Shell) -> None:
    data = (walked.root / "users.jsonl").read_bytes()
    read = [json.loads(line) for line in run(walked.root, "import - --out -", data).stdout.splitlines()]
    assert read == [json.loads(line) for line in data.splitlines()]


@pytest.mark.parametrize("file", ["pool.json", "users.jsonl", "predictions/base.jsonl", "metrics/eval.json"])
def test_what_comes_from_stdin_is_shown(walked: Shell, file: str) -> None:
    kind = json.loads(walked(f"show {file} --json").stdout)["kind"]
    assert json.loads(run(walked.root, "show - --json", (walked.root / file).read_bytes()).stdout)["kind"] == kind


def test_other_files_are_read_where_they_are(tmp_path: Path) -> None:
    with spooled(tmp_path / "x") as file:
        assert file == tmp_path / "x"


def test_progress_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr(talking.time, "monotonic", lambda: float(next(clock)))
    with Console().progress("sharers", 10) as bar:
        for _ in range(4):
            bar.advance()
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "sharers: 2 of 10, 0.05 a second, 2 min 40 s left",
        "sharers: 4 of 10, 0.05 a second, 2 min 0 s left",
    ]


BAR = """
import time
from perpcs_cli.cli import console
console.PATIENCE_SECONDS, console.EVERY_SECONDS = 0.0, 0.05
with console.Console().progress("a sharer with a long name and 3 more", 1234) as bar:
    for _ in range(12):
        time.sleep(0.03)
        bar.advance(100, "loss 1.235")
"""


@pytest.mark.parametrize(("columns", "term"), [(60, "xterm"), (100, "xterm"), (60, "dumb")])
def test_progress_fits_into_the_window_and_has_no_colours_where_none_are_wanted(columns: int, term: str) -> None:
    parent, child = pty.openpty()
    own = {"COLUMNS": str(columns), "TERM": term, "NO_COLOR": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", BAR], stderr=child, env={**os.environ, **own})
    os.close(child)
    shown = ""
    with contextlib.suppress(OSError):  # how Linux says that the other end is closed
        while part := os.read(parent, 1 << 16):
            shown += part.decode()
    os.close(parent)
    assert process.wait() == 0, shown
    assert not re.search(r"\x1b\[[0-9;]*m", shown)
    assert ("\x1b" in shown) == (term != "dumb")
    if term == "dumb":
        assert " of 1234, " in shown
        return
    pictures = [line for line in re.split(r"\r|\n|\x1b\[[0-9?]*[A-Za-z]", shown) if "/1234" in line]
    assert pictures
    for line in pictures:
        assert len(line) <= columns
        assert re.search(r"\d/1234 ", line) and ("loss 1.235" in line or "1.2" not in line)
    assert ("━" in shown) == (columns == 100)


@pytest.mark.parametrize("silent", [{"quiet": True}, {"json": True}])
def test_nobody_is_told_who_does_not_listen(
    silent: dict[str, bool], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(talking, "EVERY_SECONDS", 0.0)
    with Console(**silent).progress("sharers", 2) as bar:
        bar.advance()
    assert capsys.readouterr().err == ""


def test_times_are_spoken() -> None:
    assert [spoken_seconds(one) for one in (3.4, 75, 7384)] == ["3 s", "1 min 15 s", "2 h 3 min"]
