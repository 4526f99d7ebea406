"""What nobody holds is swept away, and nothing else."""

from __future__ import annotations

from pathlib import Path

from helpers import names

from perpcs_cli.artifacts.io import atomic, leftovers
from perpcs_cli.artifacts.io.lock import locked


def test_a_kill_between_the_two_renames_is_mended(tmp_path, monkeypatch):
    path = tmp_path / "u"
    path.mkdir()
    (path / "old").touch()

    def killed(room, ignore_errors):
        """A killed process cleans nothing up."""

    monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda self, to: None if to == path else rename(self, to))
    monkeypatch.setattr(atomic.shutil, "rmtree", killed)
    with atomic.replacing_directory(path) as temporary:
        (temporary / "new").touch()
    assert not path.exists()
    monkeypatch.undo()
    leftovers.sweep(tmp_path)
    assert (names(path), names(tmp_path)) == (["old"], ["u"])


def test_only_what_nobody_is_writing_is_swept_away(tmp_path):
    dead = tmp_path / ".dead.x.perpcs.tmp"
    dead.mkdir()
    (dead / "half").touch()
    (tmp_path / ".mine.tmp").mkdir()
    (tmp_path / ".link.perpcs.tmp").symlink_to(tmp_path / ".mine.tmp")
    with atomic.replacing(tmp_path / "file") as temporary:
        temporary.touch()
        # As another process would: a lock belongs to the opened file, not to the process.
        leftovers.sweep(tmp_path)
        assert temporary.exists()
    assert names(tmp_path) == [".link.perpcs.tmp", ".mine.tmp", "file"]


def test_locks_that_nobody_holds(tmp_path):
    for name in (".dead.perpcs.lock", ".yarn.lock"):
        (tmp_path / name).touch()
    with locked(tmp_path / "place", lambda message: None):
        leftovers.sweep(tmp_path)
        assert names(tmp_path) == [".place.perpcs.lock", ".yarn.lock"]
    assert names(tmp_path) == [".yarn.lock"]


def test_a_whole_tree_is_swept(tmp_path):
    for directory in ("", "a/b"):
        (tmp_path / directory / ".x.perpcs.tmp" / "in").mkdir(parents=True)
    leftovers.sweep(tmp_path, below=True)
    assert (names(tmp_path), names(tmp_path / "a" / "b")) == (["a"], [])
