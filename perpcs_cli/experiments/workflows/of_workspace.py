"""The jobs of a workspace: the steps of some methods, over the users and lists that it has."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import msgspec

from perpcs_cli.artifacts.sweep import STEPS, Experiment, Method, Sweep, Value, check_names
from perpcs_cli.errors import UsageError
from perpcs_cli.experiments.costs.planner import Need
from perpcs_cli.experiments.sweeps.grid import FREE, PLACED, PLACED_OF, Flags
from perpcs_cli.experiments.sweeps.pipeline import COMMANDS
from perpcs_cli.experiments.workflows.jobs import Job, Machines, jobs_of
from perpcs_cli.steps.workspace import Workspace

GIVEN = (*(step for step in STEPS if step not in ("import", "split")), "mia", "eval")
"""Steps that can be given flags; import and split have come before. Of these, profile, select and mia run only where
they are named."""
OWN = ("workspace", "out", "shard", "name", "force", "dry-run", "json", "quiet")
"""Flags that the workflow gives itself, and those that no job has."""
READ = ("perpcs.toml", "users.jsonl", "splits/split.json")
"""Files whose changes concern every job."""


def read_flags(given: Sequence[str]) -> dict[str, list[str]]:
    """{step: its words} from texts like `gate --plain --lr 1e-3`. Raises UsageError for a step or flag that cannot be
    given."""
    found: dict[str, list[str]] = {}
    for text in given:
        try:
            step, *words = shlex.split(text)
        except ValueError:
            raise UsageError(f"is a step with its flags, not {text!r}", where="--flags") from None
        check_names([step], GIVEN, "step", "--flags")
        names = [word[2:].partition("=")[0] for word in words if word.startswith("--")]
        if placed := [name for name in names if name in OWN] or [word for word in words if word in ("-w", "-o")]:
            raise UsageError(f"the workflow gives {placed[0]} itself", where=f"--flags {text!r}")
        found.setdefault(step, []).extend(words)
    return found


def as_sweep(workspace: Workspace, methods: Sequence[Method], flags: Mapping[str, list[str]], known: Flags) -> Sweep:
    """The same as the config of a sweep, so that what it costs can be estimated."""
    settings = msgspec.to_builtins(workspace.settings)
    top = {name: settings.pop(name) for name in ("task", "model", "paper", "preset", "seed", "task_adapter")}
    steps = {step: _values(step, words, known) for step, words in flags.items() if step in known}
    steps = {step: {flag: v for flag, v in some.items() if not _placed(step, flag)} for step, some in steps.items()}
    if targets := workspace.split("target"):
        steps["split"] = {"targets": len(targets), "min-history": 1}
    return Sweep(
        task=top["task"],
        model=top["model"],
        paper=top["paper"],
        preset=top["preset"],
        data=(str(workspace.users),),
        seeds=(top["seed"],),
        settings={key: value for key, value in settings.items() if value is not None},
        steps=steps,
        experiments=(Experiment(name="workspace", methods=tuple(methods)),),
    )


def _placed(step: str, flag: str) -> bool:
    return (flag in PLACED and (step, flag) not in FREE) or (step, flag) in PLACED_OF


def _values(step: str, words: Sequence[str], known: Flags) -> dict[str, Value]:
    """{flag: its value} of a step's words; of a flag that is given twice, the last."""
    off = {flag.off: flag.name for flag in known[step].values() if flag.off}
    values: dict[str, Value] = {}
    rest = iter(words)
    for word in rest:
        name, given, text = word.removeprefix("--").partition("=")
        if name in off:
            values[off[name]] = False
        elif name in known[step]:
            values[name] = True if known[step][name].switch else _number(text if given else next(rest, ""))
    return values


def _number(text: str) -> Value:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def workspace_jobs(
    workspace: Workspace,
    methods: Collection[Method],
    flags: Mapping[str, list[str]],
    needs: Mapping[str, Need],
    machines: Machines,
) -> list[Job]:
    """The jobs of the methods. `needs`: what steps take, by their names.

    Raises UsageError where a method or step lacks what it needs.
    """
    return _Jobs(workspace, flags, needs, machines).of(methods)


