"""`merged.json` in a model directory: it is a base with a task adapter in its weights, which was trained so."""

from __future__ import annotations

from pathlib import Path

import msgspec

from perpcs_cli.artifacts.io import typed_files
from perpcs_cli.artifacts.io.provenance import Provenance

FILE = "merged.json"


class Merged(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="format", tag="perpcs.merged/1"
):
    """What `adapt --save-merged` writes beside the weights."""

    provenance: Provenance
    """The task adapter's."""


def read_merged(directory: Path) -> Merged | None:
    """Read it; None where there is none. Raises DataError where it is broken."""
    path = directory / FILE
    return typed_files.read_json(path, Merged) if path.exists() else None
