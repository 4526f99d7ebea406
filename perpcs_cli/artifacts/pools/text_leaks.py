"""Looking for what artifacts must not hold: users' own words and names, pickles, and texts that do not belong there.

Users' texts are compared as windows: the fewest words in a row that have at least `LETTERS` characters, without case
and punctuation. The windows of the artifacts, which are few, are kept; those of the users pass by, so that large data
need no memory.
"""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from perpcs_cli.artifacts.io import tensors, typed_files
from perpcs_cli.artifacts.users import User
from perpcs_cli.errors import DataError

LETTERS = 24
"""Characters of the shortest text that is recognized."""
LONG = 10
"""Words from which on a text in an artifact is remarkable in itself."""
TEXT = (".txt", ".md", ".csv", ".toml")
SAME = 256
"""Texts whose windows are kept at a time."""
FEW = 64
"""So many names are looked for among a file's bytes before it is parsed."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")

# Scripts without spaces: each character counts as a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]|[^\W_]+")
_NAME = re.compile(r"[\w-]+")
_ESCAPE = re.compile(r'\\+u([0-9a-fA-F]{4})|\\+[nrtbf"/]')
_PRINTABLE = re.compile(rb"[\x20-\x7e]{%d,}" % LETTERS)


class Leak(msgspec.Struct, frozen=True, kw_only=True):
    """A user's words in a file. It says where they come from, and not what they are."""

    file: str
    user_id: str
    field: str


def windows(text: str) -> set[str]:
    """From each word on, the fewest words with at least LETTERS characters, half of them letters."""
    return {window for window in _windows(text) if 2 * sum(map(str.isalpha, window)) >= LETTERS}


def _windows(text: str) -> Iterator[str]:
    words = _WORD.findall(text.lower())
    end, size = 0, 0
    for start, word in enumerate(words):
        while end < len(words) and size < LETTERS:
            size += len(words[end])
            end += 1
        if size < LETTERS:
            return
        yield " ".join(words[start:end])
        size -= len(word)


def texts_in(path: Path) -> Iterator[str]:
    """The text of a file: all of it where it is text, and a tensor file's metadata; else its printable stretches."""
    if path.suffix in (".json", ".jsonl", *TEXT):
        yield _plain(typed_files.read_bytes(path))
        return
    if not path.stat().st_size:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        start = 0
        if path.suffix == ".safetensors" and len(data) > 8:
            start = min(len(data), 8 + int.from_bytes(data[:8], "little"))
            yield _plain(data[8:start])
        for found in _PRINTABLE.finditer(data, start):
            yield _plain(found[0])


def find_words(files: Iterable[Path], users: Iterable[User], known: Iterable[str] = ()) -> list[Leak]:
    """Which users' words stand in which files. `known`: texts that are nobody's own, as the task's prompts."""
    names: list[str] = []
    places: dict[str, list[int]] = {}
    # Many sharers' files have the same text, but for a few words.
    known_windows = lru_cache(SAME)(windows)
    for number, path in enumerate(files):
        names.append(str(path))
        for text in texts_in(path):
            for window in known_windows(text):
                inside = places.setdefault(window, [])
                if inside[-1:] != [number]:
                    inside.append(number)
    for text in known:
        for window in windows(text):
            places.pop(window, None)
    found = {
        (file, user.user_id, field): None
        for user in users
        for field, text in _fields(user)
        for window in sorted(places.keys() & set(_windows(text)))
        for file in sorted({names[number] for number in places[window]})
    }
    return [Leak(file=file, user_id=user_id, field=field) for file, user_id, field in found]


