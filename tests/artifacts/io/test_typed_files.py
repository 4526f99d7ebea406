"""Typed JSON and JSONL: what is written is read back, and what is broken is named."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from perpcs_cli.artifacts.io import limits, typed_files
from perpcs_cli.artifacts.io.provenance import Provenance
from perpcs_cli.errors import DataError


class Thing(msgspec.Struct, tag_field="format", tag="perpcs.thing/1", forbid_unknown_fields=True):
    name: str
    size: int = 0


class Row(msgspec.Struct):
    id: int


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
    assert typed_files.read_jsonl(path, Row) == [Row(1)]
    assert list(tmp_path.iterdir()) == [path]


def test_a_byte_order_mark_is_no_content(tmp_path):
    (tmp_path / "a").write_text('\ufeff{"format": "perpcs.thing/1", "name": "a"}')
    assert typed_files.read_json(tmp_path / "a", Thing).name == "a"
    (tmp_path / "a").write_text('\ufeff{"id":1}\n')
    assert typed_files.read_jsonl(tmp_path / "a", Row) == [Row(1)]
    (tmp_path / "a").write_text('\ufeffformat = "f"\n')
    assert typed_files.read_toml(tmp_path / "a", "f") == {"format": "f"}


@pytest.mark.parametrize("content", ["a = " + "9" * 5000, "a = " + "[" * 5000, "a." * 40 + 'b = 1\nformat = "f"'])
def test_toml_without_end(tmp_path, content):
    (tmp_path / "a.toml").write_text(content)
    with pytest.raises(DataError, match=r"not valid TOML|nested too deep"):
        typed_files.read_toml(tmp_path / "a.toml", "f")


def test_settings_in_files_are_not_nested_without_end():
    deep = b'{"command": "", "seed": 0, "settings": ' + b'{"a":' * 40 + b"1" + b"}" * 41
    with pytest.raises(msgspec.ValidationError, match="nested too deep"):
        msgspec.json.decode(deep, type=Provenance)


def test_what_is_too_large_is_not_read(tmp_path):
    path = tmp_path / "a.json"
    with path.open("wb") as file:
        file.truncate(limits.DOCUMENT_BYTES + 1)
    with pytest.raises(DataError, match="is larger than 64 MiB"):
        typed_files.read_json(path, Thing)
    path.write_bytes(b"12345")
    assert typed_files.read_bytes(path, 5) == b"12345"
    with pytest.raises(DataError, match="is larger than"):
        typed_files.read_bytes(path, 4)


@pytest.mark.parametrize("limit", [5, 4])
def test_a_pipe_of_the_shell_is_read_as_far_as_the_bound(limit):
    reading, writing = os.pipe()
    os.write(writing, b"12345")
    os.close(writing)
    path = Path(f"/dev/fd/{reading}")
    if limit == 5:
        assert typed_files.read_bytes(path, limit) == b"12345"
    else:
        with pytest.raises(DataError, match="is larger than"):
            typed_files.read_bytes(path, limit)
    os.close(reading)


def test_a_named_pipe_is_no_file(tmp_path):
    """It might wait for its writer for ever."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        with pytest.raises(DataError, match="is a pipe, and no file"):
            typed_files.read_bytes(tmp_path / name)


def test_a_device_is_no_file():
    with pytest.raises(DataError, match="is a device, and no file"):
        typed_files.read_bytes(Path("/dev/zero"))


@pytest.mark.parametrize("name", ["a\0b", "a\ud800b"])
def test_a_path_that_can_be_none(name):
    with pytest.raises(DataError, match="cannot be read"):
        typed_files.read_bytes(Path(name))


@pytest.mark.parametrize("line", ['data = "a\\u0000b"', 'data = ["a", "\\u0000"]', '[[x]]\n"a\\u0000" = 1'])
def test_toml_holds_no_nul(tmp_path, line):
    path = tmp_path / "a.toml"
    path.write_text(f'format = "f"\n{line}\n')
    with pytest.raises(DataError, match="holds the character NUL"):
        typed_files.read_toml(path, "f")


def test_lines_are_read_one_at_a_time_and_numbered_as_they_end(tmp_path):
    path = tmp_path / "rows"
    path.write_bytes(b'\xef\xbb\xbf{"id":1}\r\n\r\n \n{"id":2}\r{"id":3}\n{"id":"x"}')
    assert [number for number, _ in typed_files.lines(path)] == [1, 4, 5, 6]
    rows = typed_files.each_of(path, Row)
    assert [next(rows), next(rows), next(rows)] == [Row(1), Row(2), Row(3)]
    with pytest.raises(DataError) as caught:
        next(rows)
    assert caught.value.where == f"{path}, line 6"


def test_a_file_that_is_too_large_is_refused_before_its_first_line(tmp_path):
    path = tmp_path / "rows"
    path.write_bytes(b"1\n" * 8)
    assert len(list(typed_files.lines(path, 16))) == 8
    with pytest.raises(DataError, match="is larger than"):
        next(typed_files.lines(path, 15))


def test_a_pipe_that_holds_too_much_is_refused_where_it_ends(tmp_path):
    read, write = os.pipe()
    os.write(write, b"1\n22222222\n")
    os.close(write)
    rows = typed_files.lines(Path(f"/dev/fd/{read}"), 8)
    assert next(rows) == (1, b"1")
    with pytest.raises(DataError, match="is larger than"):
        next(rows)
    os.close(read)


@pytest.mark.parametrize(
    ("pieces", "same"),
    [([b"ab", b"c"], True), ([b"abc"], True), ([b"ab"], False), ([b"abc", b"d"], False), ([b"ab", b"x"], False)],
)
def test_a_file_holds_pieces_one_after_the_other(tmp_path, pieces, same):
    (tmp_path / "a").write_bytes(b"abc")
    assert typed_files.holds(tmp_path / "a", pieces) is same
