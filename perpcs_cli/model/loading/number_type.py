"""The number type that a model runs in; `auto` is decided by timing matrix products once on each kind of machine.

What a processor says that it can do does not tell what is fast: some compute bfloat16 twice as fast as float32, others
at a fifth of its speed. Another type than float32 must be faster by a clear margin, and what was decided is kept in the
cache, so that a decision does not change from run to run.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import torch
from msgspec import Meta
from torch import Tensor
from torch.nn import functional as F

from perpcs_cli.artifacts.caches import cache_directory
from perpcs_cli.artifacts.io import hashing, typed_files
from perpcs_cli.artifacts.io.lock import locked
from perpcs_cli.errors import DataError, PerpcsError, UsageError

Name = Literal["float32", "bfloat16", "float16"]

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
MARGIN = 1.3
"""So many times as fast as float32 must another type be."""
TURNS = 5
"""Of each type, in turns; the fastest counts."""
WIDEST = 1024
"""Wider layers are timed at this width: it takes no longer to tell."""
ROWS = {"cpu": (8, 128), "cuda": (2048,)}
"""Tokens in the products: as decoding has them and as prompts do. On a GPU, enough to keep it busy."""


class Widths(NamedTuple):
    """What the products' shapes come from: the width of a model's hidden state and of its MLP."""

    hidden: int = 1024
    intermediate: int = 2816


class Speeds(msgspec.Struct, frozen=True, kw_only=True, tag_field="format", tag="perpcs.dtype/1"):
    """One record, in the cache: seconds of the same matrix products in each number type on one kind of device.

    A type that the device does not compute in is left out.
    """

    device: str
    """Its name."""
    torch: str
    hidden: int
    intermediate: int
    seconds: dict[Name, Annotated[float, Meta(gt=0, lt=1e6)]]

    def best(self, *, trains: bool = False) -> Name:
        """The type that `auto` stands for. Training takes no float16, in which small gradients vanish."""
        others: tuple[Name, ...] = ("bfloat16",) if trains else ("bfloat16", "float16")
        least = self.seconds["float32"] / MARGIN
        return next((name for name in others if self.seconds.get(name, least * 2) <= least), "float32")


def choose_dtype(name: str, device: torch.device, widths: Widths, *, trains: bool = False) -> torch.dtype:
    """The number type of a name; `auto` is what was fastest by measurement.

    With `trains` it is one to train in: float16 would need its loss scaled. Raises UsageError for that one then, and
    for one that is not there.
    """
    if name == "auto":
        return DTYPES[speeds(device, widths).best(trains=trains)] if device.type in ROWS else torch.float32
    if name not in DTYPES:
        raise UsageError(f"no such dtype: {name!r}", where="--dtype", hint=f"There are auto, {', '.join(DTYPES)}.")
    if trains and name == "float16":
        raise UsageError(
            "float16 is not for training: small gradients vanish in it",
            where="--dtype",
            hint="Train with --dtype bfloat16 or float32; what was trained runs in float16, too.",
        )
    return DTYPES[name]


def read_widths(directory: Path) -> Widths:
    """The widths of a model, by its configuration; common ones where it does not say.

    Raises DataError where the configuration is missing or broken.
    """
    config = typed_files.read_json(directory / "config.json", dict[str, Any])
    inner = config.get("text_config")
    config = {**config, **inner} if isinstance(inner, dict) else config
    given = {name: config.get(f"{name}_size") for name in Widths._fields}
    return Widths(**{name: size for name, size in given.items() if type(size) is int and size > 0})


COMMON = Widths()


def speeds(device: torch.device, widths: Widths = COMMON) -> Speeds:
    """What was measured on this kind of device, with this torch: by the record in the cache, else now.

    Records of processes that measure at once are one: the first that is written holds.
    """
    widths = Widths(*(min(size, WIDEST) for size in widths))
    key = (_kind_of(device), str(torch.__version__), widths)
    place = cache_directory() / "number-types" / f"{hashing.digest_value(key)}.json"
    if (known := _recall(place)) is not None:
        return known
    measured = measure(device, widths)
    try:
        with locked(place, lambda _: None):
            if (known := _recall(place)) is not None:
                return known
            typed_files.write_json(place, measured)
    except (PerpcsError, OSError):
        # Where there is no place for caches, each run measures.
        pass
    return measured


def _recall(place: Path) -> Speeds | None:
    try:
        known = typed_files.read_json(place, Speeds)
    except DataError:
        # It is a cache: one that cannot be read is none.
        return None
    return known if "float32" in known.seconds else None


def _kind_of(device: torch.device) -> tuple[str, ...]:
    """What its speed depends on, the same on machines alike: so that they decide alike."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device), str(torch.cuda.get_device_capability(device))
    found = {"model name": platform.processor(), "flags": torch.backends.cpu.get_cpu_capability()}
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
    except OSError:
        # Other systems than Linux.
        first = ""
    for line in first.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in found:
            found[name.strip()] = value.strip()
    return tuple(found.values())


@torch.inference_mode()
def measure(device: torch.device, widths: Widths) -> Speeds:
    """Time a model's matrix products in every number type, in turns: what else the machine does falls on all alike."""
    works: dict[Name, Callable[[], float]] = {}
    names: tuple[Name, ...] = ("float32", "bfloat16", "float16") if device.type == "cuda" else ("float32", "bfloat16")
    for name in names:
        try:
            work = partial(_run, device, *_products(device, DTYPES[name], widths))
            work()
        except RuntimeError as error:
            # There are no such kernels. Memory that is full is no property of the device.
            if name == "float32" or isinstance(error, torch.OutOfMemoryError):
                raise
            continue
        works[name] = work
    taken = {name: min(turn) for name, turn in zip(works, zip(*_turns(works), strict=True), strict=True)}
    return Speeds(
        device=_kind_of(device)[0] or platform.machine(),
        torch=str(torch.__version__),
        hidden=widths.hidden,
        intermediate=widths.intermediate,
        seconds=taken,
    )


def _turns(works: dict[Name, Callable[[], float]]) -> list[list[float]]:
    return [[work() for work in works.values()] for _ in range(TURNS)]


def _products(device: torch.device, dtype: torch.dtype, widths: Widths) -> tuple[list[Tensor], list[Tensor]]:
    """(inputs, weights), each of which are multiplied with each other: attention's output layer, and the MLP's two."""
    hidden, intermediate = widths
    shapes = [(hidden, hidden), (intermediate, hidden), (hidden, intermediate)]
    full = partial(torch.full, fill_value=0.01, device=device, dtype=dtype)
    rows = [full((count, width)) for count in ROWS[device.type] for width in (hidden, intermediate)]
    return rows, [full(shape) for shape in shapes]


def _run(device: torch.device, rows: list[Tensor], weights: list[Tensor]) -> float:
    """Seconds of all products."""
    began = time.perf_counter()
    for weight in weights:
        for x in rows:
            if x.shape[1] == weight.shape[1]:
                F.linear(x, weight)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return max(time.perf_counter() - began, 1e-9)
