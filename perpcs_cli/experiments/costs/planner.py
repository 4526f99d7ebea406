"""From the steps of a sweep to what each one needs: tokens, operations, memory, time and disk."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import msgspec

from perpcs_cli.experiments.costs import flops_and_bytes, step_costs
from perpcs_cli.experiments.costs.device_specs import Device
from perpcs_cli.experiments.costs.model_shape import Shape
from perpcs_cli.experiments.costs.read_step import Asked
from perpcs_cli.experiments.costs.step_costs import Length, Load, Model, Pass
from perpcs_cli.experiments.costs.token_lengths import Participants
from perpcs_cli.methods.prime.optimizers import default_popsize
from perpcs_cli.steps.share.train_loras import trained_together

DRAFTED = 0.6
"""Assumed share of PriME's answers that drafts know: candidates answer much as others did before."""
ROW = 150
"""Assumed bytes of an answer in predictions and traces."""


class Need(msgspec.Struct, frozen=True, kw_only=True):
    """What one step needs. Bytes; seconds are None for a step that does not run a model."""

    step: str
    of: tuple[str, ...]
    """The cells that share it, in words."""
    users: int
    tokens: float
    flops: float
    memory: dict[str, int]
    """At the peak, by what holds it."""
    seconds: float | None
    disk: int

    @property
    def peak(self) -> int:
        """All of the memory."""
        return sum(self.memory.values())


