"""Files that are never half-written: atomic writes, digests, safe names and paths, typed JSON and JSONL."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from perpcs_cli.errors import DataError, PerpcsError, UsageError

T = TypeVar("T")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a sibling temporary path; when the block ends well, fsync it and rename it to `path`.

    If the block raises or the process dies, whatever stood at `path` is untouched.
    """
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:60]}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
    temporary = Path(name)
    try:
        with _writing(path):
            yield temporary
            _sync_file(temporary)
            # mkstemp makes files private; an artifact has the mode that any new file would have.
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            temporary.replace(path)
            _sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_directory(path: Path) -> Iterator[Path]:
    """The same for a directory of files: it appears at `path` whole or not at all."""
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name[:60]}.", suffix=".tmp", dir=path.parent))
        temporary.chmod(0o755)
    old = temporary.with_suffix(".old")
    try:
        with _writing(path):
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    _sync_file(file)
            if path.exists():
                path.rename(old)
            temporary.rename(path)
            _sync_directory(path.parent)
    except BaseException:
        if old.exists() and not path.exists():
            old.rename(path)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn the system's refusals into errors that name the file that was to be written."""
    try:
        yield
    except OSError as error:
        raise PerpcsError(
            f"cannot be written: {error.strerror or error}",
            where=path,
            hint="Check the directory's permissions and the free space, or choose another place with --out.",
        ) from error


def check_writable(path: Path) -> None:
    """Raise PerpcsError where `path` could not be written: before the work, not after it."""
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass


def _sync_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Write a struct as indented JSON, atomically. The same value always gives the same bytes."""
    write_text(path, msgspec.json.format(msgspec.json.encode(value), indent=1).decode() + "\n")


def read_json(path: Path, kind: type[T]) -> T:
    """Read a struct from JSON.

    Raises DataError for a missing file, broken JSON, another format or version, or a wrong field.
    """
    data = read_bytes(path)
    _check_format(path, data, kind)
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise DataError(f"{kind.__name__} does not have the expected fields: {error}", where=path) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(f"not valid JSON: {error}", where=path) from None


def _check_format(path: Path, data: bytes, kind: type[Any]) -> None:
    expected = getattr(getattr(kind, "__struct_config__", None), "tag", None)
    if expected is None:
        return
    try:
        found = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(f"not valid JSON: {error}", where=path, hint="The file may be truncated.") from None
    found = found.get("format") if isinstance(found, dict) else None
    if found != expected:
        raise DataError(
            f"expected the format {expected!r} and found {found!r}",
            where=path,
            hint="It was written by another version of perpcs, or it is another kind of file.",
        )


def read_toml(path: Path, form: str) -> dict[str, Any]:
    """The content of a TOML file of the format `form`, its name included.

    Raises DataError where the file is missing, broken or of another format.
    """
    try:
        content = tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"not valid TOML: {error}", where=path) from None
    if (found := content.get("format")) != form:
        hint = f'Add `format = "{form}"` if it is one.'
        raise DataError(f"expected format = {form!r} and found {found!r}", where=path, hint=hint)
    return content


def read_bytes(path: Path) -> bytes:
    """The content of `path`. Raises DataError where it is missing or cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError("no such file", where=path) from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=path) from None


def read_text(path: Path) -> str:
    """The content of a UTF-8 file. Raises DataError where it is missing, cannot be read or is not UTF-8."""
    try:
        return read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8: {error.reason} at byte {error.start}", where=path) from None


def read_jsonl(path: Path, kind: type[T]) -> list[T]:
    """Read one struct a line. Blank lines are allowed. Raises DataError with the line number."""
    decoder = msgspec.json.Decoder(kind)
    rows = []
    for number, line in enumerate(read_bytes(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            rows.append(decoder.decode(line))
        except UnicodeDecodeError as error:
            raise DataError(f"not UTF-8: {error.reason}", where=f"{path}, line {number}") from None
        except msgspec.DecodeError as error:
            hint = f"Each line is one {kind.__name__} as a JSON object."
            raise DataError(str(error), where=f"{path}, line {number}", hint=hint) from None
    return rows


def write_jsonl(path: Path, rows: Iterable[object]) -> None:
    """Write one value a line, atomically."""
    encoder = msgspec.json.Encoder()
    with replacing(path) as temporary, temporary.open("wb") as file:
        for row in rows:
            file.write(encoder.encode(row) + b"\n")


class Journal:
    """An append-only JSONL file that survives a crash: every row is on disk before `append` returns.

    Opening it drops a last line that was cut off in the middle, so that a killed run can go on.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                whole = path.read_bytes()
                end = whole.rfind(b"\n") + 1
                if end < len(whole):
                    os.truncate(path, end)

    def append(self, rows: Iterable[object]) -> None:
        """Append rows and flush them to the disk."""
        lines = b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
        with _writing(self.path), self.path.open("ab") as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())


def digest_bytes(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal. Raises DataError where it is missing."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise DataError("no such file", where=path) from None


def digest_value(value: object) -> str:
    """SHA-256 of a JSON value, independent of the order of its keys."""
    plain = msgspec.to_builtins(value)
    return digest_bytes(json.dumps(plain, sort_keys=True, ensure_ascii=False).encode())


def derive_seed(seed: int, *parts: str | int) -> int:
    """A seed of its own for each purpose, user or batch, below 2⁶⁰."""
    return int(digest_value([seed, *parts])[:15], 16)


def check_id(identifier: str, what: str, *, where: object = None) -> str:
    """Return `identifier` if it can safely name a file; raise DataError if it cannot."""
    bad = (
        not identifier
        or identifier != identifier.strip()
        or identifier.startswith(".")
        or ".." in identifier
        or any(c in "/\\" or ord(c) < 32 or ord(c) == 127 or 0xD800 <= ord(c) <= 0xDFFF for c in identifier)
        or len(identifier.encode()) > 200
    )
    if bad:
        raise DataError(
            f"{what} {identifier!r} cannot name a file",
            where=where,
            hint="Ids are not empty, at most 200 bytes, do not start with a dot, and have no slash, backslash, "
            "'..', control character or space around them. Rename it in the source.",
        )
    return identifier


def inside(root: Path, relative: str, *, where: object) -> Path:
    """`root / relative`, refused with DataError where it is absolute or leads out of `root`."""
    path = root / relative
    if Path(relative).is_absolute() or not path.resolve().is_relative_to(root.resolve()):
        raise DataError(f"the path {relative!r} leaves its directory", where=where)
    return path


def refuse_existing(path: Path, *, force: bool) -> None:
    """Raise UsageError where `path` exists and `--force` was not given."""
    if not force and (path.is_file() or (path.is_dir() and any(path.iterdir()))):
        raise UsageError("already exists", where=path, hint="Use --force to replace it.")
