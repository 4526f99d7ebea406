"""Where an artifact comes from: part of every file that perpcs writes. No times, so that runs can be compared."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import msgspec

from perpcs_cli import __version__
from perpcs_cli.artifacts.io.limits import too_deep
from perpcs_cli.errors import DataError, shortened


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

    def __post_init__(self) -> None:
        """Refuse settings that are nested without end, which a file may have."""
        if too_deep(self.settings):
            raise ValueError("the settings are nested too deep")


def check_same(before: Provenance, now: Provenance, *, where: Path) -> None:
    """Raise DataError where what stands at `where` was made with other settings, inputs or base than now."""
    changed = differences(before, now)
    if changed:
        raise DataError(
            f"was made with other settings: {changed}",
            where=where,
            hint="Use --force to make it again, or write to another place.",
        )


def check_beside(before: Provenance, now: Provenance, others: Collection[str], *, where: Path) -> None:
    """Raise DataError where the rows of `others` at `where`, which would be lost, were made with other settings."""
    if others and (changed := differences(before, now)):
        raise DataError(
            f"has {shortened(sorted(others))}, made with other settings: {changed}",
            where=where,
            hint="Make all users again, without --user, or write to another place with --out.",
        )


def differences(before: Provenance, now: Provenance) -> str:
    """What differs between two provenances, in words; empty if nothing that changes results does."""

    def flat(value: Any, name: str = "") -> dict[str, Any]:
        if not isinstance(value, dict):
            return {name: value}
        return {k: v for key, inner in value.items() for k, v in flat(inner, f"{name}.{key}".strip(".")).items()}

    old = flat({**before.settings, "seed": before.seed, "inputs": before.inputs, "base": before.base})
    new = flat({**now.settings, "seed": now.seed, "inputs": now.inputs, "base": now.base})
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    short = {key: (str(old.get(key))[:20], str(new.get(key))[:20]) for key in keys}
    return ", ".join(f"{key} {was} -> {becomes}" for key, (was, becomes) in short.items())
