"""The decoding engine of searches: what several users' candidates answer, in the same packed passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from perpcs_cli.artifacts.adapter import Adapter
from perpcs_cli.artifacts.settings import Merge, PredictSettings
from perpcs_cli.methods.prime.evaluator import Answers, Ask, Decode
from perpcs_cli.model.engine.batching import Encoded
from perpcs_cli.model.engine.decode import generate
from perpcs_cli.model.engine.drafts import Drafts
from perpcs_cli.model.engine.piece_cache import PieceCache
from perpcs_cli.model.engine.recipe_router import RecipeRouter, Weights
from perpcs_cli.model.engine.sampling import sampling_of
from perpcs_cli.model.loading.base import Base

Engine = Callable[[Mapping[int, Ask]], dict[int, list[Answers]]]
"""What is asked by number of the user → the answers of each of its models."""


@dataclass(frozen=True)
class History:
    """One user's items, as they are put to models over some sharers."""

    items: Sequence[Encoded]
    references: Answers
    """The true answers, which serve as the first drafts."""
    sharers: Sequence[int]
    """The places in the pool of those that the user's models are numbered over."""


def make_engine(
    base: Base,
    adapter: Callable[[int], Adapter],
    users: Sequence[History],
    settings: PredictSettings,
    merge: Merge,
    *,
    seed: int = 0,
) -> Engine:
    """The engine for the histories of some users, over the sharers that `adapter` gives by their place in the pool.

    A sharer of several users is in memory once. Where answers are drawn, it is by `seed`, with the same noise for all
    models of an item.
    """
    # By their first user: what a user's models compute alone does not depend on the pool's order.
    used = list(dict.fromkeys(place for user in users for place in user.sharers))
    column = {place: number for number, place in enumerate(used)}
    columns = [[column[place] for place in user.sharers] for user in users]
    bank, sampling = PieceCache(base, lambda number: adapter(used[number])), sampling_of(settings, seed)

    def run(asked: Mapping[int, Ask]) -> dict[int, list[Answers]]:
        # Made anew for each call, so that a resumed search decodes exactly as one that was never stopped.
        drafts = Drafts()
        recipes: list[Weights] = []
        rows: list[tuple[Encoded, int]] = []
        for number, ask in asked.items():
            user = users[number]
            for answers in [user.references, *ask.known]:
                # A candidate that was stopped has answered the first items.
                for row, answer in zip(user.items, answers, strict=False):
                    drafts.add(row.prompt, answer, base.stop)
            for model in ask.models:
                rows += [(row, len(recipes)) for row in user.items[ask.first : ask.last]]
                recipes.append(_over(model, columns[number]))
        outputs = generate(
            base,
            RecipeRouter(bank, recipes),
            rows,
            max_new_tokens=settings.max_new_tokens,
            batch_tokens=settings.batch_tokens,
            batch_rows=settings.batch_rows,
            merge=merge,
            sampling=sampling,
            drafts=drafts,
        )
        found = map(tuple, outputs)
        return {
            number: [tuple(next(found) for _ in range(ask.first, ask.last)) for _ in ask.models]
            for number, ask in asked.items()
        }

    return run


def make_decode(base: Base) -> Decode:
    """From token ids to texts, as predictions are written."""

    def decode(answers: Answers) -> list[str]:
        texts = base.tokenizer.batch_decode([list(tokens) for tokens in answers], skip_special_tokens=True)
        return [text.strip() for text in texts]

    return decode


def _over(model: Weights, columns: Sequence[int]) -> Weights:
    """A model over a user's sharers as one over all users' sharers."""
    return {module: [(columns[index], weight) for index, weight in mix] for module, mix in model.items()}
