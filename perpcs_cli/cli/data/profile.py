"""`perpcs profile`: textual user profiles, written by a language model (PAG)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from perpcs_cli.cli import flags, setting_flags
from perpcs_cli.cli.command import command
from perpcs_cli.cli.console import Console


@command
def profile(
    console: Console,
    write: flags.WriteFlags,
    base: flags.BaseFlags,
    who: flags.ShardFlags,
    how: setting_flags.ProfileFlags,
    batches: setting_flags.BatchFlags,
    out: Annotated[Path | None, flags.out_option("profiles.jsonl of the workspace", "file")] = None,
) -> None:
    """Write users' textual profiles with a language model.

    The model reads the newest items of a history, or random ones, after the task's published question, and answers
    greedily unless --decode-temperature says otherwise; --model may name a better writer than the workspace's. A task
    adapter is merged only where --task-adapter names one: it would answer the task. All users get a profile by
    default. Users who have one are skipped unless their history has changed, so a run that was stopped goes on where
    it was. All other commands find the profiles in profiles.jsonl.
    """
    from perpcs_cli.steps.data.profile import profile as step

    outcomes = step(
        replace(base, task_adapter=base.task_adapter or "none").open(how, batches),
        who.who(),
        out=out,
        **write.mode(console),
    )
    if not outcomes:
        console.result({"profiles": 0}, "no users in this shard")
        return
    path = str(outcomes[0].path)
    made = sum(one.state == "made" for one in outcomes)
    left = sum(one.state == "to do" for one in outcomes)
    value = {"path": path, "profiles": len(outcomes) - left, "written": made, "to_do": left}
    text = f"{path}\t{len(outcomes) - left} profiles\t{made} written"
    console.result(value, f"{text}\t{left} to do" if left else text)
