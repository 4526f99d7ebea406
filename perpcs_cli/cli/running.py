"""What the commands that run the model share: loading the base, tokenizing with a word on what was cut."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from perpcs_cli.cli.console import Console
from perpcs_cli.cli.context import Context
from perpcs_cli.errors import DataError

if TYPE_CHECKING:
    from perpcs_cli.model.base import Base
    from perpcs_cli.model.batching import Encoded
    from perpcs_cli.tasks.prompts import Prompt


def open_base(context: Context, console: Console, *, adapted: bool = True) -> Base:
    """Load the base model of the settings, with its task adapter unless `adapted` is false."""
    from perpcs_cli.model.base import load_base

    settings = context.settings
    base = load_base(
        settings.model,
        targets=settings.lora.targets,
        task_adapter=settings.task_adapter if adapted else "",
        device=settings.device,
        dtype=settings.dtype,
    )
    shape = f"{base.describe()['dtype']} on {base.device}"
    task_adapter = f" + {settings.task_adapter}" if adapted and settings.task_adapter else ""
    console.note(f"base: {settings.model}{task_adapter}, {shape}, {len(base.targets)} linear layers")
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
