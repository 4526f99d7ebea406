"""What the commands that run the model share: loading the base, tokenizing with a word on what was cut."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

from perpcs_cli.cli.console import Console
from perpcs_cli.cli.context import Context
from perpcs_cli.errors import DataError

if TYPE_CHECKING:
    from perpcs_cli.model.base import Base
    from perpcs_cli.model.batching import Encoded
    from perpcs_cli.tasks.prompts import Prompt


_kept: ContextVar[dict[tuple[object, ...], Base] | None] = ContextVar("kept", default=None)
"""The last base that was loaded, by all that it was loaded from; None outside of `kept_base`."""


@contextmanager
def kept_base() -> Iterator[None]:
    """Keep the last base that `open_base` loads, so that several commands in this block load it once."""
    token = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(token)


def open_base(
    context: Context, console: Console, *, adapted: bool = True, pieces: bool = True, changed: bool = False
) -> Base:
    """Load the base model of the settings, with its task adapter unless `adapted` is false.

    Without `pieces` it needs no linear layers that could carry them. `changed`: the caller will change the model, so
    nobody else may get it.
    """
    from perpcs_cli.artifacts.adapter import open_adapter
    from perpcs_cli.model.base import load_base

    settings = context.settings
    targets = settings.lora.targets if pieces else ()
    task_adapter = settings.task_adapter if adapted else ""
    digest = open_adapter(Path(task_adapter)).digest() if task_adapter else ""
    key = (settings.model, targets, digest, settings.device, settings.dtype)
    kept = None if changed else _kept.get()
    base = kept.get(key) if kept else None
    if base is not None:
        return base
    if kept is not None:
        # Before the next one is loaded: two may not fit.
        kept.clear()
    base = load_base(
        settings.model, targets=targets, task_adapter=task_adapter, device=settings.device, dtype=settings.dtype
    )
    if kept is not None:
        kept[key] = base
    shape = f"{base.describe()['dtype']} on {base.device}"
    merged = f" + {task_adapter}" if task_adapter else ""
    layers = f", {len(base.targets)} linear layers" if pieces else ""
    console.note(f"base: {settings.model}{merged}, {shape}{layers}")
    return base


def encode_all(
    base: Base, prompts: Iterable[Prompt], context: Context, console: Console, *, who: str, reserve: int = 0
) -> list[Encoded]:
    """Tokenize prompts, and say how many had to be cut to fit. Errors name the user."""
    from perpcs_cli.model.batching import encode

    try:
        rows = [encode(base, prompt, context.settings.max_length, reserve=reserve) for prompt in prompts]
    except DataError as error:
        raise DataError(error.what, where=who, hint=error.hint) from None
    cut = [row.cut for row in rows if row.cut]
    if cut:
        console.warn(
            f"{who}: {len(cut)} of {len(rows)} inputs are longer than the context; "
            f"their articles were cut from the left, {max(cut)} tokens at most"
        )
    return rows


def first_and_last(losses: Sequence[float]) -> tuple[float, float]:
    """Mean loss over the first and over the last tenth of the steps."""
    tenth = max(1, len(losses) // 10)
    return sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth
