"""Greedy decoding of mixed batches against transformers' own generate on merged weights, token by token."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch
from helpers import TARGETS, MemoryAdapter, merged, random_pieces, random_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from perpcs_cli.model.base import load_base
from perpcs_cli.model.decode import generate
from perpcs_cli.model.pieces import Bank, Recipes

NEW = 12
NOTHING_STOPS = (-1,)


def sharers_of(base):
    return [random_pieces(base, seed) for seed in range(3)]


def mixes(base):
    """The base, one sharer, and two mixtures."""
    draw = random.Random(0)
    mixed = [{m: [(s, draw.uniform(-0.7, 0.7)) for s in (0, 1, 2)] for m in base.targets} for _ in range(2)]
    return [{}, {module: [(1, 1.0)] for module in base.targets}, *mixed]


def rows_of(base):
    lengths = [(5, 0), (17, 0), (9, 0), (9, 0), (3, 0), (12, 0)]
    return list(zip(random_rows(base, lengths), [0, 1, 2, 3, 2, 1], strict=True))


def ours(base, rows, *, merge="product", new=NEW, batch_tokens=10_000, batch_rows=64, **options):
    adapters = [MemoryAdapter(pieces) for pieces in sharers_of(base)]
    recipes = Recipes(Bank(base, lambda index: adapters[index]), mixes(base))
    sizes = {"max_new_tokens": new, "batch_tokens": batch_tokens, "batch_rows": batch_rows}
    return generate(base, recipes, rows, merge=merge, **sizes, **options)


def theirs(base, rows, merge):
    """Each row alone, by transformers, in a copy of the model with the recipe's weights."""
    outputs = []
    for row, recipe in rows:
        model = merged(base, sharers_of(base), mixes(base)[recipe], merge).model
        ids = torch.tensor([row.prompt])
        with torch.inference_mode():
            out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=NEW)
        answer = out[0, len(row.prompt) :].tolist()
        outputs.append([token for token in answer if token not in base.stop])
    return outputs


@pytest.mark.parametrize("merge", ["product", "factor"])
def test_mixed_rows_are_transformers_greedy_output(tiny, merge):
    rows = rows_of(tiny)
    found = ours(tiny, rows, merge=merge)
    assert found == theirs(tiny, rows, merge)
    assert len({tuple(tokens) for tokens in found}) == len(rows)


@pytest.mark.parametrize("family", ["mistral", "qwen2", "gemma"])
def test_other_families(model_dir, family):
    """Mistral's window is 16 tokens, so that some rows outgrow it."""
    base = load_base(str(model_dir(family)), targets=TARGETS, device="cpu", dtype="float32")
    rows = rows_of(base)
    assert ours(base, rows) == theirs(base, rows, "product")


@pytest.fixture(scope="session")
def unstopped(tiny):
    """What the rows say if nothing stops them."""
    return ours(dataclasses.replace(tiny, stop=NOTHING_STOPS), rows_of(tiny))


def cut(tokens, stop):
    """`tokens` before the first that stops."""
    return tokens[: next((i for i, token in enumerate(tokens) if token in stop), len(tokens))]


def test_rows_end_early_without_changing_the_others(tiny, unstopped):
    """Each row's third token ends it, unless an earlier one does."""
    stop = tuple({tokens[3] for tokens in unstopped[:4]} | {unstopped[5][0]})
    found = ours(dataclasses.replace(tiny, stop=stop), rows_of(tiny))
    assert found == [cut(tokens, stop) for tokens in unstopped]
    lengths = [len(tokens) for tokens in found]
    assert min(lengths) == 0
    assert len(set(lengths)) >= 3


def test_never_more_than_asked_for(tiny, unstopped):
    found = ours(dataclasses.replace(tiny, stop=NOTHING_STOPS), rows_of(tiny), new=1)
    assert found == [tokens[:1] for tokens in unstopped]


def test_finished_rows_leave_the_batch(tiny, unstopped):
    """The model is asked for one row only, once the other one has ended."""
    rows = [rows_of(tiny)[0], rows_of(tiny)[1]]
    stop = next(token for token in unstopped[0] if token not in unstopped[1])
    sizes = []
    handle = tiny.model.model.embed_tokens.register_forward_hook(lambda _, inputs, out: sizes.append(len(inputs[0])))
    ours(dataclasses.replace(tiny, stop=(stop,)), rows)
    handle.remove()
    end = unstopped[0].index(stop)
    assert sizes == [2] * (end + 1) + [1] * (NEW - 1 - end)


@settings(max_examples=8, deadline=None)
@given(order=st.permutations(range(6)), batch_rows=st.integers(1, 6), batch_tokens=st.integers(20, 200))
def test_batches_and_order_do_not_matter(tiny, unstopped, order, batch_rows, batch_tokens):
    base = dataclasses.replace(tiny, stop=(unstopped[1][4],))
    rows = rows_of(tiny)
    found = ours(base, [rows[i] for i in order], batch_rows=batch_rows, batch_tokens=batch_tokens)
    assert found == [cut(unstopped[i], base.stop) for i in order]


def test_every_batch_is_reported_once_when_it_is_done(tiny, unstopped):
    told = {}
    batches = []

    def done(indices, tokens):
        batches.append(len(indices))
        told.update(zip(indices, tokens, strict=True))

    base = dataclasses.replace(tiny, stop=NOTHING_STOPS)
    ours(base, rows_of(tiny), batch_rows=4, done=done)
    assert batches == [4, 2]
    assert [told[index] for index in range(6)] == unstopped


def test_the_known_answer_is_not_shown_to_the_model(tiny):
    rows = random_rows(tiny, [(6, 4)])
    bare = [dataclasses.replace(rows[0], answer=[])]
    assert ours(tiny, [(rows[0], 2)]) == ours(tiny, [(bare[0], 2)])


def test_no_rows_no_output(tiny):
    assert ours(tiny, []) == []
