"""Which pools were found whole, or to be what their sharers give: one that has not changed since is not read again.

A record, in the cache, is believed while every file that was looked at has the size, times and inode that it had.
Whoever computes with a piece, and `perpcs pool verify`, read it anyway.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from perpcs_cli.artifacts.adapter import CARD, CONFIG, WEIGHTS
from perpcs_cli.artifacts.caches import cache_directory, file_states
from perpcs_cli.artifacts.embeddings import Embeddings
from perpcs_cli.artifacts.gate import FILE as GATE_FILE
from perpcs_cli.artifacts.io import hashing, typed_files
from perpcs_cli.artifacts.pool import OpenPool, embeddings_path, gates_path, pieces_path
from perpcs_cli.errors import DataError, PerpcsError

Found = Literal["whole", "given"]
"""What a pool was found to be."""
DIGITS = 64
FILES = (WEIGHTS, CONFIG, CARD, GATE_FILE)
"""All that is read of a sharer."""


def state_of(pool: OpenPool, own: Sequence[Path] = (), embeddings: Embeddings | None = None) -> str | None:
    """A digest of what tells that neither a pool nor the sharers' `own` directories, in their order, and the embeddings
    that it is compared with have changed; None where they may still be changing."""
    files = [pool.path, *(place(pool.path) for place in (gates_path, pieces_path, embeddings_path))]
    given = (pool.directory(index) for index in range(len(pool.ids)))
    files += [place / name for place in dict.fromkeys([*given, *own]) for name in FILES]
    files += [embeddings.path] if embeddings else []
    states = file_states(files)
    if states is None:
        return None
    return hashing.digest_value([version("perpcs"), list(map(str, files)), list(map(str, own)), states])


def recall(path: Path, found: Found) -> str | None:
    """The state in which the pool at `path` was found whole, or given."""
    try:
        return typed_files.read_text(_place(path, found), DIGITS)
    except DataError:
        # It is a cache: one that cannot be read is none.
        return None


def remember(path: Path, found: Found, state: str | None) -> None:
    """Keep the state that the pool at `path` had before it was found so."""
    if state is None:
        return
    try:
        typed_files.write_text(_place(path, found), state)
    except PerpcsError:
        # Where there is no place for caches, the pool is read each time.
        return


def _place(path: Path, found: Found) -> Path:
    """Where a record of a pool lies: one of each kind, whatever becomes of the pool."""
    return cache_directory() / "pools" / hashing.digest_value([os.fspath(path.resolve()), found])
