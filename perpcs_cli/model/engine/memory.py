"""What happens where the device's memory runs out: halves of what did not fit are tried, down to one row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch

from perpcs_cli.errors import PerpcsError
from perpcs_cli.model.engine.batching import Encoded

Item = TypeVar("Item")
Result = TypeVar("Result")


class Halving(Generic[Item]):
    """Runs items in parts that fit. What did not fit once is not tried again by the same object.

    `size`: how much room some items need, in any unit; `row`: the longest row of an item, for the error.
    """

    def __init__(self, size: Callable[[Sequence[Item]], int], row: Callable[[Item], Encoded]) -> None:
        self._size = size
        self._row = row
        self._too_much: int | None = None

    def run(self, items: Sequence[Item], work: Callable[[Sequence[Item]], Result]) -> list[Result]:
        """What `work` returns for `items`, or for each of the parts that they had to be divided into, in order.

        `work` must leave no trace where it fails. Raises PerpcsError, naming it, for an item that does not fit alone.
        """
        waiting, found = [items], []
        while waiting:
            part = waiting.pop(0)
            if len(part) < 2 or self._too_much is None or self._size(part) < self._too_much:
                try:
                    found.append(work(part))
                    continue
                except torch.OutOfMemoryError:
                    # Nothing is tried in here: the error still holds what the failed pass computed.
                    self._too_much = self._size(part)
                if len(part) == 1:
                    raise too_large(self._row(part[0]))
                release()
            half = (len(part) + 1) // 2
            waiting[:0] = [part[:half], part[half:]]
        return found


def padded_tokens(rows: Sequence[Encoded]) -> int:
    """The size of rows that are padded to the longest of them."""
    return len(rows) * max(map(len, rows), default=0)


def too_large(row: Encoded) -> PerpcsError:
    """What is raised for a row that does not fit into the device's memory, not even alone."""
    return PerpcsError(
        f"one row of {len(row)} tokens alone does not fit into the device's memory",
        where=", ".join(name for name in (row.who, repr(row.key)) if name),
        hint="Give a smaller --max-length, a smaller --dtype, or another --device.",
    )


def release() -> None:
    """Give what is no longer used back to the device, so that pieces of it can become one again."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
