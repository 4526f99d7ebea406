"""What `train-sharer` and `gate` share: the flags of differential privacy, and what is shown of a training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from perpcs_cli.artifacts.adapter import Card
from perpcs_cli.artifacts.gate import GateCard
from perpcs_cli.artifacts.privacy import check_installed, spoken
from perpcs_cli.cli.command import panel
from perpcs_cli.cli.setting_flags import Section
from perpcs_cli.errors import UsageError
from perpcs_cli.steps.share.privacy import Budget

DELTA = 1e-5
LORA_CLIP = 1.0
GATE_CLIP = 0.1
"""Below the gradients of most examples, as measured on SmolLM2: with AdamW, which divides by the gradients' scale, a
low bound costs nothing, and a high one costs noise."""


@dataclass(frozen=True)
@panel("Differential privacy")
class PrivacyFlags:
    """The flags of training with differential privacy."""

    dp_epsilon: Annotated[
        float | None, typer.Option("--dp-epsilon", metavar="<E>", help="The most that each training may spend.")
    ] = None
    dp_noise: Annotated[
        float | None,
        typer.Option("--dp-noise", metavar="<SIGMA>", help="The same by its noise, as a multiple of --dp-clip."),
    ] = None
    dp_delta: Annotated[
        float | None,
        typer.Option("--dp-delta", metavar="<D>", help="The delta of the guarantee.", show_default=f"{DELTA:g}"),
    ] = None
    dp_clip: Annotated[
        float | None,
        typer.Option("--dp-clip", help="Largest gradient norm of one example.", show_default="1; for gates 0.1"),
    ] = None

    def budget(self, workspace: Path, training: Section, *, clip: float) -> Budget | None:
        """What was asked for, or None without differential privacy. `clip`: the default of --dp-clip.

        Raises UsageError for numbers out of range, and for flags that would have no effect.
        """
        if self.dp_epsilon is None and self.dp_noise is None:
            if self.dp_delta is not None or self.dp_clip is not None:
                flag = "--dp-clip" if self.dp_delta is None else "--dp-delta"
                raise UsageError("needs --dp-epsilon or --dp-noise", where=flag)
            return None
        if self.dp_epsilon is not None and self.dp_noise is not None:
            raise UsageError("give one", where="--dp-epsilon and --dp-noise", hint="Each follows from the other.")
        for flag, value in (("epsilon", self.dp_epsilon), ("noise", self.dp_noise), ("clip", self.dp_clip)):
            if value is not None and not 0 < value < float("inf"):
                raise UsageError(f"must be above 0, and is {value:g}", where=f"--dp-{flag}")
        delta = DELTA if self.dp_delta is None else self.dp_delta
        if not 0 < delta < 1:
            raise UsageError(f"must be between 0 and 1, and is {delta:g}", where="--dp-delta")
        if "clip" in training.given:
            where = "--dp-noise" if self.dp_epsilon is None else "--dp-epsilon"
            raise UsageError("clips each example's gradient, not a batch's", where=where, hint="Use --dp-clip.")
        check_installed()
        return Budget(self.dp_epsilon, self.dp_noise, delta, self.dp_clip or clip, workspace)


def training_columns(card: Card | GateCard, *more: object) -> list[object]:
    """First and last loss, then `more`; at the end the guarantee, which forbids to tell the losses."""
    losses = ["-" if loss is None else f"{loss:.4f}" for loss in (card.first_loss, card.last_loss)]
    return [*losses, *more, *([spoken(card.privacy)] if card.privacy else [])]
