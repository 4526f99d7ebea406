"""Recipes come and go in a table's slots; pieces are stacked anew only where other sharers are needed."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
from helpers import MemoryAdapter, random_pieces

from perpcs_cli.model.engine import recipe_router
from perpcs_cli.model.engine.lora_layer import update
from perpcs_cli.model.engine.piece_cache import PieceCache
from perpcs_cli.model.engine.recipe_router import RecipeRouter
from perpcs_cli.model.transfers import Upload

SHARERS = 4


def make(base, recipes, gate=None):
    """(a router, the pieces of its sharers, a list of what is stacked)."""
    pieces = [random_pieces(base, seed) for seed in range(SHARERS)]
    adapters = [MemoryAdapter(some) for some in pieces]
    bank = PieceCache(base, adapters.__getitem__, *([gate] if gate else []))
    stacked = []
    honest = bank.stack
    bank.stack = lambda module, sharers: (stacked.append((module, list(sharers))), honest(module, sharers))[1]
    return RecipeRouter(bank, recipes), pieces, stacked


def drawn(base, count, seed=0):
    draw = random.Random(seed)
    return [
        {
            m: [(s, draw.uniform(-1, 1)) for s in draw.sample(range(SHARERS), 2)]
            for m in base.targets
            if draw.random() < 0.8
        }
        for _ in range(count)
    ]


@torch.inference_mode()
def check(base, router, pieces, recipes, rows, lengths, inputs):
    """Every linear layer adds Σ w B A x for each token of a row."""
    for module in base.targets:
        x = inputs[module]
        found = router(module, x)
        expected = torch.zeros(x.shape[1], base.targets[module].out_features, dtype=torch.double)
        owners = np.repeat(rows, lengths)
        for token, recipe in enumerate(owners):
            for sharer, weight in recipes[recipe].get(module, []):
                a, b = (factor.double() for factor in pieces[sharer][module])
                expected[token] += weight * (b @ (a @ x[0, token].double()))
        added = torch.zeros_like(expected) if found is None else update(x, found, "product")[0].double()
        torch.testing.assert_close(added, expected, atol=1e-4, rtol=1e-4)


def line(base, tokens):
    """An input for each linear layer: q, k and v of a layer see the same tensor."""
    generator = torch.Generator().manual_seed(tokens)
    seen = {}
    for module in base.targets:
        key = (module.rpartition(".")[0], module[-6] in "qkv")
        if key not in seen:
            seen[key] = torch.randn(1, tokens, base.targets[module].in_features, generator=generator)
    return {module: seen[module.rpartition(".")[0], module[-6] in "qkv"] for module in base.targets}


@pytest.mark.parametrize("block", [1, 64 << 20], ids=["small blocks", "one block"])
def test_whoever_comes_and_goes_every_token_has_its_recipe(tiny, monkeypatch, block):
    monkeypatch.setattr(recipe_router, "BLOCK_BYTES", block)
    recipes = [*drawn(tiny, 6), {}]
    router, pieces, _ = make(tiny, recipes)
    draw = random.Random(1)
    for _ in range(25):
        rows = [draw.randrange(len(recipes)) for _ in range(draw.randint(1, 5))]
        lengths = [draw.randint(1, 4) for _ in rows]
        upload = Upload(tiny.device)
        router.use(rows, lengths, upload)
        upload.send()
        check(tiny, router, pieces, recipes, rows, lengths, line(tiny, sum(lengths)))


def test_layers_with_other_inputs_than_expected_have_their_own_product(tiny):
    recipes = drawn(tiny, 2)
    router, pieces, _ = make(tiny, recipes)
    router.use([0, 1], [2, 2])
    apart = {module: x.clone() * (1 + number) for number, (module, x) in enumerate(line(tiny, 4).items())}
    check(tiny, router, pieces, recipes, [0, 1], [2, 2], apart)


def test_a_recipe_over_sharers_that_are_there_is_a_row_of_the_table(tiny):
    """Nothing is stacked, and nothing goes over but its weights, its slot, and the tokens' slots."""
    every = {module: [(sharer, 0.1) for sharer in range(SHARERS)] for module in tiny.targets}
    recipes = [every, *drawn(tiny, 3)]
    router, pieces, stacked = make(tiny, recipes)
    router.use([0, 1], [1, 1])
    check(tiny, router, pieces, recipes, [0, 1], [1, 1], line(tiny, 2))
    stacked.clear()
    for other in (2, 3, 1):
        upload = Upload(tiny.device)
        router.use([0, other], [1, 1], upload)
        upload.send()
        check(tiny, router, pieces, recipes, [0, other], [1, 1], line(tiny, 2))
        assert len(upload.sent) <= SHARERS * len(tiny.targets) / 2 + 1 + 2
    assert stacked == []


