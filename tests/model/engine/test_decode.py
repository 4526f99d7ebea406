"""Greedy decoding of mixed batches against transformers' own generate on merged weights, token by token."""

from __future__ import annotations

import dataclasses
import itertools
import random

import pytest
import torch
from helpers import TARGETS, MemoryAdapter, load_base, merged, random_pieces, random_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from perpcs_cli.errors import PerpcsError
from perpcs_cli.model.engine.batching import Encoded
from perpcs_cli.model.engine.decode import generate
from perpcs_cli.model.engine.decoded_rows import Techniques
from perpcs_cli.model.engine.drafts import Drafts
from perpcs_cli.model.engine.piece_cache import PieceCache
from perpcs_cli.model.engine.recipe_router import RecipeRouter

NEW = 12
NOTHING_STOPS = (-1,)
ALL = [Techniques(*on) for on in itertools.product([True, False], repeat=3)]
NONE = Techniques(drafts=False, prefix=False, population=False)
DRAFTS = ("right", "wrong", "half", "long", "empty", "stops")


def sharers_of(base):
    return [random_pieces(base, seed) for seed in range(3)]


def mixes(base):
    """The base, one sharer, and two mixtures."""
    draw = random.Random(0)
    mixed = [{m: [(s, draw.uniform(-0.7, 0.7)) for s in (0, 1, 2)] for m in base.targets} for _ in range(2)]
    return [{}, {module: [(1, 1.0)] for module in base.targets}, *mixed]


def rows_of(base):
    """Prompts with a long common beginning (the fourth is no more than that), then some without; one comes twice."""
    start, *tails, alone, short = random_rows(base, [(24, 0), (5, 0), (3, 0), (7, 0), (17, 0), (1, 0)])
    prompts = [start.prompt + tail.prompt for tail in tails]
    prompts += [start.prompt, prompts[0], alone.prompt, short.prompt, prompts[1], prompts[2], prompts[0]]
    pairs = zip(prompts, [2, 2, 2, 2, 3, 0, 1, 3, 3, 2], strict=True)
    return [(Encoded(f"row{i}", prompt, []), recipe) for i, (prompt, recipe) in enumerate(pairs)]


def ours(base, rows, *, merge="product", new=NEW, batch_tokens=10_000, batch_rows=64, **options):
    adapters = [MemoryAdapter(pieces) for pieces in sharers_of(base)]
    recipes = RecipeRouter(PieceCache(base, lambda index: adapters[index]), mixes(base))
    sizes = {"max_new_tokens": new, "batch_tokens": batch_tokens, "batch_rows": batch_rows}
    return generate(base, recipes, rows, merge=merge, **sizes, **options)


def theirs(base, rows, merge="product"):
    """Each row alone, by transformers, in a copy of the model with the recipe's weights; nothing stops it."""
    outputs = []
    for row, recipe in rows:
        model = merged(base, sharers_of(base), mixes(base)[recipe], merge).model
        ids = torch.tensor([row.prompt])
        how = {"do_sample": False, "max_new_tokens": NEW, "eos_token_id": -1, "pad_token_id": 0}
        with torch.inference_mode():
            out = model.generate(ids, attention_mask=torch.ones_like(ids), **how)
        outputs.append(out[0, len(row.prompt) :].tolist())
    return outputs


def cut(tokens, stop, new=NEW):
    """At most `new` tokens, before the first that stops."""
    return tokens[: next((i for i, token in enumerate(tokens[:new]) if token in stop), new)]


@pytest.fixture(scope="session")
def truth(tiny):
    """What the rows say if nothing stops them, by transformers."""
    return theirs(tiny, rows_of(tiny))


@pytest.fixture
def endless(tiny):
    return dataclasses.replace(tiny, stop=NOTHING_STOPS)


class Passes:
    """Counts the tokens that each pass computes."""

    def __init__(self, base):
        self.tokens = []
        self.handle = base.model.model.embed_tokens.register_forward_hook(
            lambda _, inputs, out: self.tokens.append(inputs[0].numel())
        )

    def __enter__(self):
        return self.tokens

    def __exit__(self, *_):
        self.handle.remove()


