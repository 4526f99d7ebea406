"""Making a recipe again with the settings that its provenance names: as a step, and as the command line for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from perpcs_cli.artifacts.pools.revocation import Lost
from perpcs_cli.artifacts.settings import declared
from perpcs_cli.steps.personalize.assemble import assemble
from perpcs_cli.steps.personalize.retrieve import retrieve
from perpcs_cli.steps.report import Report
from perpcs_cli.steps.workspace import Who, open_workspace
from perpcs_cli.tasks.prompts import Shown


def remake(lost: Lost, workspace: Path, pool: Path, sharers: int, report: Report) -> None:
    """Make a recipe of Per-PCs or of retrieval again, over a pool that has `sharers` sharers now."""
    settings, who, out = lost.provenance.settings, Who((lost.user_id,)), lost.place
    if lost.method == "per-pcs":
        found = {**settings["assemble"], **_fewer(settings["assemble"], sharers)}
        opened = open_workspace(workspace, **_base(lost), assemble=found)
        shown = msgspec.convert(settings["prompts"], Shown)
        assemble(opened, who, shown=shown, pool=pool, out=out, report=report)
    elif lost.method != "prime":
        opened = open_workspace(workspace, task=settings["task"])
        given = {key: settings[key] for key in ("weights", "temperature", "merge")}
        retrieve(opened, who, similar=min(settings["top_k"], sharers), pool=pool, out=out, report=report, **given)


def command_line(lost: Lost, workspace: Path, pool: Path, sharers: int) -> tuple[str, ...]:
    """The command that makes the recipe, over a pool with `sharers` sharers; () where there is nobody left."""
    if not sharers:
        return ()
    settings = lost.provenance.settings
    places = ["--workspace", str(workspace), "--pool", str(pool), "--user", lost.user_id]
    places += ["--out", str(lost.place)]
    if lost.method not in ("per-pcs", "prime"):
        given = {key: settings[key] for key in ("weights", "temperature", "merge")}
        given |= {"task": settings["task"], "similar": min(settings["top_k"], sharers)}
        return ("retrieve", *places, *_flags(given))
    name = "assemble" if lost.method == "per-pcs" else "prime"
    found = dict(settings[name])
    found |= _fewer(found, sharers)
    if name == "prime":
        found["alpha"] = [settings["alpha"]]
    asked = _prompt_flags(settings["prompts"], plain=name == "assemble")
    return (name, *places, *_flags(_base(lost)), *_flags(found, f"{name}."), *asked)


def _fewer(settings: Mapping[str, Any], sharers: int) -> dict[str, int]:
    """The settings that count sharers, for a pool that has `sharers` of them."""
    return {key: min(settings[key], sharers) for key in ("top_k", "similar") if settings.get(key) is not None}


def _base(lost: Lost) -> dict[str, Any]:
    """The settings of the top that a recipe was made with."""
    keys = ("task", "max_length", "model", "dtype", "quantize", "device")
    known = {key: lost.provenance.settings[key] for key in keys if key in lost.provenance.settings}
    return {**known, "seed": lost.provenance.seed}


def _flags(settings: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Settings as flags; what is None was not set."""
    flags = []
    for key, value in settings.items():
        one = declared().get(prefix + key)
        name = one.flag if one and one.flag else key.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{name}" if value else f"--no-{name}")
        elif value is not None:
            # One word, so that a negative number is not taken for a flag.
            text = ",".join(map(str, value)) if isinstance(value, list | tuple) else value
            flags.append(f"--{name}={text}")
    return flags


def _prompt_flags(shown: Mapping[str, Any], *, plain: bool) -> list[str]:
    """The flags that give prompts what `shown` says. With `plain`, by default they show one item, and a profile if
    there is one."""
    flags = [f"--{key.replace('_', '-')}={shown[key]}" for key in ("retrieve", "random_history") if shown[key]]
    flags += ["--with-profile"] if shown["profile"] else []
    if not plain:
        return flags
    return [] if shown["profile"] is None else flags or ["--plain"]
