"""Pieces are read when they are first used, and kept while there is room."""

from __future__ import annotations

import torch
from helpers import MemoryAdapter, merged, random_pieces

from perpcs_cli.model.engine.batching import Encoded, make_batch
from perpcs_cli.model.engine.lora_layer import attached
from perpcs_cli.model.engine.piece_cache import PieceCache
from perpcs_cli.model.engine.recipe_router import RecipeRouter


def test_a_piece_is_read_once_and_only_if_it_is_used(tiny):
    adapters = [MemoryAdapter(random_pieces(tiny, seed)) for seed in range(3)]
    cache = PieceCache(tiny, lambda index: adapters[index])
    first, second, *_ = tiny.targets
    recipes = RecipeRouter(cache, [{first: [(0, 1.0), (1, 0.0)]}, {second: [(2, 0.5)], first: [(2, 0.5)]}])
    rows = [Encoded("", [5, 6, 7], [])] * 2
    for which in ([0, 0], [0, 1], [1, 0]):
        recipes.use(which)
        with torch.inference_mode(), attached(tiny, recipes):
            tiny.model(**make_batch(tiny, rows).inputs())
    assert [sorted(adapter.reads) for adapter in adapters] == [[first], [], sorted([first, second])]


def test_a_full_cache_forgets_what_was_not_used_for_longest(tiny, monkeypatch):
    adapters = [MemoryAdapter(random_pieces(tiny, seed)) for seed in range(3)]
    module = next(iter(tiny.targets))
    size = sum(factor.nbytes for factor in adapters[0].piece(module))
    adapters[0].reads.clear()
    monkeypatch.setattr("perpcs_cli.model.engine.piece_cache.CACHE_BYTES", 2 * size)
    cache = PieceCache(tiny, lambda index: adapters[index])
    for used in ([0], [1], [0], [2], [0], [1]):
        cache.stack(module, used)
    assert [len(adapter.reads) for adapter in adapters] == [1, 2, 1]


def test_the_scale_is_folded_into_b(tiny):
    pieces = random_pieces(tiny, 0)
    module = next(iter(tiny.targets))
    cache = PieceCache(tiny, lambda index: MemoryAdapter(pieces, scale=2.0 + index))
    a, b = cache.stack(module, [0, 1])
    assert torch.equal(a, torch.cat([pieces[module][0]] * 2))
    assert torch.equal(b, torch.cat([2 * pieces[module][1], 3 * pieces[module][1]], dim=1))


def test_pieces_of_several_ranks_run_side_by_side(tiny):
    sharers = [random_pieces(tiny, seed, rank) for seed, rank in enumerate((2, 5, 3))]
    cache = PieceCache(tiny, lambda index: MemoryAdapter(sharers[index]))
    a, b = cache.stack(next(iter(tiny.targets)), [0, 1, 2])
    assert (a.shape[0], b.shape[1]) == (15, 15)
    recipe = {module: [(0, 0.5), (1, -0.75), (2, 1.25)] for module in tiny.targets}
    rows = [Encoded("", [5, 6, 7], [])]
    inputs = make_batch(tiny, rows).inputs()
    for merge in ("product", "factor"):
        router = RecipeRouter(cache, [recipe])
        router.use([0])
        with torch.inference_mode(), attached(tiny, router, merge=merge):
            found = tiny.model(**inputs).logits
        filled = [{m: _filled(*pair, 5) for m, pair in pieces.items()} for pieces in sharers]
        with torch.inference_mode():
            expected = merged(tiny, filled, recipe, merge).model(**inputs).logits
        assert torch.allclose(found, expected, atol=1e-4)


def _filled(a, b, rank):
    rows, columns = torch.zeros(rank, a.shape[1]), torch.zeros(b.shape[0], rank)
    rows[: len(a)], columns[:, : len(a)] = a, b
    return rows, columns
