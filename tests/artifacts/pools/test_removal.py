"""Deleting a sharer's directory, and nothing else's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from perpcs_cli.artifacts.pools.removal import FILES, check_removable, remove_sharer
from perpcs_cli.artifacts.training_log import failed_log
from perpcs_cli.errors import DataError


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A sharer's, with what a killed run leaves."""
    directory = tmp_path / "u1"
    directory.mkdir()
    for name in (*FILES, ".gate.safetensors.perpcs.lock"):
        (directory / name).write_text("x")
    (directory / ".gate.safetensors.x1.perpcs.tmp").mkdir()
    return directory


def test_all_goes(directory: Path) -> None:
    failed_log(directory).touch()
    remove_sharer(directory)
    assert list(directory.parent.iterdir()) == []
    remove_sharer(directory)


def test_killed_anywhere_it_goes_on(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unlink = Path.unlink

    def dying(path: Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok)
        raise KeyboardInterrupt

    for left in range(len(FILES), -1, -1):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", dying)
            with pytest.raises(KeyboardInterrupt):
                remove_sharer(directory)
        assert len(list(directory.iterdir())) == left
        check_removable(directory)
    remove_sharer(directory)
    assert not directory.exists()


def link(directory: Path) -> None:
    (directory / "sharer.json").unlink()
    (directory / "sharer.json").symlink_to(__file__)


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "another file": (lambda directory: (directory / "thesis.tex").write_text("x"), "holds 'thesis.tex'"),
    "a directory": (lambda directory: (directory / ".old.tmp").mkdir(), "holds '.old.tmp'"),
    "a link": (link, "holds 'sharer.json'"),
    "no adapter": (lambda directory: (directory / "adapter_model.safetensors").unlink(), "holds no adapter_model"),
}


@pytest.mark.parametrize("how", SPOILT)
def test_nothing_goes(directory: Path, how: str) -> None:
    spoil, says = SPOILT[how]
    spoil(directory)
    before = sorted(directory.iterdir())
    with pytest.raises(DataError, match=says):
        remove_sharer(directory)
    assert sorted(directory.iterdir()) == before


def test_a_link_to_a_sharer_is_not_followed(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(directory)
    with pytest.raises(DataError, match="is a link or a file"):
        remove_sharer(tmp_path / "link")
    assert len(list(directory.iterdir())) == len(FILES) + 2
