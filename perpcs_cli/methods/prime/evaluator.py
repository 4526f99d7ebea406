"""Scoring a population: many weight vectors on one user's history, decoded in the same batches, each only once."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from perpcs_cli.artifacts.io import hashing
from perpcs_cli.artifacts.trace import Evaluation, Tokens, Trace
from perpcs_cli.methods.prime.objective import Objective
from perpcs_cli.methods.prime.racing import NO_RACE, Race, survivors
from perpcs_cli.methods.prime.search import Generation
from perpcs_cli.methods.prime.weight_space import Space, Vector

if TYPE_CHECKING:
    # What a finished search tells of itself is read without torch.
    from perpcs_cli.model.engine.recipe_router import Weights

Answers = tuple[Tokens, ...]
"""A model's answers to a history's items, the first ones or all, as token ids."""
Decode = Callable[[Answers], list[str]]
"""From token ids to texts, as predictions are written."""
Known = Mapping[Vector, Evaluation]


@dataclass(frozen=True)
class Ask:
    """What one user's search wants to have answered: the items from `first` up to `last`, by each of some models."""

    models: Sequence[Weights]
    """Over the user's own sharers."""
    first: int
    last: int
    known: Sequence[Answers]
    """What other models have answered."""


Decoding = Generator[Ask, list[Answers], None]
"""One user's part of a round: asks until all is answered, and then has written it to the trace."""


class Evaluator:
    """Scores weight vectors on one user's history, each once; what the trace knows is not run again.

    The unknown vectors of a round are decoded together. With the first ones run the base and every sharer's own LoRA,
    whose predictions P(s) needs. With a `race`, candidates that are clearly worse than others do not see all items.
    """

    def __init__(self, space: Space, objective: Objective, trace: Trace, decode: Decode, race: Race = NO_RACE) -> None:
        self.space = space
        self.objective = objective
        self.trace = trace
        self._decode = decode
        self._race = race
        self._singles = [space.single(sharer) for sharer in range(len(space.sharers))]
        self._texts: dict[str, list[str]] = {}
        """The texts of answers that the trace has, by their digest."""

    def lacks(self, generations: Sequence[Generation]) -> bool:
        """Whether there is something in a round that the trace does not know."""
        return any(vector not in self.trace.known for vector in self._wanted(generations))

    def decoding(self, generations: Sequence[Generation]) -> Decoding | None:
        """The decoding of what the trace lacks of a round; or, where it lacks nothing, of what it was told last, if
        that was in this round.

        So a round of several users that was stopped between two of their traces is decoded again in the same batches.
        None where the trace was told all of it before.
        """
        known, wanted = self.trace.known, self._wanted(generations)
        if new := [one for one in wanted if one not in known]:
            return self._decoding(generations, new, dict(known))
        call = self.trace.calls - 1
        told = [one for one in wanted if known[one].call == call]
        if len(told) < sum(row.call == call for row in known.values()):
            return None
        return self._decoding(generations, told, {one: row for one, row in known.items() if row.call < call})

    def _wanted(self, generations: Sequence[Generation]) -> list[Vector]:
        candidates = [vector for some in generations for vector in some.vectors]
        return list(dict.fromkeys([self.space.base, *self._singles, *candidates]))

    def _decoding(self, generations: Sequence[Generation], vectors: Sequence[Vector], before: Known) -> Decoding:
        """`vectors` of a round, where the trace knew `before`."""
        drafts = [self.trace.answers[row.outputs] for row in before.values()]
        texts = {one: self._text(before[one]) for one in self._wanted(generations) if one in before}
        answers: dict[Vector, Answers] = dict.fromkeys(vectors, ())
        running, items = list(vectors), len(self.objective.references)
        for first, last in self._race.blocks(items):
            found = yield Ask([self.space.mixes(vector) for vector in running], first, last, drafts)
            for vector, some in zip(running, found, strict=True):
                answers[vector] += some
                texts[vector] = self._decode(answers[vector])
            if last < items:
                going = self._going(generations, texts, last)
                running = [vector for vector in running if vector in going]
        if any(vector not in self.trace.known for vector in vectors):
            self._write(answers, texts)

    def _going(self, generations: Sequence[Generation], texts: Mapping[Vector, list[str]], seen: int) -> set[Vector]:
        """Who goes on after `seen` items: the models that others are compared with, and who may be among the better
        half of a generation."""
        going = {self.space.base, *self._singles}
        sharers = [texts[one][:seen] for one in self._singles]
        for some in generations:
            there = [one for one in dict.fromkeys(some.vectors) if len(texts[one]) >= seen]
            rewards = [self.objective.item_rewards(texts[one][:seen], sharers, some.alpha) for one in there]
            going |= {there[place] for place in survivors(rewards, len(some.vectors) // 2, self._race.level)}
        return going

    def _write(self, answers: Mapping[Vector, Answers], texts: Mapping[Vector, list[str]]) -> None:
        """Score what has been answered, and add it to the trace."""
        items, sharers = len(self.objective.references), [texts[one] for one in self._singles]
        metrics = {vector: self.objective.metrics(texts[vector]) for vector in answers}
        similarity = {vector: self.objective.similarity(texts[vector], sharers) for vector in answers}
        self.trace.append(
            [
                Evaluation(
                    weights=vector,
                    utility=self.objective.value(metrics[vector]),
                    similarity=similarity[vector],
                    metrics=metrics[vector],
                    call=self.trace.calls,
                    of=len(answers),
                    outputs=hashing.digest_value(tokens),
                    tokens=tokens,
                    items=len(tokens) if len(tokens) < items else None,
                )
                for vector, tokens in answers.items()
            ]
        )

    def _text(self, row: Evaluation) -> list[str]:
        if row.outputs not in self._texts:
            self._texts[row.outputs] = self._decode(self.trace.answers[row.outputs])
        return self._texts[row.outputs]
