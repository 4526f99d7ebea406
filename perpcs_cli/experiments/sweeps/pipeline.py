"""From a cell of a sweep to its steps: command lines of perpcs, each with a place that is named by its content."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from perpcs_cli.artifacts.io import hashing
from perpcs_cli.artifacts.settings import AssembleSettings, Settings, make_settings
from perpcs_cli.artifacts.sweep import Value, flat
from perpcs_cli.errors import UsageError
from perpcs_cli.experiments.sweeps.grid import READS, STEPS_OF, Cell, Flags, covers, spelled
from perpcs_cli.experiments.sweeps.step_settings import ALPHAS, as_settings
from perpcs_cli.tasks.spec import Task, get_task

COMMANDS = {"pool": ("pool", "build"), "oppu": ("train-sharer",)}
"""The command of a step that is not called like it."""

SEARCH = frozenset(f"prime.{key}" for key in ("alpha", "budget", "optimizer", "sigma", "popsize", "bounds", "ties"))
"""Settings of PriME that no trace depends on: searches that differ in them alone share their evaluations."""

MODELS = ("model", "embed.encoder")
"""Settings that name a model."""

PROMPTS = frozenset({"plain", "retrieve", "random-history", "with-profile"})
"""The flags that say together what examples show."""

EXAMPLES = frozenset({"adapt", "train-sharer", "oppu", "gate", "assemble"})
"""The steps whose examples show the user's profile where there is one, unless told otherwise."""


@dataclass(frozen=True)
class StepWorkspace:
    """The directory whose `perpcs.toml` a step reads, and the step that writes the profiles beside it."""

    path: Path
    settings: Settings
    profile: Step | None


@dataclass(frozen=True)
class Step:
    """One command of a cell."""

    name: str
    digest: str
    """Of the flags and settings that change what it writes, and of the steps that it needs."""
    place: Path
    """Where it writes. Steps that differ only in their users, or in how PriME goes through weights, share one."""
    product: Path
    """The file or directory that others read."""
    line: tuple[str, ...]
    """The command line, without `perpcs` in front."""
    workspace: StepWorkspace

    @property
    def marker(self) -> Path:
        """The file that says that this step was run to its end."""
        return self.place / f"step-{self.name}-{self.digest[:12]}.json"

    def __str__(self) -> str:
        return shlex.join(["perpcs", *self.line])


@dataclass(frozen=True)
class Kit:
    """What all cells of a sweep share."""

    out: Path
    data: tuple[str, ...]
    data_digest: str
    published: Mapping[str, Any]
    """The settings layer of the task, the paper and the preset."""
    given: Mapping[str, Any]
    """The layer over each cell's settings: the model, and where it runs."""
    flags: Flags
    """What each step's command knows."""
    content: Callable[[str], str] = lambda name: ""
    """The fingerprint of the model or encoder of a name, whose weights may be replaced while it keeps the name."""


def pipeline(cell: Cell, kit: Kit) -> list[Step]:
    """The steps of a cell in the order in which they run; the last one writes the predictions.

    Raises UsageError for settings and flags that cannot be.
    """
    made = _Pipeline(cell, kit)
    made.run()
    return made.steps


