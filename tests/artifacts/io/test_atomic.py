"""Files and directories that are never half-written, and never overwritten silently."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from helpers import names

from perpcs_cli.artifacts.io import atomic, typed_files
from perpcs_cli.artifacts.io.journal import Appender
from perpcs_cli.errors import PerpcsError, UsageError


def test_a_written_file_is_whole_and_ordinary(tmp_path):
    typed_files.write_text(tmp_path / "new" / "file", "é\n")
    assert (tmp_path / "new" / "file").read_bytes() == "é\n".encode()
    assert names(tmp_path / "new") == ["file"]
    plain = tmp_path / "plain"
    plain.touch()
    assert stat.S_IMODE((tmp_path / "new" / "file").stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(error), atomic.replacing(path) as temporary:
        temporary.write_text("half")
        raise error
    assert (path.read_text(), names(tmp_path)) == ("old", ["file"])


def test_a_failed_rename_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("old")

    def refuse(self, target):
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(PerpcsError, match="file: cannot be written: disk full"):
        typed_files.write_text(path, "new")
    assert (path.read_text(), names(tmp_path)) == ("old", ["file"])


def test_the_old_file_is_there_until_the_end(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with atomic.replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_a_directory_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "u"
    for content in ("first", "second"):
        with atomic.replacing_directory(path) as temporary:
            (temporary / content).write_text(content)
        assert names(path) == [content]
    assert names(tmp_path) == ["u"]


def test_a_failed_directory_leaves_the_old_one(tmp_path):
    path = tmp_path / "u"
    path.mkdir()
    (path / "old").touch()
    with pytest.raises(ValueError, match="boom"), atomic.replacing_directory(path) as temporary:
        (temporary / "new").touch()
        raise ValueError("boom")
    assert (names(path), names(tmp_path)) == (["old"], ["u"])


def test_two_renames_where_directories_cannot_change_places(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)
    test_a_directory_is_replaced_as_a_whole(tmp_path)


def test_nothing_but_a_file_is_replaced_by_a_file(tmp_path):
    (tmp_path / "there").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "there")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "directory").mkdir()
    for name, kind in (("link", "link"), ("pipe", "device"), ("directory", "directory")):
        with pytest.raises(UsageError, match=f"is a {kind}, where a file is to be written"):
            typed_files.write_text(tmp_path / name, "new")
    for name, kind in (("link", "link"), ("pipe", "device"), ("there", "file")):
        with (
            pytest.raises(UsageError, match=f"is a {kind}, where a directory is to be written"),
            atomic.replacing_directory(tmp_path / name),
        ):
            pass
    assert (tmp_path / "there").read_text() == "mine"
    assert names(tmp_path) == ["directory", "link", "pipe", "there"]


def test_what_cannot_be_written_is_told_beforehand(tmp_path):
    atomic.check_writable(tmp_path / "new" / "file")
    assert names(tmp_path / "new") == []
    (tmp_path / "file").touch()
    for write in (atomic.check_writable, Appender, lambda path: typed_files.write_text(path, "")):
        with pytest.raises(PerpcsError, match="file/x: cannot be written"):
            write(tmp_path / "file" / "x")


def test_nothing_is_overwritten_silently(tmp_path):
    (tmp_path / "empty").mkdir()
    atomic.refuse_existing(tmp_path / "missing", force=False)
    atomic.refuse_existing(tmp_path / "empty", force=False)
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path):
        with pytest.raises(UsageError, match="already exists"):
            atomic.refuse_existing(path, force=False)
        atomic.refuse_existing(path, force=True)
