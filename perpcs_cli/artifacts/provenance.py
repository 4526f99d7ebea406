"""Where an artifact comes from: part of every file that perpcs writes. No times, so that runs can be compared."""

from __future__ import annotations

from typing import Any

import msgspec

from perpcs_cli import __version__


class Provenance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tool version, command, the settings that change results, seed and digests of the inputs."""

    command: str
    settings: dict[str, Any]
    seed: int
    inputs: dict[str, str] = {}
    """Name of an input → its SHA-256."""
    base: str = ""
    """Fingerprint of the base model with its task adapter; empty where no model was used."""
    tool: str = f"perpcs {__version__}"
