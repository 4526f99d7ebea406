"""PriME's searches as `perpcs prime` runs them: one user after the other, each with its trace and recipes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from perpcs_cli.artifacts import store
from perpcs_cli.artifacts.provenance import Provenance, check_same
from perpcs_cli.artifacts.trace import Front, Pareto, TraceHeader, open_trace, read_trace
from perpcs_cli.artifacts.users import User
from perpcs_cli.artifacts.workspace import PredictSettings, PrimeSettings
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.context import Context
from perpcs_cli.cli.recipes import finished, write
from perpcs_cli.cli.running import encode_all
from perpcs_cli.tasks.prompts import digest

if TYPE_CHECKING:
    from perpcs_cli.artifacts.pool import OpenPool
    from perpcs_cli.methods.prime import Choice
    from perpcs_cli.methods.space import Space
    from perpcs_cli.model.base import Base
    from perpcs_cli.tasks.prompts import Prompt, Shown


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What a search wrote for one α, as `--json` shows it."""

    user_id: str
    alpha: float
    path: str
    base: bool
    """Whether the recipe is the base model, because no candidate beats it."""
    reward: float
    base_reward: float
    utility: float
    similarity: float
    """The mean over sharers."""
    metrics: dict[str, float]
    candidates: int


@dataclass(frozen=True)
class Task:
    """One user's search: the history items that candidates are scored on, and what their weights mean."""

    user: User
    items: list[Prompt]
    space: Space


