"""`perpcs train-sharer`: one LoRA per user, on the user's own history. On a target user it is the OPPU baseline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from perpcs_cli.cli import flags, setting_flags
from perpcs_cli.cli.command import command
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.rows import show_outcomes
from perpcs_cli.cli.share.privacy_flags import LORA_CLIP, PrivacyFlags, training_columns


@command
def train_sharer(
    console: Console,
    write: flags.WriteFlags,
    base: flags.BaseFlags,
    who: flags.ShardFlags,
    training: setting_flags.TrainFlags,
    lora: setting_flags.LoraFlags,
    asked: flags.ExampleFlags,
    private: PrivacyFlags,
    recent: flags.RecentOption = None,
    hold_out: flags.HoldOutOption = 0.0,
    together: flags.TogetherOption = None,
    out: Annotated[Path | None, flags.out_option("sharers of the workspace", "directory")] = None,
) -> None:
    """Train a LoRA for each user.

    The users are those of splits/sharer.txt by default (see `perpcs select`), or of splits/candidate.txt where nobody
    was selected; each gets a directory in PEFT's layout. Users who are finished are skipped, so a run that was stopped
    goes on where it was. Trained on target users (--users @splits/target.txt --out oppu), it is the OPPU baseline.
    """
    from perpcs_cli.steps.share.train_sharer import train_sharer as step

    outcomes = step(
        base.open(training, lora),
        who.who(),
        shown=asked.examples(),
        recent=recent,
        hold_out=hold_out,
        together=together,
        budget=private.budget(base.workspace, training, clip=LORA_CLIP),
        out=out,
        **write.mode(console),
    )
    show_outcomes(console, outcomes, lambda one: training_columns(one.value, one.value.steps) if one.value else [])
