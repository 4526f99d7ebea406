"""Bounds on what is read from files, far above what anybody needs: a small file cannot ask for gigabytes."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

DATA_BYTES = 8 << 30
"""A file of users, predictions or labels, and a journal."""
DOCUMENT_BYTES = 64 << 20
"""JSON that is one value, as a manifest: a pool of 100,000 sharers."""
TOML_BYTES = 1 << 20
DEPTH = 32
"""Lists and tables within each other, in settings."""
HEADER_BYTES = 64 << 20
"""The header of a safetensors file, with its metadata."""
TENSORS = 100_000
"""Tensors in one file."""
RANK = 4096
"""Of a LoRA."""
LAYERS = 10_000
"""Of a model."""

LARGEST = 1 << 53
"""Above it a whole number is no longer itself as a float."""

# Ranges of what stands in files.
Count = Annotated[int, Meta(ge=0, le=LARGEST)]
Size = Annotated[int, Meta(ge=1, le=1 << 31)]
"""Of a dimension."""
Fraction = Annotated[float, Meta(ge=0, le=1)]
FromZero = Annotated[float, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0)]


def too_deep(value: Any) -> bool:
    """Whether lists and tables stand deeper than DEPTH in each other: what walks through them would not come back."""
    level = [value]
    for _ in range(DEPTH + 1):
        if not level:
            return False
        level = [one for one in level if isinstance(one, dict | list | tuple)]
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]
    return any(isinstance(one, dict | list | tuple) for one in level)
