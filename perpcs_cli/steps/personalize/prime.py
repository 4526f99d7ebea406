"""Search the weights of similar sharers' LoRAs for each target user (PriME)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from perpcs_cli.artifacts.io.lock import locked
from perpcs_cli.artifacts.io.provenance import Provenance, check_same, differences
from perpcs_cli.artifacts.pool import OpenPool, check_base, check_layers
from perpcs_cli.artifacts.recipe import Recipe
from perpcs_cli.artifacts.settings import PredictSettings, PrimeSettings
from perpcs_cli.artifacts.trace import Trace, TraceHeader, open_trace, read_trace
from perpcs_cli.artifacts.users import User, newest
from perpcs_cli.errors import DataError, UsageError
from perpcs_cli.steps.base import StepModel
from perpcs_cli.steps.job import Outcome, Output, run
from perpcs_cli.steps.personalize.pareto_front import check_front, write_front
from perpcs_cli.steps.personalize.recipes import recipe_output, write
from perpcs_cli.steps.report import SILENT, Report
from perpcs_cli.steps.similar_sharers import open_similar
from perpcs_cli.steps.workspace import EVERYONE, Who, Workspace
from perpcs_cli.tasks.examples import search_prompts
from perpcs_cli.tasks.prompts import PLAIN, Prompt, Shown, digest

if TYPE_CHECKING:
    from perpcs_cli.methods.prime.evaluator import Answers, Engine
    from perpcs_cli.methods.prime.search import Choice
    from perpcs_cli.methods.prime.weight_space import Space


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What a search found for one α. Scores are None where the recipe is finished and its trace is gone."""

    user_id: str
    alpha: float
    base: bool
    """Whether the recipe is the base model, because no candidate beats it."""
    reward: float | None = None
    base_reward: float | None = None
    utility: float | None = None
    similarity: float | None = None
    """The mean over sharers."""
    metrics: dict[str, float] = {}
    candidates: int | None = None


def prime(
    workspace: Workspace,
    who: Who = EVERYONE,
    *,
    shown: Shown = PLAIN,
    pool: Path | None = None,
    embeddings: Path | None = None,
    pareto: Path | None = None,
    traces: Path | None = None,
    out: Path | None = None,
    force: bool = False,
    dry_run: bool = False,
    report: Report = SILENT,
) -> list[Outcome[Found]]:
    """Search for each target user, by the section `prime` of the settings.

    Candidates are scored on each history item once, after what `shown` shows, or with `prime.prompts = "both"` as in
    training: plain, and again after what `shown` shows, by default the profile and the best earlier item. Writes
    OUT/USER.json, or OUT-ALPHA/USER.json for each of several α, and TRACES/USER.jsonl, from which a search that was
    stopped goes on. `pareto`: a file for the candidates that none beats in both scores.
    """
    from perpcs_cli.methods.prime.objective import check_metric
    from perpcs_cli.methods.prime.optimizers import make_optimizer
    from perpcs_cli.methods.prime.search import sample_items
    from perpcs_cli.methods.prime.weight_space import make_space

    settings = workspace.settings
    if pareto is not None and who.shard:
        hint = "Give it to the command without --shard, when all shards have ended."
        raise UsageError("is one file for all users", where="--pareto", hint=hint)
    users = who.mine(who.select(workspace, "target"))
    near = open_similar(workspace, pool, embeddings)
    check_metric(workspace.task, settings.prime.metric)
    # A missing package is found here, before the model is loaded.
    make_optimizer(settings.prime, settings.prime.similar, 1)
    model = StepModel(workspace, report)
    searches = []
    for user in users:
        kept = newest(user, settings.prime.recent)
        prompts, context = search_prompts(workspace.task, kept, settings.prime.prompts, shown, seed=settings.seed)
        items = sample_items(prompts, settings.prime.data_fraction, settings.seed, user.user_id)
        sharers = [one.user_id for one in near.nearest(user, settings.prime.similar)]
        space = make_space(near.pool, sharers, settings.prime.granularity)
        trace = (traces or workspace.traces) / f"{user.user_id}.jsonl"
        searches.append(_Search(workspace, near.pool, model, context, user, items, space, trace, report))
    check_base(near.pool, model.fingerprint, settings.model)
    front = workspace.provenance(
        "prime", {"prime": settings.prime, **model.describe()}, {"pool": near.pool.digest}, model.fingerprint
    )
    if pareto is not None and pareto.exists() and not force:
        check_front(pareto, [user.user_id for user in users], front)
    directory = out or workspace.recipes_of("prime")
    if len(set(settings.prime.alpha)) > 1 and not directory.name:
        raise UsageError("names no directory to put the alphas beside", where="--out", hint="Give --out DIR.")
    outputs = [output for one in searches for output in one.outputs(directory)]

    def make(todo: Any, keep: Any) -> None:
        check_layers(near.pool, model.base.shapes)
        left = {(one.name, one.path): one for one in todo}
        for one in searches:
            if not any(name == one.user.user_id for name, _ in left):
                continue
            for alpha, found, recipe_path in one.run(directory, force=force):
                output = left.get((one.user.user_id, recipe_path))
                if output is not None:
                    keep(output, found)
                    if found.base:
                        report.note(
                            f"{found.user_id}, alpha {alpha:g}: no candidate beats the base; the recipe is the base"
                        )

    how: dict[str, Any] = {"shard": who.shard, "force": force, "dry_run": dry_run, "report": report}
    rows = run(outputs, make, place=directory, things="recipes", **how)
    # Without its traces, a front that is there stays as it is.
    if pareto is not None and not dry_run and (not pareto.exists() or all(one.has_trace() for one in searches)):
        write_front(pareto, {one.user.user_id: (one.trace, one.header()) for one in searches}, front)
    return rows


