"""Greedy decoding of rows that carry different recipes, in shared batches; rows that have ended leave the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from perpcs_cli.artifacts.workspace import Merge
from perpcs_cli.model.base import Base
from perpcs_cli.model.batching import Encoded, by_budget, make_batch
from perpcs_cli.model.pieces import Recipes, attached


@torch.inference_mode()
def generate(
    base: Base,
    recipes: Recipes,
    rows: Sequence[tuple[Encoded, int]],
    *,
    max_new_tokens: int,
    batch_tokens: int,
    batch_rows: int,
    merge: Merge = "product",
    done: Callable[[list[int], list[list[int]]], None] = lambda indices, tokens: None,
) -> list[list[int]]:
    """The greedy continuation of each row, (prompt, index of its recipe), without the end-of-sequence token.

    `done(indices, tokens)` is called after every batch with the rows that it finished.
    """
    outputs: list[list[int]] = [[] for _ in rows]
    lengths = [len(row.prompt) + max_new_tokens for row, _ in rows]
    for batch in by_budget(lengths, batch_tokens, batch_rows):
        with attached(base, recipes, merge=merge):
            _decode(base, recipes, [rows[i] for i in batch], max_new_tokens, [outputs[i] for i in batch])
        done(batch, [outputs[i] for i in batch])
    return outputs


def _decode(
    base: Base, recipes: Recipes, rows: Sequence[tuple[Encoded, int]], limit: int, outputs: Sequence[list[int]]
) -> None:
    """Append to each row's output until end of sequence or `limit` tokens."""
    batch = make_batch(base, [Encoded(row.key, row.prompt, []) for row, _ in rows])
    stop = torch.tensor(base.stop, device=base.device)
    alive = list(range(len(rows)))
    recipes.use([recipe for _, recipe in rows])
    result = base.model(**batch.inputs(), use_cache=True, logits_to_keep=1)
    cache: Any = result.past_key_values
    mask, positions = batch.mask, batch.positions[:, -1:]
    for step in range(limit):
        tokens: Tensor = result.logits[:, -1].argmax(-1)
        ended = torch.isin(tokens, stop).tolist()
        for index, token, end in zip(alive, tokens.tolist(), ended, strict=True):
            if not end:
                outputs[index].append(token)
        stay = [i for i, end in enumerate(ended) if not end]
        if not stay or step + 1 == limit:
            return
        if len(stay) < len(alive):
            keep = torch.tensor(stay, device=base.device)
            cache.batch_select_indices(keep)
            tokens, mask, positions = tokens[keep], mask[keep], positions[keep]
            alive = [alive[i] for i in stay]
            recipes.use([rows[i][1] for i in alive])
        mask = torch.cat([mask, mask.new_ones(len(alive), 1)], dim=1)
        positions = positions + 1
        result = base.model(
            input_ids=tokens[:, None],
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
