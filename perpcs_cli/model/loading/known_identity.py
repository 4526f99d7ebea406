"""What a model was when it was last looked at: a command with nothing to do neither loads torch nor looks again.

A record is believed while everything that an identity depends on is as it was: the files, by size, times and inode;
the machine, its devices and torch. A hub id is the snapshot in the hub's cache on this machine: whether the hub has a
newer one is not asked before something is computed. A record decides what is finished and never what is computed:
whatever loads the model looks at it anew.
"""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

import msgspec

from perpcs_cli.artifacts.caches import cache_directory, file_states
from perpcs_cli.artifacts.io import hashing, typed_files
from perpcs_cli.artifacts.settings import Quantize
from perpcs_cli.errors import DataError, PerpcsError
from perpcs_cli.model.loading.fetch import cached_snapshot, resolve_model


class KnownIdentity(msgspec.Struct, frozen=True, kw_only=True, tag_field="format", tag="perpcs.identity/1"):
    """One record, in the cache: an identity and the state of what it depends on."""

    state: str
    fingerprint: str
    description: dict[str, str]
    chat: tuple[str, str] | msgspec.UnsetType | None = msgspec.UNSET
    """What its chat template puts around a message, if that was looked at."""


class Asked(msgspec.Struct, frozen=True):
    """What an identity is asked for: settings, as they are given."""

    model: str
    task_adapter: str
    device: str
    dtype: str
    quantize: Quantize = "none"
    trains: bool = False

    @property
    def place(self) -> Path:
        """Where its record lies: one for each, whatever becomes of the model."""
        return cache_directory() / "identities" / f"{hashing.digest_value(self)}.json"

    def state(self) -> str | None:
        """A digest of all that its identity depends on; None where that cannot be told, or has just changed."""
        try:
            model = resolve_model(self.model)
            directory = model if isinstance(model, Path) else cached_snapshot(model)
            if directory is None:
                return None
            directories = [directory, *([Path(self.task_adapter)] if self.task_adapter else [])]
            files = [sorted(path for path in one.iterdir() if path.is_file()) for one in directories]
        except (PerpcsError, OSError):
            return None
        states = file_states(path for some in files for path in some)
        names = [[path.name for path in some] for some in files]
        return None if states is None else hashing.digest_value([names, states, _machine()])


def recall(asked: Asked) -> KnownIdentity | None:
    """The record of an identity, if nothing that it depends on has changed since."""
    try:
        known = typed_files.read_json(asked.place, KnownIdentity)
    except DataError:
        # It is a cache: one that cannot be read is none.
        return None
    return known if known.state == asked.state() else None


def remember(
    asked: Asked,
    state: str | None,
    fingerprint: str,
    description: dict[str, str],
    chat: tuple[str, str] | msgspec.UnsetType | None = msgspec.UNSET,
) -> None:
    """Keep an identity that was found when all that it depends on had the `state`, as it has now, and what was known
    besides."""
    if state is None or state != asked.state():
        return
    before = recall(asked)
    if chat is msgspec.UNSET and before and before.state == state:
        chat = before.chat
    known = KnownIdentity(state=state, fingerprint=fingerprint, description=description, chat=chat)
    try:
        typed_files.write_json(asked.place, known)
    except PerpcsError:
        # Where there is no place for caches, the model is looked at each time.
        return


def forget(asked: Asked) -> None:
    """Look at the model anew the next time."""
    try:
        asked.place.unlink(missing_ok=True)
    except OSError:
        # A cache that is not ours to change: what is in it stays.
        return


def _machine() -> list[object]:
    """What decides of devices and number types where the settings leave it open, and the versions that look."""
    devices = sorted(str(path) for path in Path("/dev").glob("nvidia*"))
    visible = [os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")]
    return [platform.node(), platform.machine(), devices, visible, *map(version, ("torch", "transformers", "perpcs"))]
