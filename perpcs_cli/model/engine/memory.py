"""What happens where the device's memory runs out: halves of what did not fit are tried, down to one row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

import torch

from perpcs_cli.errors import PerpcsError
from perpcs_cli.model.engine.batching import Encoded

Item = TypeVar("Item")
Result = TypeVar("Result")


SIGNS = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory")
"""What errors say that mean it, but have no class of their own: those of CUDA's libraries and of the processor."""


@contextmanager
def watched() -> Iterator[None]:
    """Let every lack of memory in the block be a torch.OutOfMemoryError."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or not any(sign in str(error) for sign in SIGNS):
            raise
        raise torch.OutOfMemoryError(str(error)) from None


class Halving(Generic[Item]):
    """Runs items in parts that fit. What did not fit once is not tried again by the same object.

    `rows`: the rows that an item is made of.
    """

    def __init__(self, rows: Callable[[Item], Sequence[Encoded]]) -> None:
        self._rows = rows
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
                    with watched():
                        found.append(work(part))
                    continue
                except torch.OutOfMemoryError:
                    # Nothing is tried in here: the error still holds what the failed pass computed.
                    self._too_much = self._size(part)
                if len(part) < 2:
                    raise too_large(self._rows(part[0]))
                release()
            half = (len(part) + 1) // 2
            waiting[:0] = [part[:half], part[half:]]
        return found

    def _size(self, items: Sequence[Item]) -> int:
        """Tokens, padding included."""
        rows = [row for item in items for row in self._rows(item)]
        return len(rows) * max(map(len, rows), default=0)


def too_large(rows: Sequence[Encoded]) -> PerpcsError:
    """What is raised for rows that do not fit into the device's memory and cannot be divided, mostly a single one."""
    first = max(rows, key=len)
    what = (
        f"a row of {len(first)} tokens" if len(rows) == 1 else f"a batch of {len(rows)} rows, {len(first)} tokens each,"
    )
    return PerpcsError(
        f"{what} does not fit into the device's memory, not even alone",
        where=", ".join(name for name in (first.who, repr(first.key)) if name),
        hint="Give a smaller --max-length or --batch-size, --dtype bfloat16, or another --device.",
    )


MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


def free_bytes(device: torch.device) -> int:
    """Bytes that are free on a device; 0 where the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        (line,) = (line for line in MEMINFO.read_text().splitlines() if line.startswith("MemAvailable:"))
        free = int(line.split()[1]) << 10
    except (OSError, ValueError):
        return 0
    try:
        # A container may have less than its machine.
        used, most = (int((CGROUP / name).read_text()) for name in ("memory.current", "memory.max"))
        return max(0, min(free, most - used))
    except (OSError, ValueError):
        return free


def total_bytes(device: torch.device) -> int:
    """Bytes that a device has, a container's limit on the processor's; 0 where the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    try:
        (line,) = (line for line in MEMINFO.read_text().splitlines() if line.startswith("MemTotal:"))
        total = int(line.split()[1]) << 10
    except (OSError, ValueError):
        return 0
    try:
        return min(total, int((CGROUP / "memory.max").read_text()))
    except (OSError, ValueError):
        return total


def release() -> None:
    """Give what is no longer used back to the device, so that pieces of it can become one again."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
