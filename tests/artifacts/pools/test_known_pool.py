"""A pool that was found to be what its sharers give is not read again, unless anything of it has changed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from perpcs_cli.artifacts import caches
from perpcs_cli.artifacts.adapter import CARD, CONFIG, WEIGHTS
from perpcs_cli.artifacts.gate import FILE as GATE_FILE
from perpcs_cli.artifacts.io import tensors
from perpcs_cli.artifacts.pool import OpenPool, gates_path, open_pool, pieces_path
from perpcs_cli.artifacts.pools import known_pool
from perpcs_cli.artifacts.pools.verify import is_built_from, verify_changed, verify_pool

Asks = Callable[[], bool]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """The tensor files that were opened; files count as settled, and the cache is a new one."""
    monkeypatch.setattr(caches, "SETTLED_NS", 0)
    monkeypatch.setattr(known_pool, "cache_directory", lambda: tmp_path / "cache")
    seen: list[Path] = []
    open_tensors = tensors.open_tensors
    monkeypatch.setattr(tensors, "open_tensors", lambda path: seen.append(path) or open_tensors(path))
    return seen


@pytest.fixture
def own(root: Path) -> dict[str, Path]:
    """The sharers by name."""
    return {path.name: path for path in (root / "sharers").iterdir()}


@pytest.fixture
def asks(pool: OpenPool, own: dict[str, Path]) -> Asks:
    """Whether the pool is built from its sharers."""
    return lambda: is_built_from(open_pool(pool.path), own, gates=True, embeddings=None)


def test_nothing_of_it_is_opened_again(asks: Asks, opened: list[Path], root: Path) -> None:
    assert asks()
    files = [path / name for path in (root / "sharers").iterdir() for name in (WEIGHTS, GATE_FILE)]
    assert sorted(opened) == sorted([*files, gates_path(root / "pool.json")])
    opened.clear()
    assert asks()
    assert opened == []


BESIDE = [place(Path("pool.json")).name for place in (gates_path, pieces_path)]


@pytest.mark.parametrize("name", [*(f"sharers/s1/{one}" for one in (WEIGHTS, CONFIG, CARD, GATE_FILE)), *BESIDE])
def test_a_change_of_any_file_is_seen(asks: Asks, opened: list[Path], root: Path, tmp_path: Path, name: str) -> None:
    assert asks()
    opened.clear()
    # The same content, size and times: whoever puts it there cannot choose when that was.
    path, copy = root / name, tmp_path / "copy"
    shutil.copy2(path, copy)
    copy.replace(path)
    assert asks()
    assert opened
    # Other content of the same size, and the old time.
    before, content = path.stat(), path.read_bytes()
    path.write_bytes(changed(name, content))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not asks()
    path.write_bytes(content)
    assert asks()
    path.unlink()
    assert not asks()


def changed(name: str, content: bytes) -> bytes:
    """One digit or bit of what counts."""
    if not name.endswith(".json"):
        return content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
    old, new = (b'"r": 4', b'"r": 2') if name.endswith(CONFIG) else (b'"scale": 1.0', b'"scale": 3.0')
    assert old in content
    return content.replace(old, new)


def test_another_sharer_of_the_same_name_is_no_known_one(
    asks: Asks, opened: list[Path], pool: OpenPool, own: dict[str, Path], root: Path
) -> None:
    assert asks()
    for name, like, same in (("a", "s1", True), ("b", "s2", False)):
        shutil.copytree(root / "sharers" / like, root / name)
        opened.clear()
        assert is_built_from(open_pool(pool.path), {**own, "s1": root / name}, gates=True, embeddings=None) is same
        assert opened


def test_sharers_who_have_changed_places_are_no_known_ones(
    asks: Asks, opened: list[Path], pool: OpenPool, own: dict[str, Path]
) -> None:
    assert asks()
    swapped = {**own, "s1": own["s2"], "s2": own["s1"]}
    assert not is_built_from(open_pool(pool.path), swapped, gates=True, embeddings=None)


def test_what_has_just_changed_is_not_kept(asks: Asks, opened: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "SETTLED_NS", 60 * 10**9)
    for _ in range(2):
        opened.clear()
        assert asks()
        assert opened


@pytest.mark.parametrize("damage", [b"", b"\xff", b"0" * 64, b"0" * 1000])
def test_a_broken_record_is_none(asks: Asks, opened: list[Path], tmp_path: Path, damage: bytes) -> None:
    assert asks()
    records = sorted((tmp_path / "cache" / "pools").iterdir())
    kept = [record.read_bytes() for record in records]
    assert len(kept) == 2
    for record in records:
        record.write_bytes(damage)
    opened.clear()
    assert asks()
    assert opened
    assert [record.read_bytes() for record in records] == kept


def test_without_a_place_for_records_there_are_none(asks: Asks, opened: list[Path], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    assert asks()
    opened.clear()
    assert asks()
    assert opened


def test_a_pool_with_problems_is_looked_through_each_time(pool: OpenPool, root: Path, opened: list[Path]) -> None:
    (root / "sharers" / "s1" / GATE_FILE).unlink()
    for _ in range(2):
        opened.clear()
        (problem,) = verify_changed(open_pool(pool.path))
        assert "no such file" in problem
        assert opened


def test_whoever_asks_for_it_reads_everything(asks: Asks, pool: OpenPool, opened: list[Path]) -> None:
    assert asks()
    assert verify_changed(open_pool(pool.path)) == []
    opened.clear()
    assert verify_changed(open_pool(pool.path)) == []
    assert opened == []
    assert verify_pool(open_pool(pool.path)) == []
    assert opened
