"""What gives the same bits each time, on devices where it does not by itself: backward passes, and some sums."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Only deterministic kernels while the block lasts: the gradients of attention come in any order otherwise.

    It is for training, and for sums by index; the other kernels of inference are deterministic by themselves, and some
    would be slower here. A kernel that has no such form raises RuntimeError.
    """
    if device.type != "cuda":
        yield
        return
    enabled, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    # Its attributes are properties, which no type checker sees in a module.
    deterministic: Any = torch.utils.deterministic
    fills = deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    # It would only make the use of memory that nobody wrote show, at the price of writing all of it.
    deterministic.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warns)
        deterministic.fill_uninitialized_memory = fills
