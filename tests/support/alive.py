"""How many things of a kind are in memory at a time: users, above all."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from perpcs_cli.artifacts.io import typed_files


def watch(patch: pytest.MonkeyPatch, *kinds: type, every: int = 30) -> list[int]:
    """The numbers of such things that live, counted at every 30th row that is read of any file of lines."""
    counts: list[int] = []
    each = typed_files.each_placed

    def watched(path: Path, kind: type[Any], **more: bool) -> Iterator[Any]:
        for number, row in enumerate(each(path, kind, **more)):
            yield row
            if number % every == 0:
                counts.append(sum(isinstance(one, kinds) for one in gc.get_objects()))

    patch.setattr(typed_files, "each_placed", watched)
    return counts
