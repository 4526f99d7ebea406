"""Scoring answers against merged weights and against its definitions in float64; what is shared changes nothing."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from helpers import TARGETS, MemoryAdapter, load_base, merged, random_pieces, random_rows

from perpcs_cli.errors import PerpcsError
from perpcs_cli.model.engine import scoring
from perpcs_cli.model.engine.batching import Encoded, make_batch
from perpcs_cli.model.engine.piece_cache import PieceCache
from perpcs_cli.model.engine.recipe_router import RecipeRouter
from perpcs_cli.model.engine.scoring import moments, plan, score
from perpcs_cli.model.packed.rows import Rows

ROOM = {"batch_tokens": 4096, "batch_rows": 64}


def in_memory(base, count, gate=None):
    pieces = [random_pieces(base, seed) for seed in range(count)]
    adapters = [MemoryAdapter(some) for some in pieces]
    return pieces, PieceCache(base, lambda index: adapters[index], *([gate] if gate else []))


def mixes(base, *weights):
    """One recipe for each tuple of weights, the same in every linear layer; () is the base."""
    return [{module: list(enumerate(some)) for module in base.targets} if some else {} for some in weights]


def beginning_alike(base, lengths, common, seed=0):
    """Rows whose prompts have their first `common` tokens in common."""
    rows = random_rows(base, lengths, seed)
    first = rows[0].prompt[:common]
    return [dataclasses.replace(row, prompt=first + row.prompt[common:]) for row in rows]


@torch.inference_mode()
def alone(base, row):
    """[3, answer tokens] of one row in one pass, in float64."""
    logits = base.model(**make_batch(base, [row]).inputs()).logits[0].double()
    logp = logits[len(row.prompt) - 1 : -1].log_softmax(-1)
    p = logp.exp()
    mean = (p * logp).sum(-1)
    variance = (p * logp**2).sum(-1) - mean**2
    return torch.stack([logp[range(len(row.answer)), row.answer], mean, variance.sqrt()])


def as_tensor(scored):
    return torch.tensor([scored.logprobs, scored.means, scored.deviations], dtype=torch.float64)


@pytest.mark.parametrize("merge", ["product", "factor"])
@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2"])
def test_mixed_rows_are_those_of_merged_weights(model_dir, family, merge, monkeypatch):
    """Rows of three recipes and of the base in one batch, with a common beginning that is computed once."""
    monkeypatch.setattr(scoring, "fixed_cost", lambda device, dtype: 0)
    base = load_base(str(model_dir(family)), targets=TARGETS, device="cpu", dtype="float32")
    pieces, bank = in_memory(base, 3)
    recipes = mixes(base, (), (1.0,), (0.4, 0.0, 0.3), (-0.5, 0.7))
    examples = beginning_alike(base, [(20, 3), (12, 1), (31, 6)], common=10)
    rows = [(row, recipe) for recipe in range(4) for row in examples]
    passes = []
    monkeypatch.setattr(scoring, "_pass", spied(scoring._pass, lambda *given: passes.append(len(given[2]))))
    found = score(base, RecipeRouter(bank, recipes), rows, merge=merge, **ROOM)
    assert passes == [12]
    models = [merged(base, pieces, recipe, merge) for recipe in recipes]
    for index, (row, recipe) in enumerate(rows):
        torch.testing.assert_close(as_tensor(found[index]), alone(models[recipe], row), atol=1e-4, rtol=0)
    assert abs(found[0].logprobs[0] - found[3].logprobs[0]) > 0.1, "the recipe changes nothing"


def spied(function, note):
    def run(*given):
        note(*given)
        return function(*given)

    return run


def test_what_overflows_is_an_error(tiny):
    adapters = [MemoryAdapter(random_pieces(tiny, 0))]
    recipes = RecipeRouter(PieceCache(tiny, lambda index: adapters[index]), [{m: [(0, 1e30)] for m in tiny.targets}])
    rows = [(row, 0) for row in random_rows(tiny, [(9, 3), (5, 2)])]
    with pytest.raises(PerpcsError, match="the model's logits are not finite"):
        list(score(tiny, recipes, rows, batch_tokens=1000, batch_rows=8))


def test_moments_are_their_definitions():
    logits = torch.randn(300, 50, generator=torch.Generator().manual_seed(0)) * 4
    targets = torch.arange(300) % 50
    logp = logits.double().log_softmax(-1)
    p = logp.exp()
    mean = (p * logp).sum(-1)
    expected = torch.stack([logp[range(300), targets], mean, ((p * logp**2).sum(-1) - mean**2).sqrt()])
    torch.testing.assert_close(moments(logits, targets).double(), expected, atol=1e-5, rtol=1e-5)


def test_moments_of_a_certain_model_are_finite():
    logits = torch.tensor([[1000.0, -torch.inf, 0.0], [1000.0, 0.0, 0.0]])
    found = moments(logits, torch.tensor([0, 2]))
    assert found.tolist() == [[0.0, -1000.0], [0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("rows", [1, 3, 64])
def test_neither_batches_nor_common_beginnings_change_the_result(tiny, rows, monkeypatch):
    bank = in_memory(tiny, 2)[1]
    recipes = mixes(tiny, (), (0.5, 0.5))
    examples = beginning_alike(tiny, [(16, 2), (17, 4), (40, 3), (18, 1), (70, 5)], common=12)
    work = [(row, recipe) for row in examples for recipe in (0, 1)]
    whole = score(tiny, RecipeRouter(bank, recipes), work, **ROOM)
    monkeypatch.setattr(scoring, "fixed_cost", lambda device, dtype: 0)
    parts = score(tiny, RecipeRouter(bank, recipes), work, batch_tokens=4096, batch_rows=rows)
    assert sorted(parts) == list(range(len(work)))
    for index in parts:
        torch.testing.assert_close(as_tensor(parts[index]), as_tensor(whole[index]), atol=1e-4, rtol=0)


def test_a_common_beginning_is_computed_once_per_recipe(tiny, monkeypatch):
    monkeypatch.setattr(scoring, "fixed_cost", lambda device, dtype: 0)
    lines = []
    honest = Rows.plan
    monkeypatch.setattr(
        Rows, "plan", lambda self, *given: (lines.append(sum(map(len, given[2]))), honest(self, *given))[1]
    )
    examples = beginning_alike(tiny, [(20, 3), (20, 3), (20, 3)], common=12)
    score(
        tiny,
        RecipeRouter(in_memory(tiny, 1)[1], mixes(tiny, (), (1.0,))),
        [(e, r) for r in (0, 1) for e in examples],
        **ROOM,
    )
    # The answer's last token is not run: nothing is asked after it.
    assert lines == [2 * 12, 6 * (20 - 12 + 3 - 1)]


def test_equal_prompts_share_all_but_the_last_token(tiny, monkeypatch):
    monkeypatch.setattr(scoring, "fixed_cost", lambda device, dtype: 0)
    row = random_rows(tiny, [(20, 2)])[0]
    other = Encoded("other", row.prompt, [7, 8, tiny.stop[0]])
    recipes = RecipeRouter(in_memory(tiny, 1)[1], [{}])
    found = score(tiny, recipes, [(row, 0), (other, 0)], **ROOM)
    for index, one in enumerate((row, other)):
        torch.testing.assert_close(as_tensor(found[index]), alone(tiny, one), atol=1e-4, rtol=0)


def test_batches_keep_to_their_room():
    rows = [(Encoded("", [5] * length, [5] * answer), recipe) for length, answer, recipe in SHAPES]
    batches = list(plan(rows, tokens=120, most=4, vocabulary=400))
    assert sorted(index for batch in batches for index in batch) == list(range(len(rows)))
    for batch in batches:
        longest = max(len(rows[index][0]) for index in batch)
        assert len(batch) == 1 or (len(batch) <= 4 and longest * len(batch) <= 120)


SHAPES = [(10 + 7 * (n % 5), 1 + n % 3, n % 2) for n in range(20)] + [(300, 2, 0)]


def test_few_logits_at_a_time(monkeypatch):
    monkeypatch.setattr(scoring, "LOGITS_BYTES", 4 * 400 * 6)
    rows = [(Encoded("", [5] * 10, [5] * answer), 0) for answer in (2, 2, 2, 2, 9, 1)]
    for batch in plan(rows, tokens=10_000, most=64, vocabulary=400):
        assert len(batch) == 1 or sum(len(rows[index][0].answer) for index in batch) <= 6


def test_known_batches_are_passed_over_and_the_others_stay_the_same(tiny):
    recipes = RecipeRouter(in_memory(tiny, 1)[1], mixes(tiny, (), (1.0,)))
    rows = [(row, recipe) for recipe in (0, 1) for row in random_rows(tiny, [(9, 2)] * 4)]
    batches: list[list[int]] = []
    room = {"batch_tokens": 4096, "batch_rows": 3}
    whole = score(tiny, recipes, rows, **room, done=lambda found: batches.append(list(found)))
    assert batches == [[0, 1, 2], [3, 4, 5], [6, 7]]
    # A batch that was written in part is computed again as a whole.
    rest = score(tiny, recipes, rows, **room, known={0, 1, 2, 4})
    assert rest == {index: whole[index] for index in (3, 4, 5, 6, 7)}


def test_gated_and_plain_rows_in_one_batch(tiny):
    """z = W v + B A v · σ(gᵀ v) for the rows of a gated adapter, and plain LoRA for the others."""
    generator = torch.Generator().manual_seed(3)
    gates = {module: torch.randn(layer.in_features, generator=generator) for module, layer in tiny.targets.items()}
    pieces, bank = in_memory(tiny, 2, gate=lambda module, sharer: gates[module] if sharer == 1 else None)
    plain, gated, both = mixes(tiny, (1.0,), (0.0, 1.0), (0.5, 0.5))
    row = random_rows(tiny, [(12, 3)])[0]
    found = score(tiny, RecipeRouter(bank, [plain, gated, both]), [(row, 0), (row, 1), (row, 2)], **ROOM)
    torch.testing.assert_close(as_tensor(found[0]), alone(merged(tiny, pieces, plain), row), atol=1e-4, rtol=0)

    def run(weights):
        handles = []
        for module, layer in tiny.targets.items():

            def hook(_layer, inputs, output, module=module):
                (x,) = inputs
                for number, weight in enumerate(weights):
                    a, b = pieces[number][module]
                    gate = torch.sigmoid(x @ gates[module])[..., None] if number else 1.0
                    output = output + weight * gate * (x @ a.T @ b.T)
                return output

            handles.append(layer.register_forward_hook(hook))
        try:
            return alone(tiny, row)
        finally:
            for handle in handles:
                handle.remove()

    torch.testing.assert_close(as_tensor(found[1]), run((0.0, 1.0)), atol=1e-4, rtol=0)
    torch.testing.assert_close(as_tensor(found[2]), run((0.5, 0.5)), atol=1e-4, rtol=0)
    assert abs(found[1].logprobs[0] - alone(merged(tiny, pieces, gated), row)[0, 0].item()) > 0.05


def test_a_row_without_an_answer(tiny):
    with pytest.raises(ValueError, match="no answer"):
        score(tiny, RecipeRouter(in_memory(tiny, 1)[1], [{}]), [(random_rows(tiny, [(9, 0)])[0], 0)], **ROOM)
