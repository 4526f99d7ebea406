"""Files that were damaged or forged: strategies that make them from the content of a valid one."""

from __future__ import annotations

import copy
import json
import struct
from typing import Any

from hypothesis import strategies as st

Draw = Any


class Raw(str):
    """JSON text that no value has."""


class Pairs(list):  # type: ignore[type-arg]
    """An object whose keys may stand in it twice."""


TOKENS = [
    *(
        b"\0",
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"\xed\xa0\x80",
        b'"\\ud800"',
        b"\xe2\x80\xa8",
        b"\x85",
        b"\r",
        b"\n",
        b"\n\n",
    ),
    *(b"NaN", b"-Infinity", b"1e999", b"-", b"9" * 5000, b"1." + b"1" * 5000, b"[" * 100_000, b'{"a":' * 100_000),
    *(b"[1]" * 5, b"a = " + b"[" * 5000, b"a." * 2000, b"[[a]]\n", b'"', b"}", b"]", b",", b"x" * 5000, b'"a":1,'),
]
ODD: list[Any] = [
    *(None, True, False, -1, 0, 1, 2, -0.5, 0.5, 1.5, 2**31, 2**53 + 1, 2**63, 2**64, 1e30, 1e308, -1e308, 5e-324),
    *(
        Raw("9" * 400),
        Raw("9" * 5000),
        Raw("-" + "9" * 5000),
        Raw("1e999"),
        Raw("NaN"),
        Raw("-Infinity"),
        Raw("1e-999"),
    ),
    *("", "0", "12", "1e3", "NaN", "inf", "²", "*", "..", "../..", "/etc/passwd", ".", "a/b", "a\0b", "a\nb", "a\x85b"),
    *(
        "\u2028",
        "u\u2028v",
        "x" * 5000,
        "9" * 5000,
        "2019-03-07T25:00Z",
        "9999-12-31T23:59:59-23:59",
        "é",
        "@x",
        "none",
    ),
    *(Raw('"\\ud800"'), Raw('"\\udc00x"'), Raw('"\\u0000"'), [], {}, [[]], [None], [""], {"": {}}, [1, 2], ["a"] * 100),
    *(Raw("[" * 900 + "]" * 900), Raw('{"a":' * 900 + "1" + "}" * 900), Raw("[" * 40 + "]" * 40), Raw("[" * 50_000)),
    *("I32", "U8", "BOOL", "F64", "F16", "BF16", "F8_E4M3", "C64", "F4", [0], [0, 2**40], [2**40, 2**40], [1] * 70),
    *([0, 0], [4, 0], [0, 2**63], [-1, 4], "model.layers.999999999.q", "model.layers." + "9" * 5000 + ".q"),
]
ODD_TOML = [
    *("nan", "inf", "-1", "0", "1e400", "9" * 400, "9" * 5000, "true", '""', '"x"', "[]", "{}", "[[]]", '["a", "b"]'),
    *("1979-05-27", "1979-05-27T07:32:00Z", "07:32:00", "0x7fffffffffffffffffff", '"\\u0000"', "[" * 3000, "{a.b.c=1}"),
    *("[" * 40 + "]" * 40, "a." * 50, '"../.."', "1_000", "[nan, inf]", "[1, 2, 3]", '"' + "x" * 5000 + '"', "1e-400"),
    *("[" + "1, " * 500 + "1]", "'''", '{ "a\\u2028" = 1 }', '"2\\u2028"'),
]