@pytest.mark.parametrize("techniques", ALL, ids=str)
def test_every_technique_is_exact(endless, truth, techniques):
    drafts = Drafts()
    for (row, _), answer in zip(rows_of(endless), truth, strict=True):
        drafts.add(row.prompt, answer[: NEW // 2])
    assert ours(endless, rows_of(endless), techniques=techniques, drafts=drafts) == truth
    assert len({tuple(tokens) for tokens in truth}) == len(truth) - 1


def test_the_published_merge(endless):
    rows = rows_of(endless)[:6]
    assert ours(endless, rows, merge="factor") == theirs(endless, rows, "factor")


@pytest.mark.parametrize("family", ["mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3"])
def test_other_families(model_dir, family):
    """Mistral's window is 16 tokens, so that most rows outgrow it."""
    base = load_base(str(model_dir(family)), targets=TARGETS, device="cpu", dtype="float32")
    rows = rows_of(base)[1:7]
    expected = theirs(base, rows)
    drafts = Drafts()
    for (row, _), answer in zip(rows, expected, strict=True):
        drafts.add(row.prompt, [*answer[:7], 5, 5])
    assert ours(dataclasses.replace(base, stop=NOTHING_STOPS), rows, drafts=drafts) == expected


def make_draft(kind, answer, stop):
    return {
        "right": answer,
        "wrong": [(token + 1) % 300 + 2 for token in answer],
        "half": [*answer[:4], *([7] * 4), *answer[8:]],
        "long": [*answer, *answer],
        "empty": [],
        "stops": [*answer[:2], stop, *answer[2:]],
    }[kind]


@settings(max_examples=20, deadline=None)
@given(
    order=st.permutations(range(10)),
    size=st.integers(1, 10),
    sizes=st.fixed_dictionaries({"batch_rows": st.integers(1, 10), "batch_tokens": st.integers(20, 500)}),
    techniques=st.sampled_from(ALL),
    kinds=st.lists(st.lists(st.sampled_from(DRAFTS), max_size=3), min_size=10, max_size=10),
    new=st.sampled_from([1, 2, NEW]),
    stopper=st.tuples(st.integers(0, 9), st.integers(0, NEW - 1)),
)
def test_nothing_but_speed_depends_on_batches_order_and_drafts(
    tiny, truth, order, size, sizes, techniques, kinds, new, stopper
):
    stop = truth[stopper[0]][stopper[1]]
    rows, drafts = rows_of(tiny), Drafts()
    for (row, _), answer, some in zip(rows, truth, kinds, strict=True):
        for kind in some:
            drafts.add(row.prompt, make_draft(kind, answer, stop), (stop,))
    chosen = order[:size]
    base = dataclasses.replace(tiny, stop=(stop,))
    found = ours(base, [rows[i] for i in chosen], new=new, techniques=techniques, drafts=drafts, **sizes)
    assert found == [cut(truth[i], (stop,), new) for i in chosen]


@pytest.mark.parametrize("kind", DRAFTS)
@pytest.mark.parametrize("new", [1, NEW])
def test_every_kind_of_draft_for_one_row(tiny, truth, kind, new):
    stop = truth[1][9]
    drafts = Drafts()
    drafts.add(rows_of(tiny)[1][0].prompt, make_draft(kind, truth[1], stop))
    base = dataclasses.replace(tiny, stop=(stop,))
    assert ours(base, rows_of(tiny)[1:2], new=new, drafts=drafts) == [cut(truth[1], base.stop, new)]


def test_a_right_draft_is_verified_in_the_prompts_own_pass(endless, truth):
    rows, drafts = rows_of(endless)[5:7], Drafts()
    for (row, _), answer in zip(rows, truth[5:7], strict=True):
        drafts.add(row.prompt, answer)
    with Passes(endless) as passes:
        assert ours(endless, rows, drafts=drafts) == truth[5:7]
    # The last token of an answer needs no verifying.
    assert passes == [17 + 1 + 2 * (NEW - 1)]
    assert drafts.tried == drafts.right == 2 * (NEW - 1)


def test_after_a_wrong_token_another_draft_goes_on(endless, truth):
    """The newer answer is right for four tokens, the older one for all."""
    drafts = Drafts()
    drafts.add(rows_of(endless)[5][0].prompt, truth[5])
    drafts.add(rows_of(endless)[5][0].prompt, [*truth[5][:4], 3, 3, 3])
    with Passes(endless) as passes:
        assert ours(endless, rows_of(endless)[5:6], drafts=drafts) == truth[5:6]
    assert passes == [17 + 7, 1 + NEW - 6]


def test_an_answer_found_is_a_draft_for_the_next_recipe(endless, truth):
    """Two recipes that differ by next to nothing: the second one's answer is known when it comes in."""
    row = rows_of(endless)[5][0]
    adapters = [MemoryAdapter(pieces) for pieces in sharers_of(endless)]
    weights = [{m: [(0, w)] for m in endless.targets} for w in (1e-7, 2e-7)]
    recipes = RecipeRouter(PieceCache(endless, lambda index: adapters[index]), weights)
    sizes = {"max_new_tokens": NEW, "batch_tokens": 1000, "batch_rows": 1}
    with Passes(endless) as passes:
        assert generate(endless, recipes, [(row, 0), (row, 1)], **sizes) == [truth[5]] * 2
    assert passes[-1] == 17 + NEW - 1


def test_a_common_beginning_is_computed_once_for_each_recipe(endless, truth):
    """Four rows of one recipe, 24 tokens in common: one row goes ahead, the others take over what it has."""
    rows = rows_of(endless)[:4]
    with Passes(endless) as passes:
        ours(endless, rows, new=2, techniques=Techniques(drafts=False))
    # The last token of a prompt is always run, even if another prompt goes on from there.
    assert passes == [24 + 5, 1 + 3 + 7 + 1, 3]
    with Passes(endless) as passes:
        ours(endless, rows, new=2, techniques=NONE)
    assert passes == [4 * 24 + 5 + 3 + 7, 4]


def test_the_leader_may_end_in_its_first_pass(endless, truth):
    with Passes(endless) as passes:
        assert ours(endless, rows_of(endless)[:4], new=1) == [tokens[:1] for tokens in truth[:4]]
    assert passes == [24 + 5, 3 + 7 + 1]


def test_equal_rows_are_computed_once(endless, truth):
    """Also where equal recipes have different numbers, or write down a weight of zero."""
    row = rows_of(endless)[5][0]
    adapters = [MemoryAdapter(pieces) for pieces in sharers_of(endless)]
    recipes = RecipeRouter(PieceCache(endless, lambda i: adapters[i]), [{}, {m: [(1, 0.0)] for m in endless.targets}])
    told = []
    sizes = {"max_new_tokens": 1, "batch_tokens": 1000, "batch_rows": 64}
    with Passes(endless) as passes:
        rows = [(row, 0), (row, 1), (row, 0)]
        assert generate(endless, recipes, rows, **sizes, done=lambda *found: told.append(found)) == [truth[5][:1]] * 3
    assert passes == [17]
    assert told == [([0, 1, 2], [truth[5][:1]] * 3)]


def test_rows_that_end_leave_and_others_come_in(tiny, truth):
    rows, expected = rows_of(tiny)[5:8], truth[5:8]
    stop = next(token for token in expected[0] if token not in expected[1] + expected[2])
    end = expected[0].index(stop)
    base = dataclasses.replace(tiny, stop=(stop,))
    with Passes(tiny) as passes:
        found = ours(base, rows, batch_rows=2, techniques=NONE)
        assert found == [cut(tokens, (stop,)) for tokens in expected]
    with Passes(tiny) as passes:
        ours(base, rows, batch_rows=2, techniques=Techniques(drafts=False))
    assert end < NEW - 1
    # Longest place first: the third row needs 12 tokens more than the others.
    assert sum(passes) == sum(len(row.prompt) for row, _ in rows) + end + 2 * (NEW - 1)
    assert max(passes[1:]) <= max(len(row.prompt) for row, _ in rows) + 1


def test_every_row_is_reported_once(endless, truth):
    told = []
    done = lambda indices, tokens: told.extend(zip(indices, tokens, strict=True))  # noqa: E731
    ours(endless, rows_of(endless), batch_rows=4, done=done)
    assert sorted(told) == list(enumerate(truth))


@pytest.mark.parametrize("place", ["done", "model"])
def test_an_error_leaves_the_model_as_it_was(endless, truth, place):
    def fail(*_):
        raise RuntimeError("stop here")

    before = endless.model.config._attn_implementation
    handle = endless.model.lm_head.register_forward_hook(fail) if place == "model" else None
    with pytest.raises(RuntimeError, match="stop here"):
        ours(endless, rows_of(endless), done=fail)
    if handle:
        handle.remove()
    assert endless.model.config._attn_implementation == before == "sdpa"
    assert not any(layer._forward_hooks for layer in endless.targets.values())
    assert ours(endless, rows_of(endless)[:2]) == truth[:2]


def test_the_known_answer_is_not_shown_to_the_model(endless, truth):
    row, recipe = rows_of(endless)[5]
    assert ours(endless, [(dataclasses.replace(row, answer=[5, 6, 7]), recipe)]) == [truth[5]]


def test_no_rows_no_output(tiny):
    assert ours(tiny, []) == []


@pytest.mark.parametrize("on", [Techniques(), NONE])
def test_what_overflows_is_an_error(tiny, on):
    """Every token would be the first one, which ends the answer."""
    adapters = [MemoryAdapter(random_pieces(tiny, 0))]
    recipes = RecipeRouter(PieceCache(tiny, lambda index: adapters[index]), [{m: [(0, 1e30)] for m in tiny.targets}])
    rows = [(row, 0) for row in random_rows(tiny, [(9, 0), (5, 0)])]
    with pytest.raises(PerpcsError, match="the model's logits are not finite"):
        generate(tiny, recipes, rows, merge="product", max_new_tokens=3, batch_tokens=1000, batch_rows=8, techniques=on)


@pytest.mark.parametrize("rows_at_a_time", [1, 64])
def test_every_pass_is_heard(tiny, rows_at_a_time):
    rows, heard = rows_of(tiny), {}

    def hear(indices, tokens):
        for index in indices:
            heard.setdefault(index, []).append(list(tokens))

    outputs = ours(tiny, rows, heard=hear, batch_rows=rows_at_a_time)
    assert {index: found[-1] for index, found in heard.items()} == dict(enumerate(outputs))
    for found in heard.values():
        assert all(later[: len(sooner)] == sooner for sooner, later in itertools.pairwise(found))