@dataclass
class Planner:
    """Estimates the steps of one sweep, in the order in which they run."""

    participants: Callable[[Asked], Participants]
    """The users as a split step divides them."""
    shape: Callable[[str], Shape]
    """The shape of a model, or of an encoder, by its name."""
    dtype: str
    place: str
    device: Device
    _steps: dict[Path, Asked] = field(default_factory=dict)
    _searched: set[Path] = field(default_factory=set)
    _loaded: str | None = None
    _lengths: dict[object, list[Length]] = field(default_factory=dict)

    def need(self, one: Asked, cells: Sequence[str]) -> Need:
        """What a step needs, the steps before it having been asked first."""
        self._steps[one.step.product] = one
        users = self._users(one)
        load, disk = getattr(self, "_" + one.name.replace("-", "_"), self._nothing)(one, users)
        seconds = None
        if load.passes:
            shape = self.shape(one.settings.embed.encoder if one.name == "embed" else one.settings.model)
            seconds = sum(some.seconds(self.device, shape.layers) for some in load.passes) + self._loading(one, load)
        return Need(
            step=one.name,
            of=tuple(cells),
            users=len(users),
            tokens=load.tokens,
            flops=load.flops,
            memory=load.peak,
            seconds=seconds,
            disk=round(disk),
        )

    def _loading(self, one: Asked, load: Load) -> float:
        """Weights are kept from step to step until another base is needed."""
        wanted = "encoder" if one.name == "embed" else str(one.flags.get("task-adapter", "none"))
        before, self._loaded = self._loaded, wanted
        return 0.0 if wanted == before else load.peak["weights"] / self.device.load

    def _model(self, one: Asked) -> Model:
        lora = flops_and_bytes.Lora(one.settings.lora.rank, one.settings.lora.targets)
        place: Literal["cuda", "cpu"] = "cuda" if self.place == "cuda" else "cpu"
        return Model(self.shape(one.settings.model), lora, self.dtype, place, one.settings.quantize)

    def _participants(self, one: Asked) -> Participants:
        return self.participants(self._split_of(one))

    def _split_of(self, one: Asked) -> Asked:
        """The split that a step's users come from; any, where it takes all of them."""
        listed = self._list_of(one)
        if one.name == "split":
            return one
        if listed is None:
            splits = [some for some in self._steps.values() if some.name == "split"]
            return splits[-1] if splits else one
        source = self._steps[listed.parent]
        return source if source.name == "split" else self._split_of(source)

    def _list_of(self, one: Asked) -> Path | None:
        listed = str(one.flags.get("users", ""))
        return Path(listed[1:]) if listed.startswith("@") else None

    def _users(self, one: Asked) -> list[str]:
        listed = self._list_of(one)
        if listed is None:
            return self._participants(one).part("all")
        people = self._participants(one)
        if listed.stem != "sharer":
            return people.part(listed.stem)
        return self._selected(self._steps[listed.parent], people)

    def _selected(self, one: Asked, people: Participants) -> list[str]:
        """The sharers. Clusters are not known before users are embedded: the most active candidates stand for them."""
        least = int(one.flags.get("min-items", 11))
        able = [user for user in people.part("candidate") if people.items(user) >= least]
        count = int(one.flags.get("count", one.flags.get("clusters", 50)))
        return sorted(able, key=lambda user: (-people.items(user), user))[:count]

    def _nothing(self, one: Asked, users: Sequence[str]) -> tuple[Load, float]:
        return Load(), 0.0

    def _examples(self, one: Asked, users: Sequence[str], recent: int | None) -> list[list[Length]]:
        shown, away = one.shown, float(one.flags.get("hold-out", 0.0))
        people = self._participants(one)
        found = []
        for user in users:
            key = (id(people), user, shown.retrieve, shown.random_history, shown.profile, recent, away)
            if key not in self._lengths:
                self._lengths[key] = people.examples(user, shown, recent, away)
            found.append(self._lengths[key])
        return found

    def _adapt(self, one: Asked, users: Sequence[str]) -> tuple[Load, float]:
        model, settings = self._model(one), one.settings
        limit = one.flags.get("max-examples")
        rows = self._participants(one).adaptation(one.shown, one.flags.get("source", "auto"), limit)
        load = step_costs.training(model, [rows], settings.adapt, dropout=settings.lora.dropout > 0, seed=settings.seed)
        return load, flops_and_bytes.adapter_file(model.shape, model.lora)

    def _train_sharer(self, one: Asked, users: Sequence[str]) -> tuple[Load, float]:
        model, settings = self._model(one), one.settings
        load = step_costs.training(
            model,
            self._examples(one, users, one.flags.get("recent")),
            settings.train,
            dropout=settings.lora.dropout > 0,
            together=_together(one),
            seed=settings.seed,
        )
        return load, len(users) * flops_and_bytes.adapter_file(model.shape, model.lora)

    _oppu = _train_sharer

    def _gate(self, one: Asked, users: Sequence[str]) -> tuple[Load, float]:
        model = self._model(one)
        # The history that the sharer's adapter was trained on, as its command gives it.
        load = step_costs.training(
            model,
            self._examples(one, users, one.flags.get("recent")),
            one.settings.gate,
            what="gate",
            dropout=one.settings.gate.dropout > 0,
            together=_together(one),
            seed=one.settings.seed,
        )
        return load, len(users) * flops_and_bytes.gate_file(model.shape, model.lora)

    def _pool(self, one: Asked, users: Sequence[str]) -> tuple[Load, float]:
        model = self._model(one)
        gates = 0 if one.flags.get("no-gates") else flops_and_bytes.gate_file(model.shape, model.lora)
        return Load(), len(users) * (gates + 1000)

    def _sharers(self, one: Asked) -> int:
        """The number of sharers in the pool that a step reads."""
        return len(self._users(self._steps[Path(str(one.flags["pool"]))]))

    def _assemble(self, one: Asked, users: Sequence[str]) -> tuple[Load, float]:
        model, settings = self._model(one), one.settings.assemble
        sharers = self._sharers(one)
        load = step_costs.assembling(
            model,
            self._examples(one, users, settings.recent),
            batch_size=settings.batch_size,
            top_k=settings.top_k,
            sharers=sharers,
            batch_tokens=one.settings.predict.batch_tokens,
        )
        return load, len(users) * flops_and_bytes.recipe_file(model.shape, model.lora, settings.top_k)

    def _retrieve(self, one: Asked, users: Sequence[str]) -> tuple[Load, float]:
        return Load(), len(users) * 1000

    def _prime(self, one: Asked, users: Sequence[str]) -> tuple[Load, float]:
        model, settings, new = self._model(one), one.settings.prime, one.new_tokens()
        predict = msgspec.structs.replace(one.settings.predict, max_new_tokens=new)
        layers = model.shape.layers if settings.granularity == "layer" else 1
        population = settings.popsize or default_popsize(settings.similar * layers, settings.optimizer)
        known = one.step.place in self._searched
        self._searched.add(one.step.place)
        # Searches in one place begin with the same generation; the first also runs the base and the sharers' own.
        candidates = settings.budget - population if known else settings.budget + settings.similar + 1
        loads = []
        for user in users:
            rows = self._participants(one).searched(user, one.shown, settings, new)
            generation = step_costs.decoding(
                model, [rows] * population, predict, adapters=settings.similar, drafted=DRAFTED
            )
            times = max(0.0, candidates / population)
            passes = [replace(some, count=some.count * times) for some in generation.passes]
            loads.append(Load(passes, generation.tokens * times, generation.peak))
        answers = sum(some.count for load in loads for some in load.passes if isinstance(some, Pass))
        return step_costs.added(loads), len(users) * 1000 + ROW * answers

    def _predict(self, one: Asked, users: Sequence[str]) -> tuple[Load, float]:
        model, new = self._model(one), one.new_tokens()
        queries = [self._participants(one).queries(user, one.shown, new) for user in users]
        adapters = 0
        if "own" in one.flags:
            adapters = len(users)
        elif "recipes" in one.flags:
            recipes = self._steps[Path(str(one.flags["recipes"]))]
            settings = recipes.settings
            each = settings.assemble.top_k if recipes.name == "assemble" else settings.prime.similar
            adapters = min(self._sharers(one), each * len(users))
        else:
            # One recipe for everyone, whose common beginning is everyone's.
            queries = [[row for rows in queries for row in rows]]
        load = step_costs.decoding(model, queries, one.settings.predict, adapters=adapters)
        return load, ROW * sum(map(len, queries))

    def _profile(self, one: Asked, users: Sequence[str]) -> tuple[Load, float]:
        how = one.settings.profile
        new = how.max_new_tokens
        rows = [self._participants(one).profiled(user, how) for user in users]
        settings = msgspec.structs.replace(one.settings.predict, max_new_tokens=new)
        return step_costs.decoding(self._model(one), [rows], settings), len(users) * 6 * new

    def _embed(self, one: Asked, users: Sequence[str]) -> tuple[Load, float]:
        encoder = self.shape(one.settings.embed.encoder)
        people = self._participants(one)
        texts = [people.texts(user, one.settings.embed.max_length) for user in users]
        return step_costs.embedding(encoder, texts, self.dtype), 4 * encoder.hidden * len(users)


def total(needs: Sequence[Need], device: Device) -> Need:
    """All steps one after the other."""
    worst = max(needs, key=lambda need: need.peak)
    return Need(
        step="total",
        of=tuple(dict.fromkeys(cell for need in needs for cell in need.of)),
        users=max(need.users for need in needs),
        tokens=math.fsum(need.tokens for need in needs),
        flops=math.fsum(need.flops for need in needs),
        memory=worst.memory,
        seconds=device.start + math.fsum(need.seconds or 0.0 for need in needs),
        disk=sum(need.disk for need in needs),
    )


def _together(one: Asked) -> int:
    """How many sharers a step trains side by side."""
    asked = one.flags.get("together")
    return trained_together(int(asked) if asked else None, private="dp-epsilon" in one.flags or "dp-noise" in one.flags)