def text_of(value: Any) -> str:
    """JSON, as `json.dumps` writes it, with raw text and pairs in it."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict | Pairs):
        pairs = value.items() if isinstance(value, dict) else value
        return "{" + ",".join(f"{json.dumps(key)}:{text_of(inner)}" for key, inner in pairs) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(text_of, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to all values within a value, its own first."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(one for key, part in inner for one in places(part, (*path, key)))]


def at(value: Any, path: tuple[Any, ...]) -> Any:
    """The value at a path."""
    for key in path:
        value = value[key]
    return value


@st.composite
def damaged(draw: Draw, content: bytes) -> bytes:
    """Bytes with up to three places changed, cut, doubled or written into."""
    data = content
    for _ in range(draw(st.integers(1, 3))):
        spot = draw(st.integers(0, len(data)))
        size = draw(st.integers(1, 40))
        how = draw(st.sampled_from(("cut", "insert", "insert", "replace", "flip", "drop", "double", "only")))
        token = draw(st.sampled_from(TOKENS)) if how in ("insert", "replace", "only") else b""
        rest = data[spot:]
        if how == "cut":
            data = data[:spot]
        elif how == "insert":
            data = data[:spot] + token + rest
        elif how == "replace":
            data = data[:spot] + token + rest[size:]
        elif how == "flip" and rest:
            data = data[:spot] + bytes([rest[0] ^ (1 << draw(st.integers(0, 7)))]) + rest[1:]
        elif how == "drop":
            data = data[:spot] + rest[size:]
        elif how == "double":
            data = data[:spot] + rest[:size] + rest
        elif how == "only":
            data = token
    return data


@st.composite
def forged(draw: Draw, value: Any) -> Any:
    """A JSON value with up to two of the values in it replaced, left out, added, or given twice."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 2))):
        path = draw(st.sampled_from(places(value)))
        odd = draw(st.one_of(st.sampled_from(ODD), st.sampled_from(places(value)).map(lambda other: at(value, other))))
        odd = copy.deepcopy(odd)
        if not path:
            if draw(st.integers(0, 9)) == 0:
                return odd
            continue
        parent, key = at(value, path[:-1]), path[-1]
        how = draw(st.sampled_from(("replace", "replace", "remove", "add", "twice")))
        if how == "replace":
            parent[key] = odd
        elif how == "remove":
            del parent[key]
        elif isinstance(parent, list):
            parent.insert(key, odd if how == "add" else copy.deepcopy(parent[key]))
        elif how == "add":
            parent[draw(st.sampled_from(("colour", "", "a\u2028b", "../x", *parent)))] = odd
        elif len(path) > 1 and isinstance(at(value, path[:-2]), dict | list):
            # What was made into pairs is no longer walked through.
            at(value, path[:-2])[path[-2]] = Pairs([*parent.items(), (key, odd)])
            break
    return value


@st.composite
def _lines(draw: Draw, content: bytes) -> bytes:
    lines: list[Any] = [json.loads(line) for line in content.splitlines() if line.strip()]
    number = draw(st.integers(0, len(lines) - 1))
    how = draw(st.sampled_from(("forge", "forge", "forge", "drop", "double", "swap")))
    if how == "forge":
        lines[number] = draw(forged(lines[number]))
    elif how == "drop":
        del lines[number]
    elif how == "double":
        lines.insert(number, lines[number])
    else:
        lines[number], lines[0] = lines[0], lines[number]
    return b"".join(_bytes(line) + b"\n" for line in lines)


@st.composite
def _toml(draw: Draw, content: bytes) -> bytes:
    lines = content.decode().splitlines()
    for _ in range(draw(st.integers(1, 2))):
        number = draw(st.integers(0, len(lines) - 1))
        odd = draw(st.sampled_from(ODD_TOML))
        key, equals, _ = lines[number].partition(" = ")
        how = draw(st.sampled_from(("value", "value", "value", "drop", "double", "insert")))
        if how == "drop" and len(lines) > 1:
            del lines[number]
        elif how == "double":
            lines.insert(number, lines[number])
        elif how == "insert":
            lines.insert(number, f"colour = {odd}")
        elif equals:
            lines[number] = f"{key} = {odd}"
    return "\n".join(lines).encode()


@st.composite
def _tensors(draw: Draw, content: bytes) -> bytes:
    size = struct.unpack("<Q", content[:8])[0]
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    metadata = header.get("__metadata__", {})
    if "perpcs" in metadata and draw(st.booleans()):
        metadata["perpcs"] = text_of(draw(forged(json.loads(metadata["perpcs"]))))
    else:
        header = draw(forged(header))
    if draw(st.integers(0, 3)) == 0:
        data = draw(damaged(data))
    if draw(st.integers(0, 5)) == 0:
        data = b"\xff" * len(data)
    packed = _bytes(header)
    length = draw(st.sampled_from((None, None, None, None, 0, 1, len(packed) - 1, 2**20, 2**31, 2**63, 2**64 - 1)))
    return struct.pack("<Q", len(packed) if length is None else length) + packed + data


def _bytes(value: Any) -> bytes:
    return text_of(value).encode("utf-8", "surrogatepass")


def mutated(content: bytes, form: str) -> st.SearchStrategy[bytes]:
    """Damaged or forged content of a file: `json`, `jsonl`, `toml`, `tensors`, or `plain`, which is only damaged."""
    ways = {
        "json": lambda: forged(json.loads(content)).map(_bytes),
        "jsonl": lambda: _lines(content),
        "toml": lambda: _toml(content),
        "tensors": lambda: _tensors(content),
    }
    return st.one_of(ways[form](), ways[form](), damaged(content)) if form in ways else damaged(content)
