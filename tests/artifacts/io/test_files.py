"""Files that are never half-written, safe names and paths, and typed reading."""

from __future__ import annotations

import stat
from pathlib import Path

import msgspec
import pytest

from perpcs_cli.artifacts.io import atomic, hashing, safe_paths, typed_files
from perpcs_cli.artifacts.io.journal import Journal
from perpcs_cli.errors import DataError, PerpcsError, UsageError


class Thing(msgspec.Struct, tag_field="format", tag="perpcs.thing/1", forbid_unknown_fields=True):
    name: str
    size: int = 0


class Row(msgspec.Struct):
    id: int


def names(directory):
    """Everything in a directory, hidden files too."""
    return sorted(path.name for path in directory.iterdir())


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


def test_a_failed_last_rename_brings_the_old_directory_back(tmp_path, monkeypatch):
    path = tmp_path / "u"
    path.mkdir()
    (path / "old").touch()
    rename = Path.rename

    def fail(self, target):
        if self.suffix == ".tmp":
            raise OSError("disk full")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with (
        pytest.raises(PerpcsError, match="u: cannot be written: disk full"),
        atomic.replacing_directory(path) as temporary,
    ):
        (temporary / "new").touch()
    assert (names(path), names(tmp_path)) == (["old"], ["u"])


def test_what_cannot_be_written_is_told_beforehand(tmp_path):
    atomic.check_writable(tmp_path / "new" / "file")
    assert names(tmp_path / "new") == []
    (tmp_path / "file").touch()
    for write in (atomic.check_writable, Journal, lambda path: typed_files.write_text(path, "")):
        with pytest.raises(PerpcsError, match="file/x: cannot be written"):
            write(tmp_path / "file" / "x")


def test_json_round_trip(tmp_path):
    typed_files.write_json(tmp_path / "a.json", Thing("é", 2))
    assert (tmp_path / "a.json").read_text() == '{\n "format": "perpcs.thing/1",\n "name": "é",\n "size": 2\n}\n'
    assert typed_files.read_json(tmp_path / "a.json", Thing) == Thing("é", 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b'{"format": "perpcs.thing/2", "name": "a"}',
            "expected the format 'perpcs.thing/1' and found 'perpcs.thing/2",
        ),
        (b'{"name": "a"}', "found None"),
        (b"[]", "found None"),
        (b'{"format": "perpcs.thing/1"', "not valid JSON"),
        (b'{"format": "perpcs.thing/1", "name": "\xff"}', "not valid JSON"),
        (b"", "not valid JSON"),
        (b'{"format": "perpcs.thing/1"}', "missing required field `name`"),
        (b'{"format": "perpcs.thing/1", "name": "a", "colour": 1}', "unknown field `colour`"),
        (b'{"format": "perpcs.thing/1", "name": "a", "size": "2"}', r"Expected `int`, got `str` - at `\$.size`"),
    ],
)
def test_broken_json(tmp_path, content, message):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        typed_files.read_json(tmp_path / "a.json", Thing)
    assert caught.value.where == str(tmp_path / "a.json")


def test_a_missing_file_and_a_directory(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        typed_files.read_json(tmp_path / "a.json", Thing)
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        typed_files.read_bytes(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        hashing.digest_file(tmp_path / "a.json")


def test_jsonl_names_the_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    typed_files.write_jsonl(path, [Row(1), Row(2)])
    assert path.read_text() == '{"id":1}\n{"id":2}\n'
    path.write_text('{"id":1}\n\n{"id":"x"}\n')
    with pytest.raises(DataError) as caught:
        typed_files.read_jsonl(path, Row)
    assert caught.value.where == f"{path}, line 3"


def test_a_failing_generator_leaves_the_old_rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    typed_files.write_jsonl(path, [Row(1)])

    def rows():
        yield Row(2)
        raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        typed_files.write_jsonl(path, rows())
    assert (typed_files.read_jsonl(path, Row), names(tmp_path)) == ([Row(1)], ["rows.jsonl"])


@pytest.mark.parametrize("left", [b"", b'{"id":', b'{"id":9}', b"\xff\x00"])
def test_a_journal_drops_a_line_that_was_cut_off(tmp_path, left):
    path = tmp_path / "sub" / "journal.jsonl"
    Journal(path).append([Row(1), Row(2)])
    with path.open("ab") as file:
        file.write(left)
    Journal(path).append([Row(3)])
    assert typed_files.read_jsonl(path, Row) == [Row(1), Row(2), Row(3)]


def test_a_journal_of_one_cut_line_is_empty(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"id":')
    Journal(path)
    assert path.read_bytes() == b""


def test_digests(tmp_path):
    assert hashing.digest_bytes(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    (tmp_path / "file").write_bytes(b"abc")
    assert hashing.digest_file(tmp_path / "file") == hashing.digest_bytes(b"abc")


def test_a_values_digest_does_not_depend_on_the_order_of_keys():
    assert hashing.digest_value({"a": 1, "b": {"c": 2, "d": 3}}) == hashing.digest_value(
        {"b": {"d": 3, "c": 2}, "a": 1}
    )
    assert hashing.digest_value([1, 2]) != hashing.digest_value([2, 1])
    assert hashing.digest_value(Row(1)) == hashing.digest_value({"id": 1})
    assert hashing.digest_value({"a": 1}) != hashing.digest_value({"a": "1"})


@pytest.mark.parametrize("good", ["u42", "A-b_c.d", "ünïcode", "a b", "-x", "1" * 200])
def test_good_ids(good):
    assert safe_paths.check_id(good, "user") == good


@pytest.mark.parametrize(
    "bad",
    [
        *("", " ", " u", "u ", ".", "..", ".hidden", "a..b", "a/b", "/etc", "a\\b"),
        *("a\nb", "a\0b", "\x7f", "\t", "1" * 201, "é" * 101, "\udcff"),
    ],
)
def test_bad_ids(bad):
    with pytest.raises(DataError, match="cannot name a file"):
        safe_paths.check_id(bad, "user")


def test_paths_inside(tmp_path):
    assert safe_paths.inside(tmp_path, "a/b", where="m") == tmp_path / "a/b"
    assert safe_paths.inside(tmp_path, "a/../b", where="m") == tmp_path / "a/../b"


@pytest.mark.parametrize("bad", ["..", "../x", "a/../../x", "/etc/passwd", "link", "link/x"])
def test_paths_that_lead_out(tmp_path, bad):
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path)
    with pytest.raises(DataError, match="leaves its directory"):
        safe_paths.inside(tmp_path / "root", bad, where="m")


def test_nothing_is_overwritten_silently(tmp_path):
    (tmp_path / "empty").mkdir()
    atomic.refuse_existing(tmp_path / "missing", force=False)
    atomic.refuse_existing(tmp_path / "empty", force=False)
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path):
        with pytest.raises(UsageError, match="already exists"):
            atomic.refuse_existing(path, force=False)
        atomic.refuse_existing(path, force=True)
