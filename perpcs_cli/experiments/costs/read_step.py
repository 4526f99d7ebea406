"""A step of a sweep read back from its command line: its flags, and its settings with the flags over them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from perpcs_cli.artifacts.settings import Settings, make_settings
from perpcs_cli.experiments.sweeps.grid import Flags
from perpcs_cli.experiments.sweeps.pipeline import COMMANDS, Step
from perpcs_cli.experiments.sweeps.step_settings import as_settings
from perpcs_cli.tasks.prompts import PLAIN, PUBLISHED, Shown
from perpcs_cli.tasks.spec import get_task


@dataclass(frozen=True)
class Asked:
    """A step with its flags and settings as its command will see them."""

    step: Step
    flags: Mapping[str, Any]
    settings: Settings

    @property
    def name(self) -> str:
        """The step's name."""
        return self.step.name

    @property
    def shown(self) -> Shown:
        """What its prompts show of users."""
        flags = self.flags
        if flags.get("plain"):
            return PLAIN
        if {"retrieve", "random-history", "with-profile"} & flags.keys():
            return Shown(
                retrieve=int(flags.get("retrieve", 0)),
                random_history=int(flags.get("random-history", 0)),
                profile=bool(flags.get("with-profile")),
            )
        if self.name in ("predict", "profile") or (self.name == "prime" and self.settings.prime.prompts == "once"):
            return PLAIN
        if not get_task(self.settings.task).trains_with_context:
            return PLAIN
        return msgspec.structs.replace(PUBLISHED, profile=True) if self.step.workspace.profile else PUBLISHED

    def new_tokens(self) -> int:
        """The most tokens of an answer."""
        if self.name == "prime":
            return get_task(self.settings.task).generates_history or self.settings.predict.max_new_tokens
        return self.settings.predict.max_new_tokens


def asked(step: Step, known: Flags) -> Asked:
    """Read a step's command line back: its flags, and its settings with the flags over them."""
    flags: dict[str, Any] = {}
    table = known[step.name]
    off = {flag.off: flag.name for flag in table.values() if flag.off}
    words = iter(step.line[len(COMMANDS.get(step.name, (step.name,))) :])
    for word in words:
        name = word.removeprefix("--")
        if name in off:
            flags[off[name]] = False
        elif word.startswith("--") and name in table and table[name].switch:
            flags[name] = True
        elif word.startswith("-"):
            flags[name] = _value(next(words))
    layer, _ = as_settings({name: value for name, value in flags.items() if name in table}, step.name)
    # Where the base's adapter lies and how the model is called change nothing here.
    layer.pop("task", None)
    return Asked(step, flags, make_settings(msgspec.to_builtins(step.workspace.settings), layer, where=step))


def _value(word: str) -> Any:
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word
