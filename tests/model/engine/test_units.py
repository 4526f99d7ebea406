"""Decoding in units: a run that goes on makes the very passes of one that was never stopped."""

from __future__ import annotations

import dataclasses

import pytest
from helpers import TARGETS, MemoryAdapter, load_base, random_pieces, random_rows

from perpcs_cli.model.engine import decode
from perpcs_cli.model.engine.decode import generate
from perpcs_cli.model.engine.piece_cache import PieceCache
from perpcs_cli.model.engine.recipe_router import RecipeRouter

LENGTHS = [(4 + 3 * (n % 5), 0) for n in range(14)] + [(40, 0), (38, 0)]


@pytest.fixture
def run(tiny_dir, monkeypatch):
    """Decode three rows at a time, two such in a unit; returns outputs, rows in the order they end, and passes."""
    monkeypatch.setattr(decode, "UNIT", 2)
    base = load_base(str(tiny_dir), targets=TARGETS, device="cpu", dtype="bfloat16")
    base = dataclasses.replace(base, stop=(5, 9, 30, 31, 32, 33))
    adapters = [MemoryAdapter(random_pieces(base, seed)) for seed in range(2)]
    weights = [{module: [(n, 1.0)] for module in base.targets} for n in range(2)]
    rows = [(row, n % 2) for n, row in enumerate(random_rows(base, LENGTHS))]
    # The last row is asked twice.
    rows.append(rows[-1])
    passes: list[list[int]] = []
    base.model.get_input_embeddings().register_forward_hook(lambda _, inputs, out: passes.append(inputs[0][0].tolist()))

    def go(known=()):
        passes.clear()
        ended: list[int] = []
        recipes = RecipeRouter(PieceCache(base, lambda index: adapters[index]), weights)
        outputs = generate(
            base,
            recipes,
            rows,
            max_new_tokens=8,
            batch_tokens=1000,
            batch_rows=3,
            known=known,
            done=lambda indices, _: ended.extend(indices),
        )
        return outputs, ended, list(passes)

    return go


def test_a_run_that_goes_on_makes_the_same_passes(run):
    outputs, ended, passes = run()
    assert sorted(ended) == list(range(len(LENGTHS) + 1))
    starts = set()
    for count in range(0, len(ended), 4):
        found, again, rest = run(known=set(ended[:count]))
        assert rest == passes[len(passes) - len(rest) :]
        assert set(ended[count:]) <= set(again)
        assert all(found[index] == outputs[index] for index in again)
        starts.add(len(passes) - len(rest))
    # There are several units, and each is begun at its start.
    assert len(starts) == 4


def test_what_is_known_in_any_order(run):
    outputs, _, _ = run()
    for known in ({0, 3, 7}, {15}, set(range(0, 17, 2))):
        found, again, _ = run(known=known)
        assert set(range(17)) - known <= set(again)
        assert all(found[index] == outputs[index] for index in again)


def test_all_known_runs_nothing(run):
    assert run(known=range(17))[1:] == ([], [])
