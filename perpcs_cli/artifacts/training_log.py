"""`train.jsonl`: the loss, gradient norm and learning rate of each step of a training; what audits look for."""

from __future__ import annotations

from pathlib import Path

FILE = "train.jsonl"


def failed_log(directory: Path) -> Path:
    """The log of a training of the sharer in `directory` that failed: `NAME.failed.jsonl` beside it."""
    return directory.with_name(f"{directory.name}.failed.jsonl")
