"""A PriME search on a tiny model, whose target is a known mixture of sharers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from helpers import MemoryAdapter, provenance, random_pieces, random_rows

from perpcs_cli.artifacts.settings import PredictSettings, PrimeSettings
from perpcs_cli.artifacts.trace import Evaluation, TraceHeader, open_trace, read_trace
from perpcs_cli.methods.prime.engine import History, make_engine
from perpcs_cli.methods.prime.evaluator import Ask, Evaluator
from perpcs_cli.methods.prime.in_step import search_in_step
from perpcs_cli.methods.prime.objective import Objective
from perpcs_cli.methods.prime.racing import NO_RACE, Race
from perpcs_cli.methods.prime.search import Choice, search
from perpcs_cli.methods.prime.weight_space import Space
from perpcs_cli.model.loading.base import Base
from perpcs_cli.tasks.spec import shipped_tasks

ALPHAS = (0.0, 1.0, 3.0, 10.0)
PLANTED = (0.7, 0.5, 0.0)


@dataclasses.dataclass
class Target:
    """A user of the tiny model: prompts, and the answers of a planted mixture of sharers."""

    base: Base
    items: int = 5
    planted: tuple[float, ...] = PLANTED
    granularity: str = "lora"
    first: int = 0
    """The number of its first sharer."""
    calls: list[int] = dataclasses.field(default_factory=list)
    """The candidates in each call of the engine."""

    def __post_init__(self) -> None:
        modules = tuple(self.base.targets)
        self.places = range(self.first, self.first + len(self.planted))
        names = tuple(f"s{number}" for number in self.places)
        self.space = Space(names, (frozenset(modules),) * len(names), modules, self.granularity)
        rows = random_rows(self.base, [(8 + item, 0) for item in range(self.first, self.first + self.items)])
        self.history = History(rows, tuple(tuple(row.answer) for row in rows), self.places)
        whole = dataclasses.replace(self.space, granularity="lora")
        self.references = self.decode(self.answers(whole.mixes(self.planted)))

    def answers(self, model):
        """What a model over the sharers answers, alone."""
        (found,) = engine_of(self)({0: Ask([model], 0, self.items, [])})[0]
        return found

    @staticmethod
    def decode(answers: Sequence[Sequence[int]]) -> list[str]:
        """A word for each token: a random model's own tokens are hardly ever letters, which ROUGE counts."""
        return [" ".join(f"w{token}" for token in tokens) for tokens in answers]

    def evaluator(self, path: Path, stop_at: int | None = None, race: Race = NO_RACE) -> Evaluator:
        """Scores candidates and writes to `path`; dies in the call with this number."""
        header = TraceHeader(
            user_id="u", sharers=self.space.sharers, weights=self.space.size, items=self.items, provenance=provenance()
        )
        objective = Objective(shipped_tasks()["news_headline"], self.references)
        made = Evaluator(self.space, objective, open_trace(path, header), self.decode, race)
        here, honest = [], engine_of(self)

        def engine(asked):
            if len(here) == stop_at:
                raise KeyboardInterrupt
            here.append(len(asked[0].models))
            self.calls.append(len(asked[0].models))
            return honest(asked)

        made.engine = engine
        return made


def engine_of(*targets: Target):
    """The engine on the histories of some targets of one model."""
    base = targets[0].base
    histories = [target.history for target in targets]
    adapter = lambda place: MemoryAdapter(random_pieces(base, place), 0.25)  # noqa: E731
    return make_engine(base, adapter, histories, PredictSettings(max_new_tokens=6), "product")


def settings(**changes) -> PrimeSettings:
    return PrimeSettings(**{"similar": 3, "budget": 35, "data_fraction": 1.0, "alpha": ALPHAS, **changes})


def run(evaluator: Evaluator, **changes) -> list[Choice]:
    asking = search(evaluator.space, settings(**changes), seed=0, user_id="u")
    (choices,) = search_in_step([(asking, evaluator)], evaluator.engine)
    return choices


def rows_of(path: Path) -> list[Evaluation]:
    return read_trace(path)[1]


def row(utility: float, *similarity: float, weights: Sequence[float] = (1.0,), items: int | None = None) -> Evaluation:
    scores = {"utility": utility, "similarity": similarity, "metrics": {}}
    return Evaluation(weights=tuple(weights), **scores, call=0, of=1, outputs="", items=items)
