"""What PriME's search found for a user, as commands show it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from perpcs_cli.artifacts.recipe import Recipe, mean_weights
from perpcs_cli.artifacts.users import User

if TYPE_CHECKING:
    from perpcs_cli.methods.prime.search import Choice


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What a search found for one α. Scores are None where the recipe is finished and its trace is gone."""

    user_id: str
    alpha: float
    base: bool
    """Whether the recipe is the base model, because no candidate beats it."""
    weights: dict[str, float] = {}
    """What the recipe is made of: each sharer's mean weight, the largest first."""
    reward: float | None = None
    base_reward: float | None = None
    utility: float | None = None
    similarity: float | None = None
    """The mean over sharers."""
    metrics: dict[str, float] = {}
    candidates: int | None = None
    stopped: int | None = None
    """Those of them that were stopped in a race."""


def found_by(user: User, choice: Choice, recipe: Recipe) -> Found:
    """What was found for one α, and became a recipe."""
    row = choice.evaluation
    return Found(
        user_id=user.user_id,
        alpha=choice.alpha,
        base=choice.is_base,
        weights=mean_weights(recipe),
        reward=choice.reward,
        base_reward=choice.base_reward,
        utility=row.utility,
        similarity=sum(row.similarity) / len(row.similarity),
        metrics=row.metrics,
        candidates=choice.candidates,
        stopped=choice.stopped,
    )