@dataclass(frozen=True)
class _Search:
    """One user's search: the history items that candidates are scored on, and what their weights mean."""

    workspace: Workspace
    pool: OpenPool
    model: StepModel
    shown: Shown
    """What the prompts show besides the item."""
    user: User
    items: list[Prompt]
    space: Space
    trace: Path
    report: Report

    @property
    def settings(self) -> PrimeSettings:
        """How to search."""
        return self.workspace.settings.prime

    @property
    def predict(self) -> PredictSettings:
        """How to decode; LaMP-1's history has longer answers than its queries."""
        task, predict = self.workspace.task, self.workspace.settings.predict
        return msgspec.structs.replace(predict, max_new_tokens=task.generates_history or predict.max_new_tokens)

    def outputs(self, out: Path) -> list[Output[Found]]:
        """One recipe for each α."""

        return [
            Output(self.user.user_id, path, partial(self._finished, alpha, path))
            for alpha, path in self._paths(out).items()
        ]

    def _finished(self, alpha: float, path: Path) -> Found | None:
        recipe = recipe_output(path, self.pool, self._origin(alpha)).finished()
        return self._known(alpha, recipe) if recipe else None

    def run(self, out: Path, *, force: bool) -> Iterable[tuple[float, Found, Path]]:
        """Search, and write the recipe of each α. Raises DataError where the trace is of other settings."""
        paths = self._paths(out)
        # Searches with another α, into other recipes, share the trace.
        with locked(self.trace, self.report.note):
            trace = self._open_trace(force=force)
            with self.report.progress(self.user.user_id, self.settings.budget * len(paths)) as bar:
                choices = self._choices(
                    self._engine(), trace, lambda count, best: bar.advance(count, f"best utility {best:.3f}")
                )
        for choice in choices:
            weights = self.space.named(choice.evaluation.weights)
            path, origin = paths[choice.alpha], self._origin(choice.alpha)
            write(path, self.user.user_id, "prime", self.settings.merge, self.pool, weights, origin, self.report)
            yield choice.alpha, _found(self.user, choice), path

    def _open_trace(self, *, force: bool) -> Trace:
        header = self.header()
        if force:
            self.trace.unlink(missing_ok=True)
        if self.trace.exists():
            before, rows = read_trace(self.trace)
            check_same(before.provenance, header.provenance, where=self.trace)
            if rows:
                self.report.note(f"{self.user.user_id}: {len(rows)} candidates are in the trace already")
        trace = open_trace(self.trace, header)
        words = self.model.base.model.get_input_embeddings().num_embeddings
        if any(token >= words for answers in trace.answers.values() for answer in answers for token in answer):
            raise DataError(f"holds tokens that the model, which has {words}, does not know", where=self.trace)
        return trace

    def _choices(
        self, engine: Engine, trace: Trace, progress: Callable[[int, float], None] = lambda count, best: None
    ) -> list[Choice]:
        from perpcs_cli.methods.prime.evaluator import Evaluator, make_decode
        from perpcs_cli.methods.prime.objective import Objective
        from perpcs_cli.methods.prime.search import search

        references = [(item.answer or "").strip() for item in self.items]
        evaluator = Evaluator(
            self.space,
            Objective(self.workspace.task, references, self.settings.metric),
            trace,
            engine,
            lambda answers: make_decode(self.model.base)(answers),
        )
        seed = self.workspace.settings.seed
        return search(evaluator, self.settings, seed=seed, user_id=self.user.user_id, report=progress)

    def _known(self, alpha: float, recipe: Recipe) -> Found:
        """What is known of a finished recipe: all scores where the trace has every candidate of the search."""

        def no_model(*_: object) -> list[Answers]:
            raise LookupError

        bare = Found(user_id=self.user.user_id, alpha=alpha, base=not recipe.sharers)
        if not self.has_trace():
            return bare
        try:
            choices = self._choices(no_model, Trace(self.trace, *read_trace(self.trace)))
        except LookupError:
            return bare
        return next(_found(self.user, choice) for choice in choices if choice.alpha == alpha)

    def has_trace(self) -> bool:
        """Whether the trace is there and of these settings: a later search with others begins it anew."""
        return self.trace.exists() and not differences(read_trace(self.trace)[0].provenance, self.header().provenance)

    def _engine(self) -> Engine:
        from perpcs_cli.methods.prime.evaluator import make_engine
        from perpcs_cli.model.engine.batching import tokenize

        base, places = self.model.base, [self.pool.places[sharer] for sharer in self.space.sharers]
        # A known answer must not shape its own prompt: neither how much is cut nor the tokens where they meet.
        bare = [replace(item, answer=None) for item in self.items]
        rows = self.model.encode(bare, who=f"user {self.user.user_id}", reserve=self.predict.max_new_tokens)
        references = tuple(tuple(tokenize(base, item).answer) for item in self.items)
        merge, seed = self.settings.merge, self.workspace.settings.seed
        return make_engine(
            base, lambda at: self.pool.adapter(places[at]), rows, references, self.predict, merge, seed=seed
        )

    def _paths(self, out: Path) -> dict[float, Path]:
        """Where each α's recipe goes: OUT/U.json for a single α, OUT-ALPHA/U.json for each of several."""
        alphas = list(dict.fromkeys(self.settings.alpha))
        names = {alpha: f"{out.name}-{repr(alpha).removesuffix('.0')}" for alpha in alphas}
        directories = {alpha: out if len(alphas) == 1 else out.with_name(names[alpha]) for alpha in alphas}
        return {alpha: directory / f"{self.user.user_id}.json" for alpha, directory in directories.items()}

    def _changes(self) -> dict[str, Any]:
        """What changes the outputs of candidates: the embeddings do by the sharers that they chose, for example."""
        shared = {"sharers": self.space.sharers, "prompts": self.shown, "predict": self.predict}
        return {**shared, "max_length": self.workspace.settings.max_length, **self.model.describe()}

    def _origin(self, alpha: float) -> Provenance:
        """A recipe's provenance."""
        changes = {**self._changes(), "prime": self.settings, "alpha": alpha}
        return self.workspace.provenance("prime", changes, {"items": digest(self.items)}, self.model.fingerprint)

    def header(self) -> TraceHeader:
        """A trace's header: what utility and similarity depend on, and not how the search goes through weights."""
        settings = self.settings
        scoring = {"granularity": settings.granularity, "metric": settings.metric, "merge": settings.merge}
        return TraceHeader(
            user_id=self.user.user_id,
            sharers=self.space.sharers,
            weights=self.space.size,
            items=len(self.items),
            provenance=self.workspace.provenance(
                "prime",
                {**self._changes(), **scoring},
                {"items": digest(self.items), "pool": self.pool.digest},
                self.model.fingerprint,
            ),
        )


def _found(user: User, choice: Choice) -> Found:
    row = choice.evaluation
    return Found(
        user_id=user.user_id,
        alpha=choice.alpha,
        base=choice.is_base,
        reward=choice.reward,
        base_reward=choice.base_reward,
        utility=row.utility,
        similarity=sum(row.similarity) / len(row.similarity),
        metrics=row.metrics,
        candidates=choice.candidates,
    )
