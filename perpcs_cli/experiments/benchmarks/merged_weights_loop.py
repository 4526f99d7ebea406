"""What the engine of `model.scoring` is measured against: one recipe at a time, merged into the base's weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from perpcs_cli.artifacts.adapter import Adapter
from perpcs_cli.model.engine.batching import Encoded, by_budget, make_batch
from perpcs_cli.model.engine.recipe_router import Weights
from perpcs_cli.model.engine.scoring import LOGITS_BYTES, TokenScores, moments
from perpcs_cli.model.loading.base import Base


@contextmanager
def merged_weights(base: Base, adapter: Callable[[int], Adapter], recipe: Weights) -> Iterator[None]:
    """Add a recipe to the base's own weights while the block lasts: ΔW = Σ w · scale · B A, in float32."""
    kept = {module: base.targets[module].weight.data for module in recipe}
    try:
        for module, mix in recipe.items():
            weight = kept[module].float()
            for sharer, share in mix:
                one = adapter(sharer)
                a, b = (factor.to(base.device).float() for factor in one.piece(module))
                weight = weight + (b @ a) * (share * one.scale)
            base.targets[module].weight.data = weight.to(base.dtype)
        yield
    finally:
        for module, weight in kept.items():
            base.targets[module].weight.data = weight


@torch.inference_mode()
def score_padded(base: Base, rows: Sequence[Encoded], *, batch_tokens: int, batch_rows: int) -> list[TokenScores]:
    """Each row's answer under the model as it is: left-padded batches of similar length, logits at the answers."""
    found: dict[int, TokenScores] = {}
    limit = max(1, LOGITS_BYTES // (4 * len(base.tokenizer) * max(len(row.answer) for row in rows)))
    for indices in by_budget([len(row) for row in rows], batch_tokens, min(batch_rows, limit)):
        batch = make_batch(base, [rows[index] for index in indices])
        targets = batch.targets()
        width = targets.shape[1]
        logits = base.model(**batch.inputs(), logits_to_keep=width + 1, use_cache=False).logits[:, -width - 1 : -1]
        wanted = targets != -100
        values = iter(moments(logits[wanted], targets[wanted]).T.tolist())
        for index in indices:
            logprobs, means, deviations = zip(*(next(values) for _ in rows[index].answer), strict=True)
            found[index] = TokenScores(logprobs, means, deviations)
    return [found[index] for index in range(len(rows))]


def score_one_by_one(
    base: Base,
    adapter: Callable[[int], Adapter],
    recipes: Sequence[Weights],
    rows: Sequence[Encoded],
    *,
    batch_tokens: int,
    batch_rows: int,
    share_reference: bool = False,
) -> tuple[list[list[TokenScores]], list[list[TokenScores]]]:
    """(each recipe's rows, the reference's rows for each recipe); the reference is scored once if it is shared."""
    room = {"batch_tokens": batch_tokens, "batch_rows": batch_rows}
    found: list[list[TokenScores]] = []
    references: list[list[TokenScores]] = []
    for number, recipe in enumerate(recipes):
        again = number == 0 or not share_reference
        references.append(score_padded(base, rows, **room) if again else references[0])
        with merged_weights(base, adapter, recipe):
            found.append(score_padded(base, rows, **room))
    return found, references
