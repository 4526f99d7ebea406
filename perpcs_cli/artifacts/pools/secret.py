"""The workspace's secret: random bytes that key what may leave the workspace without giving away what it came from."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
from pathlib import Path

import msgspec

from perpcs_cli.artifacts.io import atomic, typed_files
from perpcs_cli.errors import DataError

FILE = "secret.key"
BYTES = 32


def workspace_secret(directory: Path) -> bytes:
    """The 32 secret bytes of a workspace, made by the operating system's generator where there are none yet.

    They lie in `secret.key`, readable by its owner alone, and are never written into an artifact. Raises DataError
    where the file is broken or others may read it.
    """
    path = directory / FILE
    if not path.exists():
        _create(path)
    secret = typed_files.read_bytes(path)
    if len(secret) != BYTES:
        raise DataError(f"holds {len(secret)} bytes instead of {BYTES}", where=path, hint="Restore it from a backup.")
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise DataError("the secret can be read by others", where=path, hint=f"Make it private: chmod 600 {path}")
    return secret


def existing_secret(directory: Path) -> bytes | None:
    """The secret of a workspace, or None where there is none yet: nothing was ever keyed with it."""
    return workspace_secret(directory) if (directory / FILE).exists() else None


def keyed_digest(secret: bytes, value: object) -> str:
    """HMAC-SHA-256 of a JSON value, in hexadecimal: it tells nothing about the value to whom the secret is unknown."""
    plain = json.dumps(msgspec.to_builtins(value), sort_keys=True, ensure_ascii=False)
    return hmac.new(secret, plain.encode(), hashlib.sha256).hexdigest()


def _create(path: Path) -> None:
    with atomic.workshop(path) as room, atomic.writing(path):
        new = room / FILE
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
            file.write(os.urandom(BYTES))
            file.flush()
            os.fsync(file.fileno())
        # link() never replaces another process's secret.
        with contextlib.suppress(FileExistsError):
            os.link(new, path)