@dataclass
class _Jobs:
    workspace: Workspace
    flags: Mapping[str, list[str]]
    needs: Mapping[str, Need]
    machines: Machines
    jobs: list[Job] = field(default_factory=list)
    recipes: list[str] = field(default_factory=list)
    """The directories of recipes."""

    def of(self, methods: Collection[Method]) -> list[Job]:
        start = [self.step("profile")] if "profile" in self.flags else []
        if self.workspace.split("base") and set(methods) != {"base"}:
            # It writes its name into perpcs.toml, which all others read.
            start = [self.step("adapt", needs=start)]
        embedded = [self.step("embed", needs=start)] if self._embeds(methods) else []
        pool: list[str] = []
        if {"retrieval", "per-pcs", "prime"} & set(methods):
            pool = [self._pool(start, embedded, gated="per-pcs" in methods)]
        answers = [name for one in methods for name in self._method(one, start, pool)]
        files = [f"predictions/{name}.jsonl" for name in answers]
        predicted = [f"predict-{name}" for name in answers]
        self.step("eval", [*files, "--out", "metrics/eval.json"], predicted)
        if "mia" in self.flags:
            if not self.recipes:
                raise UsageError("attacks recipes, and none of the methods makes any", where="--flags mia")
            self.step("mia", [word for place in self.recipes for word in ("--recipes", place)], predicted)
        return self.jobs

    def _embeds(self, methods: Collection[Method]) -> bool:
        near = self.workspace.settings.assemble.similar is not None or "--similar" in " ".join(
            self.flags.get("assemble", [])
        )
        return bool({"retrieval", "prime"} & set(methods)) or ("per-pcs" in methods and near) or "select" in self.flags

    def _pool(self, start: Sequence[str], embedded: Sequence[str], *, gated: bool) -> str:
        selected = [self.step("select", needs=[*start, *embedded])] if "select" in self.flags else []
        sharers = self.step("train-sharer", needs=[*start, *selected])
        if gated:
            sharers = self.step("gate", needs=[sharers])
        # It carries the embeddings, where it names nobody.
        return self.step("pool", [] if gated else ["--no-gates"], [sharers, *embedded])

    def _method(self, method: Method, start: Sequence[str], pool: Sequence[str]) -> list[str]:
        """The names of the predictions of a method."""
        if method == "base":
            return self._predict("base", ["--base", "--task-adapter", "none"], start)
        if method == "adapted":
            return self._predict("adapted", ["--base"], start)
        if method == "oppu":
            if not self.workspace.split("target"):
                raise UsageError("there are no targets", where="--method oppu", hint="Draw them with `perpcs split`.")
            own = self.step("oppu", ["--users", "@splits/target.txt", "--out", "oppu"], start)
            return self._predict("oppu", ["--own", "oppu"], [own])
        if method == "per-pcs":
            return self._recipes("per-pcs", "recipes", [self.step("assemble", needs=pool)])
        if method == "retrieval":
            made = self.step("retrieve", ["--out", "recipes-retrieve"], pool)
            return self._recipes("retrieve", "recipes-retrieve", [made])
        searched = self.step("prime", needs=pool)
        names = [f"prime{ending}" for ending in self._alphas()]
        return [one for name in names for one in self._recipes(name, f"recipes-{name}", [searched])]

    def _alphas(self) -> list[str]:
        """What `perpcs prime` puts behind the names of its recipes: nothing for a single alpha."""
        words = self.flags.get("prime", [])
        given = [after for word, after in pairwise(words) if word == "--alpha"]
        given += [word.partition("=")[2] for word in words if word.startswith("--alpha=")]
        try:
            alphas = [float(one) for one in given[-1].split(",")] if given else self.workspace.settings.prime.alpha
        except ValueError:
            raise UsageError(f"not numbers separated by commas: {given[-1]!r}", where="--flags prime") from None
        several = dict.fromkeys(alphas)
        return [""] if len(several) == 1 else [f"-{repr(one).removesuffix('.0')}" for one in several]

    def _recipes(self, name: str, place: str, needs: Sequence[str]) -> list[str]:
        self.recipes.append(place)
        return self._predict(name, ["--recipes", place], needs)

    def _predict(self, name: str, words: Sequence[str], needs: Sequence[str]) -> list[str]:
        self.step("predict", [*words, "--name", name], needs, f"predict-{name}")
        return [name]

    def step(self, step: str, words: Sequence[str] = (), needs: Sequence[str] = (), name: str = "") -> str:
        """Add a step, and return its name."""
        given = self.flags.get(step, self.flags.get("train-sharer", []) if step == "oppu" else [])
        line = [*COMMANDS.get(step, (step,)), *words, *given]
        made = jobs_of(name or step, step, line, needs, self.machines, self.needs.get(step))
        # The profiles are written before the task adapter is named in perpcs.toml.
        read = READ[1:] if step == "profile" else READ
        there = tuple(file for file in read if (self.workspace.root / file).exists())
        self.jobs += [replace(job, files=there) for job in made]
        return name or step
