"""`export.json` in what `perpcs export` writes: what it was made of, how exact it is, and what it was compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from perpcs_cli.artifacts.io import hashing, safe_paths, typed_files
from perpcs_cli.artifacts.io.limits import Count, FromZero, Size
from perpcs_cli.artifacts.io.provenance import Provenance
from perpcs_cli.artifacts.privacy import Guarantee
from perpcs_cli.artifacts.recipe import Method
from perpcs_cli.artifacts.settings import Merge
from perpcs_cli.errors import DataError

FILE = "export.json"
CARD = "README.md"


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one sharer has in it."""

    weight: float
    """In the mean of the linear layers' mixes."""
    privacy: Guarantee | None = None
    """What the sharer's pieces and gates guarantee, as the pool says."""


class Compared(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The logits of what was written, loaded by PEFT or transformers alone, beside those of the recipe."""

    difference: FromZero
    """The largest of any token and any logit."""
    largest: FromZero
    """The recipe's largest logit, without its sign."""
    prompts: Count
    dtype: str


class Exported(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="format", tag="perpcs.export/1"
):
    """`export.json`: it is the last file written."""

    form: Literal["adapter", "merged"]
    model: str
    """The base, as other tools know it."""
    method: Method
    merge: Merge
    rank: Size | None = None
    """Of an adapter; None where the update is in the model's own weights."""
    errors: dict[str, FromZero] = {}
    """Linear layer → relative error of its update by Frobenius norm, where the rank was lowered; else nothing."""
    task_adapter: Literal["none", "folded in", "named"]
    """Whether the update holds the task adapter's, or stands upon a base that has it already."""
    sharers: dict[str, Part]
    license: str = ""
    compared: Compared
    files: Annotated[dict[str, str], msgspec.Meta(min_length=1)]
    """Name of a file of weights → its SHA-256."""
    provenance: Provenance

    @property
    def worst(self) -> float:
        """The largest error of a linear layer."""
        return max(self.errors.values(), default=0.0)

    @property
    def mean(self) -> float:
        """The mean of the linear layers' errors."""
        return sum(self.errors.values()) / max(1, len(self.errors))


def read_exported(directory: Path) -> Exported | None:
    """Read what tells of an export; None where there is none. Raises DataError where its weights have changed."""
    if not (directory / FILE).exists():
        return None
    told = typed_files.read_json(directory / FILE, Exported)
    for name, digest in told.files.items():
        path = safe_paths.inside(directory, name, where=directory / FILE)
        if not path.is_file() or hashing.digest_file(path) != digest:
            hint = "Export it again with --force."
            raise DataError("is missing, or has changed since it was exported", where=directory / name, hint=hint)
    return told