@dataclass
class _Pipeline:
    cell: Cell
    kit: Kit
    steps: list[Step] = field(default_factory=list)
    profile: Step | None = None

    def run(self) -> None:
        method = self.cell.method
        data = self.step("import", "users.jsonl", self.kit.data, needs=[self.kit.data_digest])
        users = ("--users-file", str(data.product))
        split = self.step("split", "splits", users, needs=[data])
        targets = (*users, *_listed(split, "target"))
        self.profile = self._profile(users, data, split)
        if method == "base":
            self.predict([*targets, "--base", "--task-adapter", "none"], [split])
            return
        adapt = self.step("adapt", "task-adapter", [*users, *_listed(split, "base"), "--no-record"], needs=[split])
        adapted = ("--task-adapter", str(adapt.product))
        if method == "adapted":
            self.predict([*targets, "--base", *adapted], [split, adapt])
            return
        if method == "oppu":
            own = self.step("oppu", "sharers", [*targets, *adapted], needs=[adapt], who=split)
            self.predict([*targets, "--own", str(own.product), *adapted], [split, own])
            return
        select = self._select(users, data, split) if "select" in self.cell.flags else None
        chosen = _listed(select, "sharer") if select else _listed(split, "candidate")
        sharers = self.step("train-sharer", "sharers", [*users, *chosen, *adapted], needs=[adapt], who=select or split)
        if method == "per-pcs":
            pieces = ("--sharers", str(sharers.product))
            trained = [*users, *chosen, *adapted, *pieces]
            sharers = self.step("gate", "sharers", trained, needs=[sharers.place.name], who=select or split)
        gates = () if method == "per-pcs" else ("--no-gates",)
        built = ["--sharers", str(sharers.product), *chosen, *gates]
        pool = self.step("pool", "pool-{digest}.json", built, needs=[sharers], place=sharers.place)
        inputs = [*targets, "--pool", str(pool.product)]
        needs = [pool, split]
        if method != "per-pcs" or self._assembly().similar is not None:
            embed = self.step("embed", "embeddings.safetensors", users, needs=[data])
            inputs += ["--embeddings", str(embed.product)]
            needs.append(embed)
        if method == "per-pcs":
            if self._assembly().contrast:
                inputs += _listed(split, "base", "--base-users")
            recipes = self.step("assemble", "recipes", [*inputs, *adapted], needs=needs)
        elif method == "retrieval":
            recipes = self.step("retrieve", "recipes", inputs, needs=needs)
        else:
            recipes = self.step("prime", "recipes-{digest}", [*inputs, *adapted], needs=needs)
        self.predict(
            [*targets, "--recipes", str(recipes.product), "--pool", str(pool.product), *adapted], [split, recipes]
        )

    def predict(self, arguments: Sequence[str], needs: Sequence[Step]) -> None:
        method = self.cell.method
        self.step("predict", f"{method}.jsonl", [*arguments, "--name", method], needs=needs)

    def _profile(self, users: Sequence[str], data: Step, split: Step) -> Step | None:
        """Profiles of those whose prompts or selection ask for them; None where nothing does."""
        asking = {name for name in STEPS_OF[self.cell.method] if self._shows_profile(name)}
        if not asking:
            return None
        # Else an adapter from the environment would write them.
        bare = ("--task-adapter", "none")
        for part, readers in (("target", {"assemble", "prime", "predict"}), ("candidate", {"select"})):
            if asking <= readers:
                return self.step(
                    "profile", "profiles.jsonl", [*users, *_listed(split, part), *bare], needs=[split, part]
                )
        return self.step("profile", "profiles.jsonl", [*users, *bare], needs=[data])

    def _assembly(self) -> AssembleSettings:
        """How this cell assembles."""
        layer, _ = as_settings(self._given("assemble"), "assemble")
        return self.settings(layer).assemble

    def _searches_both(self) -> bool:
        """Whether PriME scores candidates on prompts with context, too."""
        layer, _ = as_settings(self._given("prime"), "prime")
        return self.settings(layer).prime.prompts == "both"

    def _shows_profile(self, name: str) -> bool:
        flags = self._given(name)
        published = "profile" in self.cell.flags and self.task.trains_with_context
        default = (name in EXAMPLES or (name == "prime" and self._searches_both())) and not PROMPTS & flags.keys()
        return bool(flags.get("with-profile") or (default and published) or flags.get("strategy") == "profile-cluster")

    def _select(self, users: Sequence[str], data: Step, split: Step) -> Step:
        arguments = [*users, *_listed(split, "candidate")]
        strategy = self._given("select").get("strategy")
        needs = [split]
        if strategy in (None, "history-cluster", "profile-cluster"):
            if strategy == "profile-cluster":
                what = {"what": "profile"}
                embed = self.step("embed", "embeddings.safetensors", arguments, needs=[split, "candidate"], more=what)
            else:
                embed = self.step("embed", "embeddings.safetensors", users, needs=[data])
            arguments += ["--embeddings", str(embed.product)]
            needs.append(embed)
        return self.step("select", "splits", arguments, needs=needs)

    def _given(self, name: str) -> dict[str, Value]:
        """The flags of a step that differ from what its command takes without them."""
        shared = self.cell.flags.get("train-sharer", {}) if name == "oppu" else {}
        own = self.cell.flags.get(name, {})
        if PROMPTS & own.keys():
            # What examples show is one choice, made of several flags.
            shared = {flag: value for flag, value in shared.items() if flag not in PROMPTS}
        given = {**shared, **own}
        if name not in EXAMPLES and given.get("retrieve") == 0:
            del given["retrieve"]
        known = self.kit.flags[name]
        return {
            flag: value
            for flag, value in given.items()
            if value != known[flag].default or isinstance(value, bool) != isinstance(known[flag].default, bool)
        }

    @cached_property
    def task(self) -> Task:
        """The sweep's."""
        return get_task(self.settings().task)

    def settings(self, layer: Mapping[str, Any] | None = None) -> Settings:
        """The cell's settings, with a step's flags over them. Raises UsageError for what cannot be."""
        layers = (dict(self.kit.published), self.cell.layer, dict(self.kit.given), dict(layer or {}))
        return make_settings(*layers, where=self.cell)

    def step(
        self,
        name: str,
        product: str,
        arguments: Sequence[str],
        needs: Sequence[Step | str],
        *,
        who: Step | None = None,
        place: Path | None = None,
        more: Mapping[str, Value] | None = None,
    ) -> Step:
        """Add a step. `who` only chooses users: what is written for each of them does not depend on it."""
        flags = {**self._given(name), **(more or {})}
        layer, rest = as_settings(flags, name)
        read = {
            path: value
            for path, value in flat(msgspec.to_builtins(self.settings(layer))).items()
            if any(covers(section, path) for section in READS[name])
        }
        if "task" in read:
            read |= self.task.identity
        read |= {f"{path}.content": self.kit.content(str(read[path])) for path in MODELS if path in read}
        profile = self.profile if self._shows_profile(name) or flags.get("what") == "profile" else None
        seed = flags.get("seed", self.cell.seed) if "seed" in self.kit.flags[name] else None
        content: dict[str, Any] = {
            "step": name,
            "flags": {flag: value for flag, value in rest.items() if flag != "seed"},
            "settings": read,
            "seed": seed,
            "needs": [one if isinstance(one, str) else one.digest for one in needs],
            "profile": profile.digest if profile else None,
        }
        digest = hashing.digest_value([content, who.digest if who else None])
        if same := [step for step in self.steps if step.digest == digest]:
            return same[0]
        if name == "prime":
            if len(read["prime.alpha"]) > 1:
                hint = "Give prime = { alpha = [0, 0.2, 1] } in an experiment."
                raise UsageError(ALPHAS, where="settings.prime.alpha", hint=hint)
            content["settings"] = {path: value for path, value in read.items() if path not in SEARCH}
        place = place or self.kit.out / "steps" / f"{name}-{hashing.digest_value(content)[:12]}"
        written = place / product.format(digest=digest[:12])
        workspace = self._workspace(profile)
        traces = ("--traces", str(place / "traces")) if name == "prime" else ()
        seeded = () if seed is None or "seed" in flags else ("--seed", str(seed))
        command = COMMANDS.get(name, (name,))
        spoken = [word for flag, value in flags.items() for word in self._spoken(name, flag, value)]
        line = (*command, "-w", str(workspace.path), *arguments, *spoken, *seeded, *traces, "--out", str(written))
        self.steps.append(Step(name, digest, place, written, line, workspace))
        return self.steps[-1]

    def _workspace(self, profile: Step | None) -> StepWorkspace:
        settings = self.settings()
        told = msgspec.structs.replace(settings, task=" ".join(self.task.identity.values()))
        name = hashing.digest_value([told, profile.digest if profile else None])[:12]
        return StepWorkspace(self.kit.out / "settings" / name, settings, profile)

    def _spoken(self, name: str, flag: str, value: Value) -> list[str]:
        known = self.kit.flags[name][flag]
        if not known.switch:
            return [f"--{flag}", spelled(value)]
        return [f"--{flag}"] if value else [f"--{known.off}"] if known.off else []


def _listed(step: Step, part: str, flag: str = "--users") -> tuple[str, str]:
    """The flag that names the users of a list."""
    return flag, f"@{step.product / part}.txt"
