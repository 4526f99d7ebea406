"""What all steps that write have in common: what is finished already, what is left to do, and doing it, under a lock.

A step says what it wants to have written, as `Output`s, and gives a function that makes those that are not there yet.
`run` looks at each output that exists: one that was made from the same is finished, one that was made from something
else, or is not ours, is an error unless `force`. The others are made in the order in which they were given. Each is
written whole or not at all, so that a run that was stopped goes on with the first one that is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, Protocol, TypeVar

from perpcs_cli.artifacts.io.atomic import refuse_existing
from perpcs_cli.artifacts.io.leftovers import sweep
from perpcs_cli.artifacts.io.provenance import Provenance, check_same
from perpcs_cli.artifacts.io.typed_files import holds
from perpcs_cli.steps.report import SILENT, Report
from perpcs_cli.steps.shards import Shard, held

State = Literal["made", "finished", "to do"]


class Made(Protocol):
    """An artifact that says what it was made from."""

    @property
    def provenance(self) -> Provenance:
        """What it was made from."""


T = TypeVar("T")
M = TypeVar("M", bound=Made)


@dataclass(frozen=True)
class Output(Generic[T]):
    """One thing that a step writes."""

    name: str
    """What rows and messages call it: a user's id, mostly."""
    path: Path
    finished: Callable[[], T | None]
    """What stands there if it was made from the same; None where nothing does. Raises where something else does."""
    tidy: Callable[[], None] = lambda: None
    """Takes away what a run that was killed at its very end has left beside it."""


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """What became of an output. `value` is None where it is still to do."""

    name: str
    path: Path
    state: State
    value: T | None


Keep = Callable[[Output[T], T], None]
"""To be called with each output when it is written."""


def made_from(provenance: Provenance, path: Path, read: Callable[[Path], M | None]) -> Callable[[], M | None]:
    """The usual way to tell whether an output is finished: it reads well, and says that it was made from the same.

    `read` gives None where what stands there is no such artifact; it is then left alone, and an error.
    """

    def finished() -> M | None:
        if not path.exists():
            return None
        found = read(path)
        if found is None:
            refuse_existing(path, force=False)
            return None
        check_same(found.provenance, provenance, where=path)
        return found

    return finished


def run(
    outputs: Sequence[Output[T]],
    make: Callable[[Sequence[Output[T]], Keep[T]], None],
    *,
    place: Path,
    things: str = "users",
    shard: Shard | None = None,
    force: bool = False,
    dry_run: bool = False,
    report: Report = SILENT,
) -> list[Outcome[T]]:
    """Make the outputs that are not finished, and say what became of each, in the order in which they were given.

    `make(todo, keep)` writes each of `todo` and calls `keep(output, value)` when it is written. `place`: the file or
    directory that is locked from the first look to the last write; `things`: what the outputs are called, empty where
    the place is the only one; `shard`: whose outputs these are, beside which other shards write theirs. Raises what
    looking and making raise; what was written until then stays.
    """
    if not outputs:
        return []
    lock: AbstractContextManager[None] = nullcontext() if dry_run else held(place, shard, report)
    with lock:
        if not dry_run:
            for directory in {output.path.parent for output in outputs}:
                sweep(directory)
        found = [None if force else output.finished() for output in outputs]
        rows = [
            Outcome(output.name, output.path, "to do" if one is None else "finished", one)
            for output, one in zip(outputs, found, strict=True)
        ]
        todo = [output for output, one in zip(outputs, found, strict=True) if one is None]
        if len(todo) < len(outputs):
            several = f"{len(outputs) - len(todo)} of {len(outputs)} {things} are finished already"
            report.note(several if things else f"{outputs[0].path} is finished already")
        at = {id(output): number for number, output in enumerate(outputs)}

        def keep(output: Output[T], value: T) -> None:
            rows[at[id(output)]] = Outcome(output.name, output.path, "made", value)

        if not dry_run:
            for output, row in zip(outputs, rows, strict=True):
                if row.state == "finished":
                    output.tidy()
            if todo:
                make(todo, keep)
    return rows


def run_one(
    output: Output[T],
    make: Callable[[], T],
    *,
    place: Path | None = None,
    shard: Shard | None = None,
    force: bool = False,
    dry_run: bool = False,
    report: Report = SILENT,
) -> Outcome[T]:
    """The same for a step with a single output, which `make` writes and returns; the place is its own by default."""
    (outcome,) = run(
        [output],
        lambda _, keep: keep(output, make()),
        place=place or output.path,
        things="",
        shard=shard,
        force=force,
        dry_run=dry_run,
        report=report,
    )
    return outcome


def same_bytes(path: Path, pieces: Iterable[bytes]) -> Callable[[], bool | None]:
    """Whether an output without a provenance is finished: it holds these very bytes already, piece after piece."""

    def finished() -> bool | None:
        if not path.exists():
            return None
        if path.is_file() and holds(path, pieces):
            return True
        refuse_existing(path, force=False)
        return None

    return finished