def test_only_layers_that_need_another_sharer_are_stacked_again(tiny):
    last = list(tiny.targets)[-1]
    recipes = [{module: [(0, 1.0)] for module in tiny.targets}, {last: [(1, 1.0)]}]
    router, pieces, stacked = make(tiny, recipes)
    for rows in ([0], [0, 1]):
        stacked.clear()
        router.use(rows, [1] * len(rows))
        check(tiny, router, pieces, recipes, rows, [1] * len(rows), line(tiny, len(rows)))
    assert stacked == [(last, [0, 1])]


def test_what_nobody_needs_goes_when_it_is_half(tiny):
    recipes = [{module: [(sharer, 1.0)] for module in tiny.targets} for sharer in range(SHARERS)]
    router, pieces, stacked = make(tiny, recipes)
    for rows in ([0, 1, 2, 3], [0, 1, 2], [0, 1], [0]):
        stacked.clear()
        router.use(rows, [1] * len(rows))
        check(tiny, router, pieces, recipes, rows, [1] * len(rows), line(tiny, len(rows)))
        assert bool(stacked) == (rows in ([0, 1, 2, 3], [0]))
    assert {tuple(sharers) for _, sharers in stacked} == {(0,)}


def test_after_begin_nothing_depends_on_who_ran_before(tiny):
    recipes = drawn(tiny, 4)
    x = line(tiny, 2)
    results = []
    for before in ([], [[0, 1, 2, 3], [3]]):
        router, _, _ = make(tiny, recipes)
        for rows in before:
            router.use(rows, [1] * len(rows))
        router.begin()
        router.use([1, 2], [1, 1])
        with torch.inference_mode():
            found = {module: router(module, x[module]) for module in tiny.targets}
        results.append({m: update(x[m], pieces, "product") for m, pieces in found.items() if pieces})
    assert results[0].keys() == results[1].keys()
    assert all(torch.equal(results[0][module], results[1][module]) for module in results[0])


def test_what_a_failed_pass_did_not_take_in_is_sent_again(tiny):
    recipes = drawn(tiny, 3)
    router, pieces, _ = make(tiny, recipes)
    router.use([0, 1], [1, 1], Upload(tiny.device))
    router.use([0, 1], [1, 1])
    check(tiny, router, pieces, recipes, [0, 1], [1, 1], line(tiny, 2))
    router.use([2, 1], [1, 1], Upload(tiny.device))
    router.use([2, 1, 0], [1, 1, 1])
    check(tiny, router, pieces, recipes, [2, 1, 0], [1, 1, 1], line(tiny, 3))


def test_equal_recipes_have_equal_keys(tiny):
    first, second, *_ = tiny.targets
    same = [
        {first: [(0, 0.5), (2, 0.25)], second: [(1, 1.0)]},
        {second: [(1, 1.0), (3, 0.0)], first: [(2, 0.25), (0, 0.5)]},
        {first: [(0, 0.25), (2, 0.25), (0, 0.25)], second: [(1, 1.0)], "elsewhere": [(1, 1.0)]},
    ]
    others = [{}, {first: [(0, 0.5)]}, {first: [(0, 0.5), (2, 0.25)], second: [(1, 1.0000001)]}]
    router, _, _ = make(tiny, [*same, *others])
    keys = [router.key(number) for number in range(len(same) + len(others))]
    assert len(set(keys[: len(same)])) == 1
    assert all(one != other for one, other in itertools.combinations([keys[0], *keys[len(same) :]], 2))
