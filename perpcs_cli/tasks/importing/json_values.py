"""JSON as people write it: what JSON cannot say stands in it as such, and only that value's record is refused."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import msgspec

from perpcs_cli.artifacts.io import limits, typed_files

DIGITS = 400
"""Of the longest number: more are in nobody's data."""


@dataclass(frozen=True)
class Unreadable:
    """What stands where a file has a value that JSON cannot say: only that value's record is refused."""

    why: str

    @classmethod
    def number(cls, digits: str) -> Unreadable:
        """NaN, infinity, or a number without end."""
        return cls(f"{digits:.20} is no number that can be read")


def decoded(data: bytes) -> Any:
    """A JSON value. What JSON cannot say stands in it as `Unreadable`. Raises one of UNREADABLE for all else."""
    try:
        return msgspec.json.decode(data)
    except typed_files.UNREADABLE as error:
        try:
            # Python's own parser goes on after a NaN and half a character; bytes that are no text become halves.
            content = json.loads(
                data.decode(errors="surrogateescape"),
                parse_constant=Unreadable.number,
                parse_int=_int,
                parse_float=_float,
            )
        except typed_files.UNREADABLE:
            raise error from None
        if limits.too_deep(content):
            raise error
        return _marked(content)


def _int(digits: str) -> int | Unreadable:
    return int(digits) if len(digits) <= DIGITS else Unreadable.number(digits)


def _float(digits: str) -> float | Unreadable:
    number = float(digits)
    return number if math.isfinite(number) else Unreadable.number(digits)


def _marked(value: Any) -> Any:
    """The value with `Unreadable` for each text that holds half a character. Names of fields are shown at most."""
    if isinstance(value, dict):
        return {key.encode(errors="replace").decode(): _marked(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_marked(inner) for inner in value]
    if isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value):
        return Unreadable("holds half a character, or bytes that are no UTF-8")
    return value
