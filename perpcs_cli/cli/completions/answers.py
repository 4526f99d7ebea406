"""What can stand where the cursor is: commands, flags, their values, users, sharers, tasks, files.

A shell's script calls `perpcs` with the words up to the cursor and `_PERPCS_COMPLETE` in the environment. It is
answered from `words.json`, which is made from the commands, so that nothing heavy is loaded between two keys. A line is
a value, a tab and what it means; or `:file` or `:directory`, where the shell knows better.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

WORDS = Path(__file__).with_name("words.json")
MOST = 1000
"""Values that are offered at once."""
LOOKED_AT = 1 << 22
"""Bytes of users.jsonl that are looked at for ids, where there are no lists."""

Offer = tuple[str, str]
"""(a value, what it means)."""


def answer(words: Sequence[str]) -> str:
    """The answer to the words after `perpcs`, of which the last, maybe empty, is being typed."""
    *before, current = words or [""]
    # bash takes an equals sign for a word.
    before = [part for word in before if word != "=" for part in _parts(word)]
    if current == "=":
        current = ""
    flag, equals, rest = current.partition("=")
    if equals and flag.startswith("--"):
        before, current = [*before, flag], rest
    table = json.loads(WORDS.read_text(encoding="utf-8"))
    offers = list(islice(_matching(_offers(table, before, current), current), MOST))
    return "".join(f"{value}\t{help_}".rstrip("\t") + "\n" for value, help_ in offers)


def _parts(word: str) -> list[str]:
    """A flag and its value apart."""
    return list(word.partition("=")[::2]) if word.startswith("--") and "=" in word else [word]


def _matching(offers: Iterator[Offer], current: str) -> Iterator[Offer]:
    return (offer for offer in offers if offer[0].startswith((current, ":")))


def _offers(table: dict[str, Any], before: list[str], current: str) -> Iterator[Offer]:
    command, given = "", 0
    waiting = ""
    flags: dict[str, Any] = table[""]["flags"]
    used = []
    for word in before:
        if waiting:
            waiting = ""
        elif word in flags:
            used.append(word)
            waiting = word if flags[word]["value"] else ""
        elif word in table[command]["commands"]:
            command = f"{command} {word}".strip()
            flags = table[command]["flags"]
        else:
            given += 1
    if waiting:
        yield from _values(flags[waiting]["value"], before, current)
    elif current.startswith("-"):
        for name, flag in flags.items():
            if name not in used or flag["many"]:
                yield name, flag["help"]
    else:
        yield from table[command]["commands"].items() if not given else ()
        arguments = table[command]["arguments"]
        if given < len(arguments) or (arguments and arguments[-1]["many"]):
            yield from _values(arguments[min(given, len(arguments) - 1)]["value"], before, current)


def _values(kind: str | list[str], before: Sequence[str], current: str) -> Iterator[Offer]:
    """The values of a kind: those of a list, or what there is in the workspace."""
    if isinstance(kind, list):
        yield from ((value, "") for value in kind)
    elif kind in ("file", "directory"):
        yield f":{kind}", ""
    elif kind == "users":
        head, comma, _ = current.rpartition(",")
        if current.startswith("@"):
            yield ":file", ""
        for name in _users(_workspace(before)):
            yield f"{head}{comma}{name}", ""
    elif kind == "user":
        yield from ((name, "") for name in _users(_workspace(before)))
    elif kind == "sharer":
        yield from ((name, "") for name in _directories(_workspace(before) / "sharers"))
    elif kind == "recipes":
        yield from ((path.name, "") for path in sorted(_workspace(before).glob("recipes*")) if path.is_dir())
        yield ":directory", ""
    elif kind == "own":
        found = (path.parent.parent.name for path in _workspace(before).glob("*/*/adapter_model.safetensors"))
        yield from ((name, "") for name in dict.fromkeys(sorted(found)) if name != "sharers")
        yield ":directory", ""
    elif kind == "experiment":
        yield from ((name, "") for name in _experiments(before))


def _workspace(before: Sequence[str]) -> Path:
    for flag, value in pairwise(before):
        if flag in ("-w", "--workspace"):
            return Path(value)
    return Path(os.environ.get("PERPCS_WORKSPACE", "."))


def _users(root: Path) -> Iterator[str]:
    """The ids of the lists in splits/; where there are none, those of the first users of users.jsonl."""
    lists = [root / "splits" / f"{name}.txt" for name in ("target", "candidate", "base")]
    if any(path.is_file() for path in lists):
        for path in lists:
            if path.is_file():
                yield from path.read_text(encoding="utf-8", errors="replace").split()
        return
    users = root / "users.jsonl"
    if users.is_file():
        with users.open("rb") as file:
            for line in file.readlines(LOOKED_AT):
                if found := re.match(rb'\{"user_id":\s*"((?:[^"\\]|\\.)*)"', line):
                    yield found[1].decode(errors="replace")


def _directories(path: Path) -> list[str]:
    return sorted(one.name for one in path.glob("[!.]*") if one.is_dir())


def _experiments(before: Sequence[str]) -> Iterator[str]:
    """The names in the sweep's files that were typed, or in the results of the directories that were."""
    for word in before:
        path = Path(word)
        if path.suffix == ".toml" and path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            yield from re.findall(r'^name\s*=\s*"([^"]+)"', text, flags=re.M)
        results = path if path.suffix == ".jsonl" else path / "results.jsonl"
        if results.is_file():
            text = results.read_text(encoding="utf-8", errors="replace")
            yield from dict.fromkeys(re.findall(r'"experiment":"([^"]+)"', text))
