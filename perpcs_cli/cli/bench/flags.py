"""What the benchmarks share: flags, and a workspace where there is none."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from perpcs_cli.cli.flags import BaseFlags
from perpcs_cli.cli.setting_flags import Section
from perpcs_cli.steps.workspace import Places, Workspace

ItemsOption = Annotated[int, typer.Option("--items", min=1, help="History items of the target user.")]
RepeatsOption = Annotated[int, typer.Option("--repeats", min=1, help="Measurements of each.")]
PoolSizeOption = Annotated[int, typer.Option("--pool-size", min=1, help="Sharers in the pool.")]


def bench_workspace(base: BaseFlags, *sections: Section) -> Workspace:
    """The workspace, or one for the small model and synthetic headlines where there is none."""
    if not Places(base.workspace).settings_file.exists():
        base = replace(base, model=base.model or "smollm2-135m", task=base.task or "news_headline")
    return base.open(*sections)
