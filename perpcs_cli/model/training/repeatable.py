"""Backward passes that give the same bits each time, on devices where they do not by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Only deterministic kernels while the block lasts: the gradients of attention come in any order otherwise.

    Elsewhere a kernel that has no such form warns; here it raises RuntimeError.
    """
    if device.type != "cuda":
        yield
        return
    enabled, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warns)
