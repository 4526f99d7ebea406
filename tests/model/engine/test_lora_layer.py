"""The pieces layer against the papers' formulas written as loops, and a recipe against explicitly merged weights."""

from __future__ import annotations

import random

import pytest
import torch
from helpers import TARGETS, MemoryAdapter, load_base, merged, random_pieces, random_rows

from perpcs_cli.model.engine.batching import make_batch
from perpcs_cli.model.engine.lora_layer import Pieces, attached, update
from perpcs_cli.model.engine.piece_cache import PieceCache
from perpcs_cli.model.engine.recipe_router import RecipeRouter


def random_recipes(base, count, sharers, seed=0):
    """Recipes that mix one or two sharers, with weights of either sign, at most of the linear layers."""
    draw = random.Random(seed)
    return [
        {
            module: [(s, draw.uniform(-1.5, 1.5)) for s in draw.sample(range(sharers), draw.randint(1, 2))]
            for module in base.targets
            if draw.random() < 0.8
        }
        for _ in range(count)
    ]


def in_memory(base, count):
    """(pieces of some sharers, a cache that holds them)."""
    pieces = [random_pieces(base, seed) for seed in range(count)]
    adapters = [MemoryAdapter(some) for some in pieces]
    return pieces, PieceCache(base, lambda index: adapters[index])


@torch.inference_mode()
def last_logits(base, rows, recipes=None, which=(), merge="product"):
    """[rows, vocabulary] at the last position, of a left-padded batch whose row i runs recipe which[i]."""
    inputs = make_batch(base, rows).inputs()
    if recipes is None:
        return base.model(**inputs).logits[:, -1]
    recipes.use(which)
    with attached(base, recipes, merge=merge):
        return base.model(**inputs).logits[:, -1]


def close(found, expected, atol=2e-4):
    torch.testing.assert_close(found.float(), expected.float(), atol=atol, rtol=1e-4)


@pytest.mark.parametrize("merge", ["product", "factor"])
def test_update_is_the_formula(merge):
    rows, tokens, sharers, rank, n, d = 3, 4, 5, 2, 6, 7
    torch.manual_seed(0)
    x = torch.randn(rows, tokens, n)
    a, b = torch.randn(sharers, rank, n), torch.randn(sharers, d, rank)
    weights = torch.randn(rows, sharers)
    found = update(x, Pieces(a.flatten(0, 1), torch.cat(list(b), dim=1), weights), merge)

    x, a, b, weights = x.double(), a.double(), b.double(), weights.double()
    for row in range(rows):
        if merge == "product":
            delta = sum(weights[row, s] * b[s] @ a[s] for s in range(sharers))
        else:
            delta = sum(weights[row, s] * b[s] for s in range(sharers)) @ sum(
                weights[row, s] * a[s] for s in range(sharers)
            )
        for token in range(tokens):
            close(found[row, token], delta @ x[row, token], atol=1e-4)


def test_gates_scale_each_token_and_piece():
    """z = W v + B A v · σ(gᵀ v)."""
    rows, tokens, sharers, rank, n, d = 2, 3, 4, 2, 6, 5
    torch.manual_seed(0)
    x, gates = torch.randn(rows, tokens, n), torch.randn(sharers, n)
    a, b = torch.randn(sharers, rank, n), torch.randn(sharers, d, rank)
    weights = torch.eye(sharers)[[2, 0]]
    found = update(x, Pieces(a.flatten(0, 1), torch.cat(list(b), dim=1), weights, gates), "product")
    for row, sharer in enumerate([2, 0]):
        for token in range(tokens):
            v = x[row, token].double()
            expected = b[sharer].double() @ a[sharer].double() @ v / (1 + torch.exp(-gates[sharer].double() @ v))
            close(found[row, token], expected, atol=1e-5)


@pytest.mark.parametrize("merge", ["product", "factor"])
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "gemma"])
def test_mixed_batch_equals_merged_weights(model_dir, family, merge):
    """Rows of different recipes and lengths, padded together, equal each row alone in a model with merged weights."""
    base = load_base(str(model_dir(family)), targets=TARGETS, device="cpu", dtype="float32")
    sharers, cache = in_memory(base, 4)
    recipes = random_recipes(base, 3, 4)
    rows = random_rows(base, [(9, 0), (20, 0), (5, 0), (13, 0)])
    which = [0, 1, 2, 1]
    found = last_logits(base, rows, RecipeRouter(cache, recipes), which, merge)
    for index, row in enumerate(rows):
        expected = last_logits(merged(base, sharers, recipes[which[index]], merge), [row])
        close(found[index], expected[0])
        assert not torch.allclose(found[index], last_logits(base, [row])[0], atol=0.1), "the recipe changes nothing"


def test_rows_do_not_depend_on_their_batch(tiny):
    recipes = RecipeRouter(in_memory(tiny, 4)[1], random_recipes(tiny, 3, 4))
    rows = random_rows(tiny, [(7, 0), (15, 0), (11, 0)])
    together = last_logits(tiny, rows, recipes, [0, 1, 2])
    for index, row in enumerate(rows):
        close(together[index], last_logits(tiny, [row], recipes, [index])[0], atol=5e-5)


