"""Locks: the second process waits for the first, and a killed one holds nothing."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from helpers import names

from perpcs_cli.artifacts.io.lock import locked
from perpcs_cli.errors import PerpcsError

HOLD = """
import sys
from pathlib import Path
from perpcs_cli.artifacts.io.lock import locked

place = Path(sys.argv[1])
with locked(place, print):
    print("held", flush=True)
    sys.stdin.readline()
    place.write_text("theirs")
"""

COUNT = """
import sys
import time
from pathlib import Path
from perpcs_cli.artifacts.io.lock import locked

place = Path(sys.argv[1])
for _ in range(5):
    with locked(place, lambda message: None):
        count = int(place.read_text())
        time.sleep(0.01)
        place.write_text(str(count + 1))
"""


def started(program: str, place: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, str(place)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def shared(place: Path) -> AbstractContextManager[subprocess.Popen[str]]:
    """The same of a process that shares the lock."""
    return held(place, HOLD.replace("print)", "print, shared=True)"))


@contextmanager
def held(place: Path, program: str = HOLD) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of `place` until it is given a line, and then writes it."""
    with started(program, place) as other:
        try:
            assert other.stdout.readline() == "held\n"
            yield other
        finally:
            other.kill()


def test_while_it_is_held_its_file_lies_beside_the_place(tmp_path):
    place = tmp_path / "new" / "pool.json"
    with locked(place, pytest.fail):
        assert names(place.parent) == [".pool.json.perpcs.lock"]
    assert names(place.parent) == []


def test_the_file_is_gone_after_an_error_too(tmp_path):
    with pytest.raises(ValueError, match="boom"), locked(tmp_path / "place", pytest.fail):
        raise ValueError("boom")
    assert names(tmp_path) == []
    with locked(tmp_path / "place", pytest.fail):
        pass


def test_the_second_process_waits_and_is_told_for_whom(tmp_path):
    place = tmp_path / "place"
    told = []
    with held(place) as other:

        def waiting(message):
            told.append((message, place.exists()))
            other.communicate("go on\n")

        with locked(place, waiting):
            assert place.read_text() == "theirs"
    who = f"process {other.pid} on {socket.gethostname()}"
    assert told == [(f"waiting for {who}, which writes {place}", False)]
    assert names(tmp_path) == ["place"]


def test_another_place_is_free(tmp_path):
    with held(tmp_path / "place"), locked(tmp_path / "other", pytest.fail):
        pass


def test_a_killed_process_holds_nothing(tmp_path):
    with held(tmp_path / "place") as other:
        other.kill()
        other.wait()
        assert names(tmp_path) == [".place.perpcs.lock"]
        with locked(tmp_path / "place", pytest.fail):
            pass
    assert names(tmp_path) == []


def test_nothing_is_told_of_whoever_was_killed(tmp_path):
    place = tmp_path / "place"
    (tmp_path / ".place.perpcs.lock").write_text("process 123456789123456789 on " + "a" * 200)
    told = []
    with held(place) as other:

        def waiting(message):
            told.append(message)
            other.communicate("go on\n")

        with locked(place, waiting):
            pass
    assert told == [f"waiting for process {other.pid} on {socket.gethostname()}, which writes {place}"]


def test_several_that_wait_come_one_after_the_other(tmp_path):
    """Also where the file for which they wait was deleted meanwhile."""
    place = tmp_path / "count"
    place.write_text("0")
    processes = [started(COUNT, place) for _ in range(3)]
    for process in processes:
        process.communicate()
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert (place.read_text(), names(tmp_path)) == ("15", ["count"])


def test_those_who_share_hold_it_at_once(tmp_path):
    place = tmp_path / "place"
    with shared(place) as one, shared(place) as other:
        with locked(place, pytest.fail, shared=True):
            pass
        # Who still holds it keeps the file.
        assert names(tmp_path) == [".place.perpcs.lock"]
        told = []

        def waiting(message):
            told.append(message)
            one.communicate("go on\n")
            other.communicate("go on\n")

        with locked(place, waiting):
            assert (one.returncode, other.returncode) == (0, 0)
    assert len(told) == 1
    assert names(tmp_path) == ["place"]


def test_who_shares_waits_for_who_does_not(tmp_path):
    place = tmp_path / "place"
    told = []
    with held(place) as other:

        def waiting(message):
            told.append(message)
            other.communicate("go on\n")

        with locked(place, waiting, shared=True):
            assert place.read_text() == "theirs"
    assert told == [f"waiting for process {other.pid} on {socket.gethostname()}, which writes {place}"]
    assert names(tmp_path) == ["place"]


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(PerpcsError, match="file/x: cannot be written"), locked(tmp_path / "file" / "x", pytest.fail):
        pass
