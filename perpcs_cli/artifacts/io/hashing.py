"""Digests of files and values, and the seeds that are made of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import msgspec

from perpcs_cli.artifacts.io.reading import opened


def digest_bytes(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal. Raises DataError where it is missing or cannot be read."""
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_value(value: object) -> str:
    """SHA-256 of a JSON value, independent of the order of its keys."""
    return digest_bytes(_json(value))


def digest_values(values: Iterable[object]) -> str:
    """`digest_value` of a list, of which one value is held at a time."""
    found = hashlib.sha256(b"[")
    for place, value in enumerate(values):
        found.update((b", " if place else b"") + _json(value))
    found.update(b"]")
    return found.hexdigest()


def _json(value: object) -> bytes:
    return json.dumps(msgspec.to_builtins(value), sort_keys=True, ensure_ascii=False).encode()


def derive_seed(seed: int, *parts: str | int) -> int:
    """A seed of its own for each purpose, user or batch, below 2⁶⁰."""
    return int(digest_value([seed, *parts])[:15], 16)
