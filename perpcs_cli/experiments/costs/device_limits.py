"""What a device itself reaches: operations a second of products, and bytes of copies."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from perpcs_cli.experiments.costs.model_shape import Shape

if TYPE_CHECKING:
    from perpcs_cli.model.loading.base import Base

REPEATS = 3
IN_A_ROW = 16
"""Products and copies that are timed together, so that the device is busy whatever the host does meanwhile."""


def operations_per_second(base: Base, shape: Shape, tokens: int) -> float:
    """Operations a second of the product that the model has most of."""
    import torch

    d, n = shape.linears["up_proj"]
    like: dict[str, Any] = {"device": base.device, "dtype": base.dtype}
    # Of random numbers: on equal ones a GPU is faster than it ever is with a model's.
    x, weight = torch.randn(tokens, n, **like), torch.randn(d, n, **like)
    return 2 * tokens * d * n / _each(base, lambda: torch.nn.functional.linear(x, weight))


def bytes_per_second(base: Base, count: int) -> float:
    """Bytes a second of a copy of `count` numbers on the device, read and written."""
    import torch

    here, there = (torch.zeros(count, dtype=torch.float32, device=base.device) for _ in range(2))
    return 2 * here.nbytes / _each(base, lambda: there.copy_(here))


def _each(base: Base, run: Callable[[], object]) -> float:
    """Seconds of one of several runs in a row."""
    from perpcs_cli.experiments.costs.device_speed import best

    def several() -> None:
        for _ in range(IN_A_ROW):
            run()

    return max(best(base, several, REPEATS) / IN_A_ROW, 1e-9)