def test_right_padding_changes_nothing(tiny):
    recipes = RecipeRouter(in_memory(tiny, 2)[1], random_recipes(tiny, 2, 2))
    short, long = random_rows(tiny, [(6, 0), (10, 0)])
    ids = torch.tensor([short.prompt + [tiny.pad] * 4, long.prompt])
    mask = torch.tensor([[1] * 6 + [0] * 4, [1] * 10])
    recipes.use([0, 1])
    with torch.inference_mode(), attached(tiny, recipes):
        logits = tiny.model(input_ids=ids, attention_mask=mask).logits
    close(logits[0, 5], last_logits(tiny, [short], recipes, [0])[0], atol=5e-5)
    close(logits[1, 9], last_logits(tiny, [long], recipes, [1])[0], atol=5e-5)


def test_one_sharer_at_weight_one_is_that_sharer(tiny):
    sharers, cache = in_memory(tiny, 2)
    one = {module: [(1, 1.0)] for module in tiny.targets}
    row = random_rows(tiny, [(12, 0)])
    for merge in ("product", "factor"):
        close(
            last_logits(tiny, row, RecipeRouter(cache, [one]), [0], merge), last_logits(merged(tiny, sharers, one), row)
        )


def test_all_zeros_is_the_base_exactly(tiny):
    adapters = [MemoryAdapter(random_pieces(tiny, 0))]
    zeros = {module: [(0, 0.0)] for module in tiny.targets}
    row = random_rows(tiny, [(12, 0)])
    found = last_logits(tiny, row, RecipeRouter(PieceCache(tiny, lambda i: adapters[i]), [zeros]), [0])
    assert torch.equal(found, last_logits(tiny, row))
    assert adapters[0].reads == []


def test_a_zero_row_beside_others_is_the_base(tiny):
    one = {module: [(0, 1.0)] for module in tiny.targets}
    rows = random_rows(tiny, [(8, 0), (8, 0)])
    found = last_logits(tiny, rows, RecipeRouter(in_memory(tiny, 1)[1], [one, {}]), [0, 1])
    close(found[1], last_logits(tiny, rows)[1], atol=1e-5)


def test_only_factor_merge_ignores_the_sign_of_a_recipe(tiny):
    recipe = random_recipes(tiny, 1, 3)[0]
    minus = {module: [(sharer, -weight) for sharer, weight in mix] for module, mix in recipe.items()}
    recipes = RecipeRouter(in_memory(tiny, 3)[1], [recipe, minus])
    row = random_rows(tiny, [(10, 0)]) * 2
    plus, other = last_logits(tiny, row, recipes, [0, 1], "factor")
    close(plus, other, atol=1e-5)
    plus, other = last_logits(tiny, row, recipes, [0, 1], "product")
    assert (plus - other).abs().max() > 0.1


def test_bfloat16_is_close_to_float32(tiny, tiny_dir):
    half = load_base(str(tiny_dir), targets=TARGETS, device="cpu", dtype="bfloat16")
    recipe = {module: [(0, 0.3), (1, 0.2)] for module in tiny.targets}
    row = random_rows(tiny, [(10, 0)])
    exact = last_logits(tiny, row, RecipeRouter(in_memory(tiny, 2)[1], [recipe]), [0])
    found = last_logits(half, row, RecipeRouter(in_memory(half, 2)[1], [recipe]), [0])
    assert found.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(found.float(), exact).item() > 0.999


def test_the_model_is_left_as_it_was(tiny):
    before = {name: parameter.clone() for name, parameter in tiny.model.named_parameters()}
    calls = []

    def broken(module, x):
        calls.append(module)
        if len(calls) == 6:
            raise RuntimeError("in the middle")
        return Pieces(torch.ones(1, x.shape[-1]), torch.ones(tiny.targets[module].out_features, 1), torch.ones(1, 1))

    row = random_rows(tiny, [(4, 0)])
    expected = last_logits(tiny, row)
    with pytest.raises(RuntimeError, match="in the middle"), torch.inference_mode(), attached(tiny, broken):
        tiny.model(**make_batch(tiny, row).inputs())
    assert calls == list(tiny.targets)[:6]
    assert not any(layer._forward_hooks for layer in tiny.targets.values())
    assert torch.equal(last_logits(tiny, row), expected)
    assert all(torch.equal(before[name], parameter) for name, parameter in tiny.model.named_parameters())


def test_dropout_drops_the_input_of_the_pieces_alone(tiny):
    row = random_rows(tiny, [(10, 0)])
    inputs = make_batch(tiny, row).inputs()
    zeros = RecipeRouter(in_memory(tiny, 1)[1], [{}])
    zeros.use([0])
    one = RecipeRouter(in_memory(tiny, 1)[1], [{module: [(0, 1.0)] for module in tiny.targets}])
    one.use([0])
    seen = []

    def dropped(module, x):
        seen.append(module)
        return torch.zeros_like(x)

    expected = last_logits(tiny, row)
    with torch.inference_mode(), attached(tiny, one, dropout=dropped):
        assert torch.equal(tiny.model(**inputs).logits[:, -1], expected)
    assert seen == list(tiny.targets)
    with torch.inference_mode(), attached(tiny, zeros, dropout=pytest.fail):
        assert torch.equal(tiny.model(**inputs).logits[:, -1], expected)
    with torch.inference_mode(), attached(tiny, one):
        assert not torch.allclose(tiny.model(**inputs).logits[:, -1], last_logits(tiny, row, one, [0]))
