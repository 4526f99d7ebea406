"""A CUDA device that is not there: tensors have shapes and devices, and no numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

CUDA = torch.device("cuda", 0)


@contextmanager
def fake_cuda() -> Iterator[None]:
    """Let all tensors in the block be fake. What needs a number on the host, or mixes devices, is an error."""
    with FakeTensorMode(), _Spelled():
        yield


class Counted(TorchDispatchMode):
    """Counts operators, and copies between kinds of devices."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: Counter[str] = Counter()
        self.copies: Counter[tuple[str, str]] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count it, and do it."""
        found = function(*args, **(kwargs or {}))
        self.operators[str(function)] += 1
        if function is torch.ops.aten._to_copy.default and args[0].device != found.device:
            self.copies[args[0].device.type, found.device.type] += 1
        return found


class _Spelled(TorchFunctionMode):
    """What Python says otherwise as the operators that it is: torch built without CUDA looks for the device when it
    meets one of these."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return OPERATORS.get(function, function)(*args, **(kwargs or {}))


def _indexed(tensor: Tensor, key: Any) -> Tensor:
    parts = list(key) if isinstance(key, tuple) else [key]
    if any(part is Ellipsis for part in parts):
        at = next(i for i, part in enumerate(parts) if part is Ellipsis)
        rest = tensor.dim() - sum(part is not None and part is not Ellipsis for part in parts)
        parts[at : at + 1] = [slice(None)] * rest
    places: list[Tensor | None] = []
    for part in parts:
        at = len(places)
        if part is None:
            tensor = tensor.unsqueeze(at)
        elif isinstance(part, int):
            tensor = tensor.select(at, part)
            continue
        elif isinstance(part, slice):
            tensor = torch.ops.aten.slice.Tensor(tensor, at, part.start, part.stop, part.step or 1)
        places.append(part if isinstance(part, Tensor) else None)
    return torch.ops.aten.index.Tensor(tensor, places) if any(place is not None for place in places) else tensor


OPERATORS: dict[Any, Any] = {
    Tensor.__getitem__: _indexed,
    Tensor.__invert__: torch.logical_not,
    Tensor.contiguous: torch.ops.aten.contiguous.default,
}