@dataclass(frozen=True)
class Searches:
    """What the searches of all users share. `out` and `traces` are directories."""

    context: Context
    pool: OpenPool
    model: Base
    console: Console
    shown: Shown
    """What the prompts show besides the item."""
    traces: Path
    out: Path
    force: bool

    @property
    def settings(self) -> PrimeSettings:
        """How to search."""
        return self.context.settings.prime

    @property
    def predict(self) -> PredictSettings:
        """How to decode; LaMP-1's history has longer answers than its queries."""
        task, predict = self.context.task, self.context.settings.predict
        return msgspec.structs.replace(predict, max_new_tokens=task.generates_history or predict.max_new_tokens)

    def run(self, task: Task) -> list[Found]:
        """Search for one user and write its recipes, one for each α; nothing where all are there.

        Raises DataError where recipes or the trace are there with other settings.
        """
        user = task.user
        paths = self._paths(user)
        origins = {alpha: self._origin(task, alpha) for alpha in paths}
        exist = [finished(path, self.pool, origins[alpha], force=self.force) for alpha, path in paths.items()]
        if all(exist):
            self.console.note(f"{user.user_id}: the recipes exist already")
            return []
        found = []
        for choice in self._search(task):
            path = paths[choice.alpha]
            weights = task.space.named(choice.evaluation.weights)
            write(path, user.user_id, "prime", self.settings.merge, self.pool, weights, origins[choice.alpha])
            if choice.is_base:
                self.console.note(
                    f"{user.user_id}, alpha {choice.alpha:g}: no candidate beats the base; the recipe is the base"
                )
            found.append(_found(user, choice, path))
        return found

    def write_pareto(self, path: Path, users: Sequence[User]) -> None:
        """Write the users' non-dominated candidates, of everything in their traces."""
        from perpcs_cli.methods.prime import pareto

        fronts = {}
        for user in users:
            header, rows = read_trace(self._trace(user))
            fronts[user.user_id] = Front(sharers=header.sharers, points=pareto(rows))
        origin = self.context.provenance(
            "prime",
            {"prime": self.settings, **self.model.describe()},
            {"pool": self.pool.digest},
            self.model.fingerprint,
        )
        store.write_json(path, Pareto(users=fronts, provenance=origin))

    def _search(self, task: Task) -> list[Choice]:
        from perpcs_cli.methods.objective import Objective
        from perpcs_cli.methods.population import Evaluator, make_decode, make_engine
        from perpcs_cli.methods.prime import search
        from perpcs_cli.model.batching import tokenize

        user, space, settings = task.user, task.space, self.settings
        header = self._header(task)
        path = self._trace(user)
        self._check_trace(path, header)
        places = [self.pool.ids.index(sharer) for sharer in space.sharers]
        # A known answer must not shape its own prompt: neither how much is cut nor the tokens where they meet.
        rows = encode_all(
            self.model,
            [replace(item, answer=None) for item in task.items],
            self.context,
            self.console,
            who=f"user {user.user_id}",
            reserve=self.predict.max_new_tokens,
        )
        evaluator = Evaluator(
            space,
            Objective(self.context.task, [(item.answer or "").strip() for item in task.items], settings.metric),
            open_trace(path, header),
            make_engine(
                self.model,
                lambda index: self.pool.adapter(places[index]),
                rows,
                tuple(tuple(tokenize(self.model, item).answer) for item in task.items),
                self.predict,
                settings.merge,
            ),
            make_decode(self.model),
        )
        with self.console.progress(user.user_id, settings.budget * len(self._paths(user))) as bar:
            return search(
                evaluator,
                settings,
                seed=self.context.settings.seed,
                user_id=user.user_id,
                report=lambda count, best: bar.advance(count, f"best utility {best:.3f}"),
            )

    def _trace(self, user: User) -> Path:
        return self.traces / f"{user.user_id}.jsonl"

    def _paths(self, user: User) -> dict[float, Path]:
        """Where each α's recipe goes: OUT/U.json for a single α, OUT-ALPHA/U.json for each of several."""
        alphas = list(dict.fromkeys(self.settings.alpha))
        names = {alpha: f"{self.out.name}-{repr(alpha).removesuffix('.0')}" for alpha in alphas}
        directories = {alpha: self.out if len(alphas) == 1 else self.out.with_name(names[alpha]) for alpha in alphas}
        return {alpha: directory / f"{user.user_id}.json" for alpha, directory in directories.items()}

    def _changes(self, task: Task) -> dict[str, Any]:
        """What changes the outputs of candidates: the embeddings do by the sharers that they chose, for example."""
        settings = self.context.settings
        shared = {"sharers": task.space.sharers, "prompts": self.shown}
        shared |= {"max_length": settings.max_length, "predict": self.predict}
        return {**shared, **self.model.describe()}

    def _origin(self, task: Task, alpha: float) -> Provenance:
        """A recipe's provenance."""
        changes = {**self._changes(task), "prime": self.settings, "alpha": alpha}
        inputs = {"items": digest(task.items)}
        return self.context.provenance("prime", changes, inputs, self.model.fingerprint)

    def _header(self, task: Task) -> TraceHeader:
        """A trace's header: what utility and similarity depend on, and not how the search goes through weights."""
        settings = self.settings
        scoring = {"granularity": settings.granularity, "metric": settings.metric, "merge": settings.merge}
        return TraceHeader(
            user_id=task.user.user_id,
            sharers=task.space.sharers,
            weights=task.space.size,
            items=len(task.items),
            provenance=self.context.provenance(
                "prime",
                {**self._changes(task), **scoring},
                {"items": digest(task.items), "pool": self.pool.digest},
                self.model.fingerprint,
            ),
        )

    def _check_trace(self, path: Path, header: TraceHeader) -> None:
        """Take a trace away with --force; without, raise DataError for one of other settings."""
        if self.force:
            path.unlink(missing_ok=True)
        if not path.exists():
            return
        before, rows = read_trace(path)
        check_same(before.provenance, header.provenance, where=path)
        if rows:
            self.console.note(f"{header.user_id}: {len(rows)} candidates are in the trace already")


def _found(user: User, choice: Choice, path: Path) -> Found:
    row = choice.evaluation
    return Found(
        user_id=user.user_id,
        alpha=choice.alpha,
        path=str(path),
        base=choice.is_base,
        reward=choice.reward,
        base_reward=choice.base_reward,
        utility=row.utility,
        similarity=sum(row.similarity) / len(row.similarity),
        metrics=row.metrics,
        candidates=choice.candidates,
    )
