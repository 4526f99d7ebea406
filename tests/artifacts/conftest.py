"""A pool of three sharers, to change."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import write_pool, write_sharer

from perpcs_cli.artifacts.pool import OpenPool
from perpcs_cli.model.loading.base import Base

COUNT = 3


@pytest.fixture
def root(tiny: Base, tmp_path: Path) -> Path:
    """A directory with three sharers below it: s0, s1 and s2."""
    for number in range(COUNT):
        write_sharer(tmp_path / "sharers" / f"s{number}", tiny, number)
    return tmp_path


@pytest.fixture
def pool(tiny: Base, root: Path) -> OpenPool:
    """Their pool."""
    return write_pool(root, tiny, COUNT)