def find_names(files: Iterable[Path], names: Collection[str]) -> list[tuple[str, str]]:
    """(file, name) where a file, or its place, names somebody: as a text or a part of one in JSON, which keeps ids of
    digits apart from numbers; as a word elsewhere."""
    names = set(names)
    # An id of digits alone is only a name where it is a whole text. One that is a word is looked up among the words;
    # another one has to be searched for.
    words = {name for name in names if not name.isdigit() and _NAME.fullmatch(name)}
    odd = sorted(name for name in names - words if not name.isdigit())
    pattern = re.compile(rf"(?<![\w-])({'|'.join(map(re.escape, odd))})(?![\w-])") if odd else None
    signs = _signs(names)
    found: dict[tuple[str, str], None] = {}
    for path in files:
        for text in (*_values(path, signs), path.stem, path.parent.name):
            if text in names:
                found[str(path), text] = None
                continue
            if words:
                found.update({(str(path), word): None for word in _NAME.findall(text) if word in words})
            if pattern:
                found.update({(str(path), match[1]): None for match in pattern.finditer(text)})
    return list(found)


def odd_content(path: Path, known: Collection[str] = ()) -> list[str]:
    """What is odd about a file by itself: a pickle, or long texts in JSON or in a tensor file's metadata."""
    if path.suffix in PICKLES or (path.suffix != ".safetensors" and _begins_as_pickle(path)):
        return [f"{path}: is a pickle, which can run code when it is loaded"]
    if path.suffix not in (".safetensors", ".json", ".jsonl"):
        return []
    long = [text for text in _values(path) if len(text.split()) >= LONG and text not in known]
    return [f"{path}: holds a text of {len(text.split())} words" for text in long]


def _signs(names: Collection[str]) -> tuple[bytes, ...]:
    """What JSON that holds one of `names` has among its bytes: the name itself, or an escape that may hide it."""
    if len(names) > FEW or any('"' in name for name in names):
        return (b"",)
    return (rb"\u", *(name.encode() for name in names))


def _values(path: Path, signs: Collection[bytes] = (b"",)) -> Iterator[str]:
    """The texts in a file: of JSON and of a tensor file's metadata, keys and values; of other text, the lines.

    JSON, or a line of JSONL, that has none of `signs` is passed over.
    """
    if path.suffix == ".safetensors":
        yield from _strings(_metadata(path))
    elif path.suffix in (".json", ".jsonl"):
        data = typed_files.read_bytes(path)
        for part in data.splitlines() if path.suffix == ".jsonl" else [data]:
            if any(sign in part for sign in signs):
                yield from _strings(_decoded(part))
    elif path.suffix in TEXT:
        yield from typed_files.read_bytes(path).decode(errors="replace").splitlines()


def _fields(user: User) -> Iterator[tuple[str, str]]:
    """(what it is, text) for everything that a user wrote or was asked."""
    for number, item in enumerate(user.history):
        for key, value in item.items():
            for text in [value] if isinstance(value, str) else value:
                yield f"history {number}, {key}", text
    for query in user.queries:
        yield f"query {query.id}", query.input
        for key, value in query.fields.items():
            yield f"query {query.id}, {key}", value
        yield f"query {query.id}, output", query.output or ""
    yield "profile", user.profile or ""


def _plain(data: bytes) -> str:
    """Text with the escapes of JSON, and of JSON within JSON, resolved."""
    text = data.decode(errors="replace")
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else " ", text) if "\\" in text else text


def _begins_as_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        first = file.read(4)
    return first == b"PK\x03\x04" or (first[:1] == b"\x80" and first[1:2] in b"\x02\x03\x04\x05")


def _metadata(path: Path) -> Any:
    """A tensor file's metadata, with the JSON in it decoded; nothing where it is not a tensor file."""
    try:
        header = _decoded(tensors.read_header(path))
    except DataError:
        return {}
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(metadata, dict):
        return metadata
    return {key: (_decoded(value) if isinstance(value, str) else None) or value for key, value in metadata.items()}


def _decoded(data: bytes | str) -> Any:
    try:
        return json.loads(data)
    except typed_files.UNREADABLE:
        return None


def _strings(value: Any) -> Iterator[str]:
    """Texts and keys in the order of the file; by a list of what is left, since it may be nested deeply."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict):
            left += [part for pair in reversed(one.items()) for part in reversed(pair)]
        elif isinstance(one, list):
            left += reversed(one)


def files_below(directory: Path) -> list[Path]:
    """All files below a directory, in order."""
    return sorted(path for path in directory.rglob("*") if path.is_file())
