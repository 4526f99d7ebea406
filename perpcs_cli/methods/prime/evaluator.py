"""Scoring a population: many weight vectors on one user's history, decoded in the same batches, each only once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from perpcs_cli.artifacts.adapter import Adapter
from perpcs_cli.artifacts.io import hashing
from perpcs_cli.artifacts.settings import Merge, PredictSettings
from perpcs_cli.artifacts.trace import Evaluation, Tokens, Trace
from perpcs_cli.methods.prime.objective import Objective
from perpcs_cli.methods.prime.weight_space import Space, Vector

if TYPE_CHECKING:
    # What a finished search tells of itself is read without torch.
    from perpcs_cli.model.engine.batching import Encoded
    from perpcs_cli.model.engine.recipe_router import Weights
    from perpcs_cli.model.loading.base import Base

Answers = tuple[Tokens, ...]
"""A model's answer to each item, as token ids."""
Engine: TypeAlias = "Callable[[Sequence[Weights], Iterable[Answers]], list[Answers]]"
"""(models, what other models have answered) → each model's answers."""
Decode = Callable[[Answers], list[str]]


def make_engine(
    base: Base,
    adapter: Callable[[int], Adapter],
    items: Sequence[Encoded],
    references: Answers,
    settings: PredictSettings,
    merge: Merge,
    *,
    seed: int = 0,
) -> Engine:
    """The decoding engine on some items, for models over the sharers that `adapter` gives by index.

    `references`, the items' true answers, serve as the first drafts. Where answers are drawn, it is by `seed`, with the
    same noise for all models of an item.
    """
    from perpcs_cli.model.engine.decode import generate
    from perpcs_cli.model.engine.drafts import Drafts
    from perpcs_cli.model.engine.piece_cache import PieceCache
    from perpcs_cli.model.engine.recipe_router import RecipeRouter
    from perpcs_cli.model.engine.sampling import sampling_of

    bank, sampling = PieceCache(base, adapter), sampling_of(settings, seed)

    def run(models: Sequence[Weights], known: Iterable[Answers]) -> list[Answers]:
        # Made anew for each call, so that a resumed search decodes exactly as one that was never stopped.
        drafts = Drafts()
        for answers in [references, *known]:
            for row, answer in zip(items, answers, strict=True):
                drafts.add(row.prompt, answer, base.stop)
        outputs = generate(
            base,
            RecipeRouter(bank, models),
            [(row, model) for model in range(len(models)) for row in items],
            max_new_tokens=settings.max_new_tokens,
            batch_tokens=settings.batch_tokens,
            batch_rows=settings.batch_rows,
            merge=merge,
            sampling=sampling,
            drafts=drafts,
        )
        found = [tuple(output) for output in outputs]
        return [tuple(found[at : at + len(items)]) for at in range(0, len(found), len(items))]

    return run


def make_decode(base: Base) -> Decode:
    """From token ids to texts, as predictions are written."""

    def decode(answers: Answers) -> list[str]:
        texts = base.tokenizer.batch_decode([list(tokens) for tokens in answers], skip_special_tokens=True)
        return [text.strip() for text in texts]

    return decode


class Evaluator:
    """Scores weight vectors on one user's history, each once; what the trace knows is not run again.

    The unknown vectors of a call are decoded together. With the first ones run the base and every sharer's own LoRA,
    whose predictions P(s) needs.
    """

    def __init__(self, space: Space, objective: Objective, trace: Trace, engine: Engine, decode: Decode) -> None:
        self.space = space
        self.objective = objective
        self.trace = trace
        self._engine = engine
        self._decode = decode
        self._singles = [space.single(sharer) for sharer in range(len(space.sharers))]
        self._sharers: list[list[str]] = []
        """Each sharer's own predictions."""

    def evaluate(self, vectors: Sequence[Vector]) -> list[Evaluation]:
        """The evaluation of each vector, from the trace or now."""
        known = self.trace.known
        wanted = dict.fromkeys([self.space.base, *self._singles, *vectors])
        if new := [vector for vector in wanted if vector not in known]:
            self._run(new)
        return [known[vector] for vector in vectors]

    def _run(self, vectors: Sequence[Vector]) -> None:
        known = self.trace.known
        before = (self.trace.answers[row.outputs] for row in known.values())
        answers = dict(zip(vectors, self._engine(list(map(self.space.mixes, vectors)), before), strict=True))
        texts = {vector: self._decode(tokens) for vector, tokens in answers.items()}
        if not self._sharers:
            self._sharers = [
                texts[one] if one in texts else self._decode(self.trace.answers[known[one].outputs])
                for one in self._singles
            ]
        metrics = {vector: self.objective.metrics(text) for vector, text in texts.items()}
        similarity = {vector: self.objective.similarity(text, self._sharers) for vector, text in texts.items()}
        self.trace.append(
            [
                Evaluation(
                    weights=vector,
                    utility=self.objective.value(metrics[vector]),
                    similarity=similarity[vector],
                    metrics=metrics[vector],
                    call=self.trace.calls,
                    of=len(vectors),
                    outputs=hashing.digest_value(answers[vector]),
                    tokens=answers[vector],
                )
                for vector in vectors
            ]
        )
