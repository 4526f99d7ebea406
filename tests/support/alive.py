"""How many things of a kind are in memory at a time: users, above all."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from perpcs_cli.artifacts.io import typed_files


def watch(patch: pytest.MonkeyPatch, kind: type, every: int = 20) -> list[int]:
    """How many more of a kind live than now, counted at every 20th row that is read of any file of lines."""
    counts: list[int] = []
    each, before = typed_files.each_placed, _alive(kind)

    def watched(path: Path, of: type[Any], **more: bool) -> Iterator[Any]:
        for number, row in enumerate(each(path, of, **more)):
            yield row
            if number % every == 0:
                counts.append(_alive(kind) - before)

    patch.setattr(typed_files, "each_placed", watched)
    return counts


def _alive(kind: type) -> int:
    return sum(type(one) is kind for one in gc.get_objects())
