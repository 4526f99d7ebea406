"""What a field of a typed file declares of itself: type, range, default, help, flag and variable."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_type_hints

import msgspec
from msgspec import Meta

from perpcs_cli.artifacts.io.limits import LARGEST


@dataclass(frozen=True)
class Declared:
    """One setting as it is declared: `path` is its key in `perpcs.toml`, as `seed` or `train.lr`."""

    path: str
    kind: Any
    """Its type without ranges and without None."""
    help: str
    default: Any
    """`msgspec.NODEFAULT` where the task decides."""
    flag: str | None
    """Without the dashes; None where it has none."""
    limits: tuple[Meta, ...]
    """Ranges of the value, or of each of its values."""

    @property
    def section(self) -> str:
        """The table in `perpcs.toml`; empty at the top."""
        return self.path.rpartition(".")[0]

    @property
    def key(self) -> str:
        """The name within its table."""
        return self.path.rpartition(".")[2]

    @property
    def variable(self) -> str:
        """Its variable in the environment."""
        return "PERPCS_" + self.path.upper().replace(".", "_")

    @property
    def range(self) -> str:
        """Its range in words: of its numbers, or its choices."""
        if choices := get_args(self.kind) if getattr(self.kind, "__origin__", None) is Literal else ():
            return ", ".join(map(str, choices))
        return _range(self.limits)

    def problem(self, value: Any) -> str | None:
        """What is wrong with a value of the right type, or None."""
        values = value if isinstance(value, list | tuple) else [value]
        for limit in self.limits:
            if limit.min_length is not None and len(values) < limit.min_length:
                return f"{self.path} must have at least {limit.min_length} value, and has none"
        for one in values:
            if isinstance(one, str) and "\0" in one:
                return f"{self.path} must be text without NUL, and is {one!r:.60}"
            if isinstance(one, bool) or not isinstance(one, int | float):
                continue
            if abs(one) > LARGEST and isinstance(one, int):
                return f"{self.path} is too large a number"
            if not math.isfinite(one) or any(not _within(one, limit) for limit in self.limits):
                shown = float(one) if self.kind is float else one
                return f"{self.path} must be {_range(self.limits) or 'a finite number'}, and is {shown}"
        return None


def declarations(struct: type[msgspec.Struct], prefix: str) -> list[Declared]:
    """The declarations of a struct's fields, their paths beginning with `prefix`."""
    hints = get_type_hints(struct, include_extras=True)
    made = []
    for field in msgspec.structs.fields(struct):
        kind, metas = _peeled(hints[field.name])
        extra = next((meta.extra for meta in metas if meta.extra), {})
        made.append(
            Declared(
                path=prefix + field.name,
                kind=kind,
                help=next((meta.description for meta in metas if meta.description), ""),
                default=field.default,
                flag=extra.get("flag", field.name.replace("_", "-")),
                limits=tuple(metas),
            )
        )
    return made


def _peeled(hint: Any) -> tuple[Any, list[Meta]]:
    """(the bare type, all declarations around and inside of it)."""
    metas: list[Meta] = []
    if hasattr(hint, "__metadata__"):
        kind, inner = _peeled(hint.__origin__)
        return kind, [*(meta for meta in hint.__metadata__ if isinstance(meta, Meta)), *inner]
    parts = [part for part in get_args(hint) if part not in (type(None), ...)]
    if type(None) in get_args(hint):
        return _peeled(parts[0])
    if getattr(hint, "__origin__", None) is tuple:
        metas = _peeled(parts[0])[1]
    return hint, metas


def _within(value: float, limit: Meta) -> bool:
    return (
        (limit.ge is None or value >= limit.ge)
        and (limit.gt is None or value > limit.gt)
        and (limit.le is None or value <= limit.le)
        and (limit.lt is None or value < limit.lt)
    )


def _range(limits: tuple[Meta, ...]) -> str:
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    ends = [(word, getattr(limit, key)) for key, word in words.items() for limit in limits]
    found = [f"{word} {end:g}" for word, end in ends if end is not None]
    return " and ".join(found)
