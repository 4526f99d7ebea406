"""Looking for what artifacts must not hold: users' own words and names, pickles, and texts that do not belong there.

Users' texts are compared as windows: the fewest words in a row that have at least `LETTERS` characters, without case
and punctuation. The windows of the artifacts, which are few, are kept; those of the users pass by, so that large data
need no memory.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import re
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
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
BLOCK = 1 << 20
"""Bytes of a tensor file that are looked at together."""
WORDS = 4096
"""Counts of letters that are kept: artifacts have the same few words."""
FEW = 64
"""So many names are looked for among a file's bytes before it is parsed."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")

# Scripts without spaces: each character counts as a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]|[^\W_]+")
_NAME = re.compile(r"[\w-]+")
_ESCAPE = re.compile(r'\\+u([0-9a-fA-F]{4})|\\+[nrtbf"/]')
_PRINTABLE = re.compile(rb"[\x20-\x7e]{%d,}" % LETTERS)
_MARKED = bytes(0x20 <= byte <= 0x7E for byte in range(256))
"""Of each byte, whether it is printable."""
_STRETCH = b"\1" * LETTERS


class Leak(msgspec.Struct, frozen=True, kw_only=True):
    """A user's words in a file. It says where they come from, and not what they are."""

    file: str
    user_id: str
    field: str


def windows(text: str) -> set[str]:
    """From each word on, the fewest words with at least LETTERS characters, half of them letters."""
    words = _words(text)
    before = list(accumulate(map(_letters, words), initial=0))
    return {
        " ".join(words[start:end])
        for start, end in _ends(words, range(len(words)))
        if 2 * (before[end] - before[start]) >= LETTERS
    }


def _windows_from(text: str, first: Collection[str]) -> set[str]:
    """From each of the words `first` on, the fewest words with at least LETTERS characters."""
    words = _words(text)
    starts = [place for place, word in enumerate(words) if word in first]
    return {" ".join(words[start:end]) for start, end in _ends(words, starts)} if starts else set()


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


@lru_cache(WORDS)
def _letters(word: str) -> int:
    return sum(map(str.isalpha, word))


def _ends(words: Sequence[str], starts: Iterable[int]) -> list[tuple[int, int]]:
    """(start, end) of the fewest words with at least LETTERS characters, where there are so many."""
    before = list(accumulate(map(len, words), initial=0))
    found = [(start, bisect_left(before, before[start] + LETTERS)) for start in starts]
    return [(start, end) for start, end in found if end <= len(words)]


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
        if _has_stretch(data, start):
            for found in _PRINTABLE.finditer(data, start):
                yield _plain(found[0])


def _has_stretch(data: mmap.mmap, start: int) -> bool:
    """Whether there is a printable stretch: among numbers hardly ever, and this is sooner known than where."""
    parts = (data[at : at + BLOCK + LETTERS - 1] for at in range(start, len(data), BLOCK))
    return any(_STRETCH in part.translate(_MARKED) for part in parts)


def find_words(files: Iterable[Path], users: Iterable[User], known: Iterable[str] = ()) -> list[Leak]:
    """Which users' words stand in which files. `known`: texts that are nobody's own, as the task's prompts."""
    holders: dict[bytes, set[str]] = {}
    places: dict[str, list[set[str]]] = {}
    for path in files:
        for text in texts_in(path):
            # Many sharers' files have the same text.
            digest = hashlib.blake2b(text.encode(errors="surrogatepass")).digest()
            if digest not in holders:
                holders[digest] = set()
                for window in windows(text):
                    places.setdefault(window, []).append(holders[digest])
            holders[digest].add(str(path))
    for text in known:
        for window in windows(text):
            places.pop(window, None)
    first = {window.partition(" ")[0] for window in places}
    found = {
        (file, user.user_id, field): None
        for user in users
        for field, text in _fields(user)
        for window in sorted(places.keys() & _windows_from(text, first))
        for file in sorted(set().union(*places[window]))
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
        lines = path.suffix == ".jsonl"
        for part in (line for _, line in typed_files.lines(path)) if lines else [typed_files.read_bytes(path)]:
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
