"""Typed JSON, JSONL and TOML: read with clear errors, written atomically."""

from __future__ import annotations

import codecs
import os
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from perpcs_cli.artifacts.io import atomic, limits
from perpcs_cli.artifacts.io.reading import opened
from perpcs_cli.errors import DataError

T = TypeVar("T")
Span = tuple[int, int]
"""(first byte, number of bytes) of a line."""

# What parsers raise for bytes that are no text of their kind, for numbers without end and for deep nesting.
UNREADABLE = (msgspec.DecodeError, ValueError, RecursionError)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with atomic.replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Write a struct as indented JSON, atomically. The same value always gives the same bytes."""
    write_text(path, json_bytes(value).decode())


def json_bytes(value: object) -> bytes:
    """What `write_json` writes."""
    return msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n"


def write_jsonl(path: Path, rows: Iterable[object]) -> None:
    """Write one value a line, atomically."""
    write_lines(path, jsonl_lines(rows))


def write_lines(path: Path, lines: Iterable[bytes]) -> None:
    """Write lines that are given with their ends, atomically."""
    with atomic.replacing(path) as temporary, temporary.open("wb") as file:
        file.writelines(lines)


def jsonl_lines(rows: Iterable[object]) -> Iterator[bytes]:
    """What `write_jsonl` writes, line by line."""
    encoder = msgspec.json.Encoder()
    return (encoder.encode(row) + b"\n" for row in rows)


class _Tag(msgspec.Struct):
    """What a file says of its format; nothing else of it is kept."""

    format: Any = None


def read_json(path: Path, kind: type[T], limit: int = limits.DOCUMENT_BYTES) -> T:
    """Read a struct from JSON.

    Raises DataError for a missing file, broken JSON, another format or version, or a wrong field.
    """
    data = without_mark(read_bytes(path, limit))
    _check_format(path, data, kind)
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise DataError(f"{_name(kind)} does not have the expected fields: {error}", where=path) from None
    except UNREADABLE as error:
        raise DataError(f"not valid JSON: {error}", where=path) from None


def _name(kind: type[Any]) -> str:
    return kind.__name__.lstrip("_")


def _check_format(path: Path, data: bytes, kind: type[Any]) -> None:
    expected = getattr(getattr(kind, "__struct_config__", None), "tag", None)
    if expected is None:
        return
    try:
        found = msgspec.json.decode(data, type=_Tag).format
    except msgspec.ValidationError:
        found = None
    except UNREADABLE as error:
        raise DataError(f"not valid JSON: {error}", where=path, hint="The file may be truncated.") from None
    if found != expected:
        raise DataError(
            f"expected the format {expected!r} and found {found!r:.60}",
            where=path,
            hint="It was written by another version of perpcs, or it is another kind of file.",
        )


def read_toml(path: Path, form: str) -> dict[str, Any]:
    """The content of a TOML file of the format `form`, its name included.

    Raises DataError where the file is missing, broken, nested too deep or of another format.
    """
    try:
        content = tomllib.loads(read_text(path, limits.TOML_BYTES))
    except (ValueError, RecursionError) as error:
        raise DataError(f"not valid TOML: {error}", where=path) from None
    if limits.too_deep(content):
        raise DataError("is nested too deep", where=path)
    if _holds_nul(content):
        raise DataError("holds the character NUL, which no name or path has", where=path)
    if (found := content.get("format")) != form:
        hint = f'Add `format = "{form}"` if it is one.'
        raise DataError(f"expected format = {form!r} and found {found!r:.60}", where=path, hint=hint)
    return content


def _holds_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    inner = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(map(_holds_nul, inner))


def read_bytes(path: Path, limit: int = limits.DATA_BYTES) -> bytes:
    """The content of `path`. Raises DataError where it is missing, cannot be read or has more than `limit` bytes."""
    with opened(path) as file:
        size, blocks, held = os.fstat(file.fileno()).st_size, [], 0
        # What a pipe holds is not known before.
        while max(size, held) <= limit and (block := file.read(1 << 20)):
            blocks.append(block)
            held += len(block)
    if max(size, held) > limit:
        raise too_large(path, limit)
    return b"".join(blocks)


def holds(path: Path, pieces: Iterable[bytes]) -> bool:
    """Whether a file is just these bytes, one piece after the other. Raises DataError where it cannot be read."""
    with opened(path) as file:
        return all(file.read(len(piece)) == piece for piece in pieces) and not file.read(1)


def without_mark(data: bytes) -> bytes:
    """UTF-8 without the byte order mark that some editors put in front of it."""
    return data.removeprefix(codecs.BOM_UTF8)


def read_text(path: Path, limit: int = limits.DATA_BYTES) -> str:
    """The content of a UTF-8 file. Raises DataError where it is missing, cannot be read or is not UTF-8."""
    try:
        return without_mark(read_bytes(path, limit)).decode()
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8: {error.reason} at byte {error.start}", where=path) from None


def read_jsonl(path: Path, kind: type[T]) -> list[T]:
    """Read one struct a line. Blank lines are allowed. Raises DataError with the line number."""
    return list(each_of(path, kind))


def each_of(path: Path, kind: type[T]) -> Iterator[T]:
    """The same one struct at a time, so that a file of any length takes the memory of a line."""
    return (row for _, row in each_placed(path, kind))


def each_placed(path: Path, kind: type[T], *, cut: bool = False) -> Iterator[tuple[Span, T]]:
    """The same with the place of each. With `cut`, a last line without its end is passed over."""
    decoder = msgspec.json.Decoder(kind)
    for number, span, line in _placed_lines(path, limits.DATA_BYTES, cut=cut):
        try:
            yield span, decoder.decode(line)
        except UnicodeDecodeError as error:
            raise DataError(f"not UTF-8: {error.reason}", where=f"{path}, line {number}") from None
        except UNREADABLE as error:
            hint = f"Each line is one {_name(kind)} as a JSON object."
            raise DataError(str(error), where=f"{path}, line {number}", hint=hint) from None


def lines(path: Path, limit: int = limits.DATA_BYTES) -> Iterator[tuple[int, bytes]]:
    """The lines of a file that are not blank, each with its number from 1, without a byte order mark.

    Raises DataError where it is missing, cannot be read or has more than `limit` bytes.
    """
    return ((number, line) for number, _, line in _placed_lines(path, limit))


def _placed_lines(path: Path, limit: int, *, cut: bool = False) -> Iterator[tuple[int, Span, bytes]]:
    number = held = 0
    with opened(path) as file:
        # What a pipe holds is not known before.
        large = os.fstat(file.fileno()).st_size > limit
        while not large and (block := file.readline(limit + 1 - held)):
            text = block if held else without_mark(block)
            at = held + len(block) - len(text)
            held += len(block)
            large = held > limit
            if cut and not block.endswith(b"\n"):
                break
            # A line may end in a carriage return alone.
            for line in () if large else text.splitlines(keepends=True):
                number += 1
                if line.strip():
                    yield number, (at, len(line)), line.rstrip(b"\r\n")
                at += len(line)
    if large:
        raise too_large(path, limit)


def too_large(path: Path, limit: int) -> DataError:
    """What is raised for a file of more than `limit` bytes."""
    return DataError(f"is larger than {limit >> 20} MiB, the most that is read", where=path)
