"""What goes to the device and what comes back: one copy each way for a pass, whatever it is made of."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[np.generic]
TYPES = {np.dtype(np.float32): torch.float32, np.dtype(np.float64): torch.float64}
"""What may go beside int64."""


@dataclass(eq=False)
class Sent:
    """An array of an upload; `tensor` is what became of it on the device, once it was sent."""

    array: Array
    start: int
    """Its place in the upload, in words of eight bytes."""
    upload: Upload

    @cached_property
    def tensor(self) -> Tensor:
        """The array on the device, a view of what the whole upload shares."""
        if self.upload.sent is None:
            raise RuntimeError("the upload was not sent yet")
        words = self.upload.sent[self.start : self.start + _words(self.array)]
        if self.array.dtype != np.int64:
            words = words.view(TYPES[self.array.dtype])[: self.array.size]
        return words.view(self.array.shape)


class Upload:
    """Arrays of a pass, of int64 or a type in `TYPES`, laid into one that is copied to the device at once."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.sent: Tensor | None = None
        self._arrays: list[Sent] = []
        self.size = 0
        """Words of eight bytes so far."""

    def add(self, array: Array) -> Sent:
        """Let an array go with the others."""
        self._arrays.append(Sent(array, self.size, self))
        self.size += _words(array)
        return self._arrays[-1]

    def send(self) -> None:
        """Copy all arrays; the host goes on while the device takes them."""
        laid = np.zeros(max(1, self.size), np.int64)
        for one in self._arrays:
            laid[one.start :].view(one.array.dtype)[: one.array.size] = one.array.reshape(-1)
        words = torch.tensor(laid)
        if self.device.type == "cuda" and torch.cuda.is_available():
            # Only from such memory does the host not wait; torch.tensor cannot make it of numpy's arrays.
            words = words.pin_memory()
        self.sent = words.to(self.device, non_blocking=True)


def _words(array: Array) -> int:
    return -(-array.nbytes // 8)


def integers(numbers: Collection[int]) -> npt.NDArray[np.int64]:
    """Numbers as a pass sends them."""
    return np.fromiter(numbers, np.int64, len(numbers))


def fetch(tensor: Tensor) -> Array:
    """A tensor's numbers, for which the host waits: once in a pass."""
    found: Array = tensor.cpu().numpy()
    return found
