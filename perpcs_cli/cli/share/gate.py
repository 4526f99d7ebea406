"""`perpcs gate`: post-hoc gate vectors for sharers' pieces."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from perpcs_cli.cli import flags, setting_flags
from perpcs_cli.cli.command import command
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.rows import show_outcomes
from perpcs_cli.cli.share.privacy_flags import GATE_CLIP, PrivacyFlags, training_columns


@command
def gate(
    console: Console,
    write: flags.WriteFlags,
    base: flags.BaseFlags,
    who: flags.ShardFlags,
    training: setting_flags.GateFlags,
    asked: flags.ExampleFlags,
    private: PrivacyFlags,
    recent: flags.RecentOption = None,
    together: flags.TogetherOption = None,
    sharers: flags.SharersOption = None,
    out: Annotated[Path | None, flags.out_option("beside the sharers' LoRAs", "directory")] = None,
) -> None:
    """Train gates for sharers' pieces.

    One vector per piece, with the LoRA frozen, for everyone below sharers/ by default. Sharers whose gates are
    finished are skipped. What `train-sharer --hold-out` kept away is kept away here, too. With --dropout the LoRA sees
    dropout meanwhile, as in the published code. With --out the sharers stay as they are, and others with the same LoRAs
    and these gates are made, so that several gates can be compared.
    """
    from perpcs_cli.steps.share.gate import gate as step

    outcomes = step(
        base.open(training),
        who.who(),
        shown=asked.examples(),
        recent=recent,
        together=together,
        budget=private.budget(base.workspace, training, clip=GATE_CLIP),
        sharers=sharers,
        out=out,
        **write.mode(console),
    )
    show_outcomes(console, outcomes, lambda one: training_columns(one.value) if one.value else [])
