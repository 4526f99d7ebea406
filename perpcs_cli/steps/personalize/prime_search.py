"""One user's PriME search: its files, the history items that candidates are scored on, and what weights mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from perpcs_cli.artifacts.io.provenance import Provenance, check_same, differences
from perpcs_cli.artifacts.pool import OpenPool
from perpcs_cli.artifacts.recipe import Recipe, mean_weights
from perpcs_cli.artifacts.settings import PredictSettings, PrimeSettings
from perpcs_cli.artifacts.trace import Trace, TraceHeader, open_trace, read_trace
from perpcs_cli.artifacts.users import User
from perpcs_cli.errors import DataError
from perpcs_cli.steps.base import StepModel
from perpcs_cli.steps.job import Output
from perpcs_cli.steps.personalize.recipes import RecipePlace, make_recipe
from perpcs_cli.steps.personalize.search_result import Found, found_by
from perpcs_cli.steps.report import Report
from perpcs_cli.steps.workspace import Workspace
from perpcs_cli.tasks.prompts import Prompt, Shown, digest

if TYPE_CHECKING:
    from perpcs_cli.methods.prime.engine import History
    from perpcs_cli.methods.prime.evaluator import Evaluator
    from perpcs_cli.methods.prime.search import Choice, Search
    from perpcs_cli.methods.prime.weight_space import Space


@dataclass(frozen=True)
class UserSearch:
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
    def candidates(self) -> int:
        """How many candidates its searches ask for, of all α."""
        return self.settings.budget * len(dict.fromkeys(self.settings.alpha))

    @property
    def generation_rows(self) -> int:
        """How many answers a round of it asks for, at most."""
        from perpcs_cli.methods.prime.optimizers import default_popsize

        settings = self.settings
        popsize = settings.popsize or default_popsize(self.space.size, settings.optimizer)
        return min(popsize, settings.budget) * len(dict.fromkeys(settings.alpha)) * len(self.items)

    @property
    def predict(self) -> PredictSettings:
        """How to decode; LaMP-1's history has longer answers than its queries."""
        task, predict = self.workspace.task, self.workspace.settings.predict
        return msgspec.structs.replace(predict, max_new_tokens=task.generates_history or predict.max_new_tokens)

    @property
    def asked(self) -> list[Prompt]:
        """The items without their answers: a known one must not shape its own prompt, neither how much is cut nor the
        tokens where they meet."""
        return [replace(item, answer=None) for item in self.items]

    def outputs(self, places: Mapping[float, RecipePlace]) -> list[Output[Found]]:
        """One recipe for each α."""
        return [
            Output(name, place.path_of(name), partial(self._finished, alpha, place), place.end)
            for name in [self.user.user_id]
            for alpha, place in places.items()
        ]

    def _finished(self, alpha: float, place: RecipePlace) -> Found | None:
        recipe = place.finished(self.user.user_id, self._origin(alpha))
        return self._known(alpha, recipe) if recipe else None

    def write(self, choices: Iterable[Choice], places: Mapping[float, RecipePlace]) -> Iterable[Found]:
        """Write the recipe of each α."""
        for choice in choices:
            weights = self.space.named(choice.evaluation.weights)
            origin, merge = self._origin(choice.alpha), self.settings.merge
            recipe = make_recipe(self.user.user_id, "prime", merge, self.pool, weights, origin)
            places[choice.alpha].add([recipe])
            yield found_by(self.user, choice, recipe)

    def open_trace(self, *, force: bool) -> Trace:
        """Its trace, to go on with; begun anew with `force`. Raises DataError where it is of other settings."""
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

    def evaluator(self, trace: Trace) -> Evaluator:
        """What scores its candidates."""
        from perpcs_cli.methods.prime.engine import make_decode
        from perpcs_cli.methods.prime.evaluator import Evaluator
        from perpcs_cli.methods.prime.objective import Objective
        from perpcs_cli.methods.prime.racing import race_of

        references = [(item.answer or "").strip() for item in self.items]
        objective = Objective(self.workspace.task, references, self.settings.metric)
        return Evaluator(self.space, objective, trace, make_decode(self.model.base), race_of(self.settings))

    def search(self, progress: Callable[[int, float], None] = lambda count, best: None) -> Search:
        """The search itself, which asks for candidates to be scored."""
        from perpcs_cli.methods.prime.search import search

        seed = self.workspace.settings.seed
        return search(self.space, self.settings, seed=seed, user_id=self.user.user_id, report=progress)

    def _known(self, alpha: float, recipe: Recipe) -> Found:
        """What is known of a finished recipe: all scores where the trace has every candidate of the search."""
        from perpcs_cli.methods.prime.search import replay

        bare = Found(user_id=self.user.user_id, alpha=alpha, base=not recipe.sharers, weights=mean_weights(recipe))
        if not self.has_trace():
            return bare
        try:
            choices = replay(self.search(), Trace(self.trace, *read_trace(self.trace)).known)
        except LookupError:
            return bare
        return next(found_by(self.user, choice, recipe) for choice in choices if choice.alpha == alpha)

    def has_trace(self) -> bool:
        """Whether the trace is there and of these settings: a later search with others begins it anew."""
        return self.trace.exists() and not differences(read_trace(self.trace)[0].provenance, self.header().provenance)

    def history(self) -> History:
        """Its items as the engine takes them."""
        from perpcs_cli.methods.prime.engine import History
        from perpcs_cli.model.engine.batching import tokenize

        base, places = self.model.base, [self.pool.places[sharer] for sharer in self.space.sharers]
        rows = self.model.encode(self.asked, who=f"user {self.user.user_id}", reserve=self.predict.max_new_tokens)
        return History(rows, tuple(tuple(tokenize(base, item).answer) for item in self.items), places)

    def _changes(self) -> dict[str, Any]:
        """What changes the outputs of candidates: the embeddings do by the sharers that they chose, for example."""
        shared = {"sharers": self.space.sharers, "prompts": self.shown, "predict": self.predict}
        return {**shared, "max_length": self.workspace.settings.max_length, **self.model.describe()}

    def _origin(self, alpha: float) -> Provenance:
        """A recipe's provenance."""
        changes = {**self._changes(), "prime": described(self.settings), "alpha": alpha}
        return self.workspace.provenance("prime", changes, {"items": digest(self.items)}, self.model.fingerprint)

    def header(self) -> TraceHeader:
        """A trace's header: what utility and similarity depend on, and not how the search goes through weights."""
        settings = self.settings
        scoring = {"granularity": settings.granularity, "metric": settings.metric, "merge": settings.merge}
        race = {key: value for key, value in described(settings).items() if key.startswith("race")}
        return TraceHeader(
            user_id=self.user.user_id,
            sharers=self.space.sharers,
            weights=self.space.size,
            items=len(self.items),
            provenance=self.workspace.provenance(
                "prime",
                {**self._changes(), **scoring, **race},
                {"items": digest(self.items), "pool": self.pool.digest},
                self.model.fingerprint,
            ),
        )


def described(settings: PrimeSettings) -> Mapping[str, Any]:
    """The settings of a search for a provenance; without a race nothing of it."""
    found: dict[str, Any] = msgspec.to_builtins(settings)
    return found if settings.race is not None else {key: found[key] for key in found if not key.startswith("race")}
