"""What models say of known answers, token by token: rows that carry different recipes, in packed passes.

Only the answers' tokens get logits. What the prompts of a recipe begin with is computed once for its rows in a batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import torch
from torch import Tensor

from perpcs_cli.artifacts.settings import Merge
from perpcs_cli.model import transfers
from perpcs_cli.model.engine.batching import Encoded, shared_prefix
from perpcs_cli.model.engine.decode import LEAST_PREFIX
from perpcs_cli.model.engine.drafts import fixed_cost
from perpcs_cli.model.engine.lora_layer import attached
from perpcs_cli.model.engine.memory import Halving
from perpcs_cli.model.engine.recipe_router import RecipeRouter
from perpcs_cli.model.loading.base import Base
from perpcs_cli.model.packed.attention import packed
from perpcs_cli.model.packed.rows import Rows, not_finite
from perpcs_cli.model.transfers import Upload, integers

LOGITS_BYTES = 256 << 20
"""Logits that a pass may return, as float32; a row's own are always allowed."""
CHUNK = 128
"""Tokens whose distributions are looked at together."""


@dataclass(frozen=True)
class TokenScores:
    """An answer under a model, in float32: each token's log-probability, and mean and standard deviation of log p over
    the model's next-token distribution at its place. Answers end with end of sequence, as in training."""

    logprobs: tuple[float, ...]
    means: tuple[float, ...]
    deviations: tuple[float, ...]


def moments(logits: Tensor, targets: Tensor) -> Tensor:
    """[3, tokens]: the targets' log-probability, mean and standard deviation of log p under p. Float32, in chunks.

    `logits`: [tokens, vocabulary]; `targets`: [tokens].
    """
    found = []
    for some, wanted in zip(logits.split(CHUNK), targets.split(CHUNK), strict=True):
        logp = torch.log_softmax(some.float(), dim=-1)
        p = logp.exp()
        mean = (p * logp).nan_to_num().sum(-1)
        # Around the mean, as the difference of two squares cancels where a model is sure.
        variance = (p * (logp - mean[:, None]).square()).nan_to_num().sum(-1)
        found.append(torch.stack([logp.gather(-1, wanted[:, None])[:, 0], mean, variance.sqrt()]))
    return torch.cat(found, dim=1)


def score(
    base: Base,
    recipes: RecipeRouter,
    rows: Sequence[tuple[Encoded, int]],
    *,
    batch_tokens: int,
    batch_rows: int,
    merge: Merge = "product",
    known: Collection[int] = (),
    done: Callable[[dict[int, TokenScores]], None] = lambda found: None,
) -> dict[int, TokenScores]:
    """Each row's answer, (prompt and answer, index of its recipe), under that recipe, by the row's index.

    At most `batch_rows` rows and `batch_tokens` tokens are in memory at a time, but always one row. Batches whose rows
    are all `known` are passed over; the batches do not depend on it, so that a run that goes on computes what one that
    was never stopped would. `done` is called after each batch. Raises ValueError for a row without an answer.
    """
    if any(not row.answer for row, _ in rows):
        raise ValueError("a row has no answer to score")
    found: dict[int, TokenScores] = {}
    for batch in plan(rows, batch_tokens, batch_rows, len(base.tokenizer)):
        if all(index in known for index in batch):
            continue
        with packed(base), attached(base, recipes, merge=merge):
            # A new one for each batch: how it is divided must not depend on the batches before it.
            parts = Halving[tuple[Encoded, int]](lambda row: [row[0]]).run(
                [rows[index] for index in batch], partial(_pass, base, recipes)
            )
        new = dict(zip(batch, chain.from_iterable(parts), strict=True))
        found |= new
        done(new)
    return found


def plan(rows: Sequence[tuple[Encoded, int]], tokens: int, most: int, vocabulary: int) -> Iterator[list[int]]:
    """Indices of rows in batches: rows of similar length, recipe by recipe, that together fit into memory."""
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i][0]).bit_length(), rows[i][1], -len(rows[i][0]), i))
    limit = max(1, LOGITS_BYTES // (4 * vocabulary))
    batch: list[int] = []
    longest = answers = 0
    for index in order:
        row = rows[index][0]
        longest, answers = max(longest, len(row)), answers + len(row.answer)
        if batch and (len(batch) == most or longest * (len(batch) + 1) > tokens or answers > limit):
            yield batch
            batch, longest, answers = [], len(row), len(row.answer)
        batch.append(index)
    if batch:
        yield batch


@torch.inference_mode()
def _pass(base: Base, recipes: RecipeRouter, rows: Sequence[tuple[Encoded, int]]) -> list[TokenScores]:
    """One batch: the common beginnings, then all that is left. Raises PerpcsError for what is not finite."""
    # What follows the last token of an answer is not asked for.
    lines = [row.prompt + row.answer[:-1] for row, _ in rows]
    recipes.begin()
    cache = Rows(base, len(rows), max(map(len, lines)))
    starts = _beginnings(base, cache, recipes, rows)
    new = [line[start:] for line, start in zip(lines, starts, strict=True)]
    upload = Upload(base.device)
    recipes.use([recipe for _, recipe in rows], [len(tokens) for tokens in new], upload)
    targets = upload.add(integers([token for row, _ in rows for token in row.answer]))
    logits = cache.logits(cache.plan(range(len(rows)), starts, new, [len(row.answer) for row, _ in rows], upload))
    values = iter(transfers.fetch(moments(logits, targets.tensor).T).tolist())
    found = []
    for row, _ in rows:
        logprobs, means, deviations = zip(*(next(values) for _ in row.answer), strict=True)
        if not all(map(math.isfinite, [*logprobs, *means, *deviations])):
            raise not_finite()
        found.append(TokenScores(logprobs, means, deviations))
    return found


def _beginnings(base: Base, cache: Rows, recipes: RecipeRouter, rows: Sequence[tuple[Encoded, int]]) -> list[int]:
    """Compute what the prompts of each recipe have in common, if that saves more than a pass costs.

    Returns how many tokens of each row are there then.
    """
    groups: dict[int, list[int]] = {}
    for place, (_, recipe) in enumerate(rows):
        groups.setdefault(recipe, []).append(place)
    common: dict[int, int] = {}
    for recipe, places in groups.items():
        # The last token of a prompt must be run for what comes after it.
        length = shared_prefix([rows[place][0].prompt[:-1] for place in places])
        if len(places) > 1 and length >= LEAST_PREFIX:
            common[recipe] = length
    if sum((len(groups[recipe]) - 1) * length for recipe, length in common.items()) <= fixed_cost(
        base.device, base.dtype
    ):
        return [0] * len(rows)
    leaders = [groups[recipe][0] for recipe in common]
    lengths = list(common.values())
    upload = Upload(base.device)
    recipes.use(list(common), lengths, upload)
    begun = [rows[place][0].prompt[:length] for place, length in zip(leaders, lengths, strict=True)]
    cache.logits(cache.plan(leaders, [0] * len(leaders), begun, [0] * len(leaders), upload))
    pairs = [(groups[recipe][0], place) for recipe in common for place in groups[recipe][1:]]
    cache.copy(pairs, max(lengths))
    return [common.get(recipe, 0) for _, recipe in rows]
