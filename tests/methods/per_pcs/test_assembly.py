"""Gate scores and choices against the equations in float64, and assembly against merging layer after layer by hand."""

from __future__ import annotations

import dataclasses
import math
from types import MappingProxyType

import pytest
import torch
from helpers import merged, random_pieces, random_rows, short_of_memory, write_pool

from perpcs_cli.artifacts.settings import AssembleSettings
from perpcs_cli.errors import DataError, PerpcsError
from perpcs_cli.methods.per_pcs.assembly import (
    Assembler,
    HistoryBatch,
    answer_positions,
    assemble,
    average,
    choose,
    gate_scores,
    make_batches,
    normalize,
)
from perpcs_cli.methods.per_pcs.common_activations import common_activations
from perpcs_cli.model.engine.batching import Encoded, make_batch
from perpcs_cli.model.engine.piece_cache import PieceCache

SCORINGS = ["published", "paper"]


def settings(**changes):
    return AssembleSettings(**{"top_k": 2, "batch_size": 3, **changes})


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def by_hand(vector, scoring):
    """One vector made comparable, in float64."""
    v = vector.double()
    if scoring == "published":
        return (v - v.mean()) / torch.sqrt(((v - v.mean()) ** 2).mean() + 1e-5)
    return v / v.norm()


def softmax(scores):
    powers = [math.exp(score) for score in scores]
    return [power / sum(powers) for power in powers]


def approx(mix, abs=1e-5):
    """A mix whose weights may differ a little."""
    return [(sharer, pytest.approx(weight, abs=abs)) for sharer, weight in mix]


@pytest.mark.parametrize("scoring", SCORINGS)
def test_normalize(scoring):
    vectors = torch.randn(2, 3, 16, generator=seeded()) * 5 + 1
    found = normalize(vectors.bfloat16(), scoring)
    assert found.dtype == torch.float32
    for row in range(2):
        for token in range(3):
            expected = by_hand(vectors.bfloat16()[row, token], scoring)
            torch.testing.assert_close(found[row, token].double(), expected, atol=1e-5, rtol=1e-5)


def test_a_zero_gate_scores_zero():
    for scoring in SCORINGS:
        assert not normalize(torch.zeros(4), scoring).any()


@pytest.mark.parametrize("scoring", SCORINGS)
def test_gate_scores(scoring):
    """published: the mean over a row's answer tokens of x · g / √n; paper: the sum of cosines, divided by √n."""
    n, owners = 16, [0, 0, 0, 1, 1]
    tokens, gates = torch.randn(5, n, generator=seeded(1)), torch.randn(3, n, generator=seeded(2))
    found = gate_scores(normalize(tokens, scoring), normalize(gates, scoring), torch.tensor(owners), 2, scoring)
    for row in range(2):
        mine = [token for token, owner in zip(tokens, owners, strict=True) if owner == row]
        for sharer in range(3):
            g = by_hand(gates[sharer], scoring)
            total = sum(float(by_hand(token, scoring) @ g) / math.sqrt(n) for token in mine)
            expected = total / len(mine) if scoring == "published" else total
            assert float(found[row, sharer]) == pytest.approx(expected, abs=1e-5)


def test_answer_positions(tiny):
    """Rows end together: [p p a], [p a a a], with padding on the left of the first."""
    batch = make_batch(tiny, [Encoded("", [5, 6], [7]), Encoded("", [5], [6, 7, 8])])
    assert answer_positions(batch, "paper").int().tolist() == [[0, 0, 0, 1], [0, 1, 1, 1]]
    assert answer_positions(batch, "published").int().tolist() == [[0, 0, 1, 0], [1, 1, 1, 0]]


SCORES = torch.tensor([0.1, 2.0, -1.0, 1.5, 0.3])


def test_top_k():
    first, second = softmax([2.0, 1.5])
    assert choose(SCORES, settings(top_k=2), seeded()) == approx([(1, first), (3, second)])
    assert choose(SCORES, settings(top_k=1), seeded()) == [(1, 1.0)]
    assert [sharer for sharer, _ in choose(SCORES, settings(top_k=9), seeded())] == [1, 3, 4, 0, 2]


def test_ties_go_to_the_first():
    assert choose(torch.zeros(4), settings(top_k=2), seeded()) == [(0, 0.5), (1, 0.5)]


def test_uniform():
    third = 1 / 3
    found = choose(SCORES, settings(top_k=3, aggregate="uniform"), seeded())
    assert found == approx([(1, third), (3, third), (4, third)])


def test_temperature():
    first, second = softmax([2.0 / 0.5, 1.5 / 0.5])
    assert choose(SCORES, settings(temperature=0.5), seeded()) == approx([(1, first), (3, second)])
    assert choose(SCORES, settings(temperature=1e-320), seeded()) == [(1, 1.0), (3, 0.0)]


def test_top_p_takes_the_fewest_that_add_up():
    chances = sorted(softmax(SCORES.tolist()), reverse=True)
    order = [1, 3, 4, 0, 2]
    for count in range(1, 6):
        enough = settings(top_p=min(1.0, sum(chances[:count]) - 1e-6))
        found = choose(SCORES, enough, seeded())
        assert [sharer for sharer, _ in found] == order[:count]
        assert found == approx(zip(order, softmax(SCORES[order[:count]].tolist()), strict=False))
    assert len(choose(SCORES, settings(top_p=1e-9), seeded())) == 1


def test_sampling_draws_from_the_best_and_by_their_softmax():
    draws = [choose(SCORES, settings(top_k=1, sample=True, sample_from=3), seeded(n)) for n in range(600)]
    counts = {s: sum(mix[0][0] == s for mix in draws) / len(draws) for s in range(5)}
    expected = softmax(SCORES[[1, 3, 4]].tolist())
    assert counts[0] == counts[2] == 0
    assert [counts[1], counts[3], counts[4]] == pytest.approx(expected, abs=0.07)


def test_sampling_is_without_replacement_and_repeatable():
    drawn = settings(top_k=3, sample=True, sample_from=4)
    for seed in range(20):
        mix = choose(SCORES, drawn, seeded(seed))
        sharers = [sharer for sharer, _ in mix]
        assert len(set(sharers)) == 3
        assert mix == approx(zip(sharers, softmax(SCORES[sharers].tolist()), strict=True))
        assert mix == choose(SCORES, drawn, seeded(seed))
    assert len({tuple(s for s, _ in choose(SCORES, drawn, seeded(seed))) for seed in range(20)}) > 1


def test_sampling_among_the_top_p():
    drawn = settings(top_k=2, sample=True, top_p=0.7)
    assert {s for seed in range(40) for s, _ in choose(SCORES, drawn, seeded(seed))} == {1, 3}


def test_sampling_may_keep_as_many_as_it_draws():
    few = {"sample": True, "top_k": 2, "top_p": 1e-6}
    assert [s for s, _ in choose(SCORES, settings(**few), seeded())] == [1], "top-p alone leaves the best"
    for seed in range(20):
        found = choose(SCORES, settings(**few, keep_k=True), seeded(seed))
        assert sorted(s for s, _ in found) == [1, 3], "the two best, as the published code keeps"
    assert choose(SCORES, settings(top_k=2, top_p=1e-6, keep_k=True), seeded()) == [(1, 1.0)], "only where it draws"
    wide = settings(sample=True, top_k=2, top_p=0.95, keep_k=True)
    assert {s for seed in range(80) for s, _ in choose(SCORES, wide, seeded(seed))} > {1, 3}


def test_sampling_where_chances_vanish():
    """A softmax that underflows still draws as many as were asked for."""
    found = choose(torch.tensor([0.0, 900.0, -900.0]), settings(top_k=2, sample=True), seeded())
    assert len(found) == 2
    assert found[0] == (1, 1.0)


@pytest.mark.parametrize(
    "changes",
    [{"top_k": 5}, {"top_p": 1.0}, {"sample": True, "top_k": 5}, {"aggregate": "uniform", "top_k": 5}],
    ids=str,
)
def test_what_is_not_offered_is_never_chosen(changes):
    withheld = SCORES.clone()
    withheld[[1, 4]] = -torch.inf
    found = choose(withheld, settings(**changes), seeded())
    assert sorted(sharer for sharer, _ in found) == [0, 2, 3]
    assert sum(weight for _, weight in found) == pytest.approx(1)
    assert choose(torch.full((5,), -torch.inf), settings(**changes), seeded()) == []


def test_batches_and_average(tiny):
    rows = random_rows(tiny, [(3, 2)] * 5)
    batches = make_batches("u", rows, settings(batch_size=2))
    assert [(b.user_id, b.number, len(b.rows)) for b in batches] == [("u", 0, 2), ("u", 1, 2), ("u", 2, 1)]
    assert [row for batch in batches for row in batch.rows] == rows
    parts = [{"m": [(2, 1.0)]}, {"m": [(0, 0.25), (2, 0.75)]}, {"m": []}]
    assert average(parts) == {"m": approx([(0, 0.25 / 3), (2, 1.75 / 3)])}


def test_batches_in_an_order_drawn_by_seed_and_user(tiny):
    rows = random_rows(tiny, [(3, 2)] * 9)
    chosen = settings(shuffle=True, batch_size=2)

    def order(seed, user="u"):
        return [row.key for batch in make_batches(user, rows, chosen, seed=seed) for row in batch.rows]

    keys = [row.key for row in rows]
    assert sorted(order(0)) == sorted(keys) and order(0) == order(0)
    assert len({tuple(keys), tuple(order(0)), tuple(order(1)), tuple(order(0, user="v"))}) == 4
    assert [row.key for row in rows] == keys


LENGTHS = [(8, 3), (5, 2), (11, 4)]


def naive(base, pool, batch, wanted, common=MappingProxyType({})):
    """{linear layer: mix}: capture a layer's input in a model with the pieces chosen so far merged into its weights,
    score by the equations in float64, choose the top k, merge, go on."""
    sharers = [random_pieces(base, seed) for seed in range(len(pool.ids))]
    gates = pool.gates()
    chosen = {}
    for module in base.targets:
        model = merged(base, sharers, {} if wanted.activations == "base" else chosen, wanted.merge).model
        seen = []
        model.get_submodule(module).register_forward_hook(lambda _, inputs, out, seen=seen: seen.append(inputs[0][0]))
        scores = torch.zeros(len(sharers), dtype=torch.float64)
        for row in batch.rows:
            with torch.inference_mode():
                model(input_ids=torch.tensor([row.prompt + row.answer]))
            first = len(row.prompt) - (wanted.scoring == "published")
            tokens = seen.pop()[first : first + len(row.answer)]
            for sharer in range(len(sharers)):
                g = by_hand(gates.read(module)[sharer], wanted.scoring)
                seen_as = [by_hand(token, wanted.scoring) - common.get(module, 0) for token in tokens]
                each = [float(token @ g) / math.sqrt(len(g)) for token in seen_as]
                total = sum(each) / len(each) if wanted.scoring == "published" else sum(each)
                scores[sharer] += total / len(batch.rows)
        for sharer in range(len(sharers)):
            if module not in pool.shares(sharer):
                scores[sharer] = -math.inf
        offered = [s for s in scores.argsort(descending=True).tolist() if scores[s] > -math.inf]
        best = offered[: wanted.top_k]
        chosen[module] = list(zip(best, softmax([float(scores[s]) for s in best]), strict=True))
    return chosen


def run(base, pool, batches, wanted, seed=0, common=MappingProxyType({})):
    return Assembler(base, pool, PieceCache(base, pool.adapter), wanted, seed, common).run(batches)


@pytest.fixture(scope="session")
def pool(tiny, tmp_path_factory):
    """Five sharers with all their pieces."""
    return write_pool(tmp_path_factory.mktemp("pool"), tiny, 5)


@pytest.fixture(scope="session")
def batches(tiny):
    """One batch of each of two users."""
    return [HistoryBatch(user, 0, random_rows(tiny, LENGTHS, seed)) for user, seed in (("u", 1), ("v", 2))]


def assert_same(found, expected, abs=1e-4):
    assert list(found) == list(expected)
    for module in expected:
        assert found[module] == approx(expected[module], abs), module


@pytest.mark.parametrize("merge", ["product", "factor"])
@pytest.mark.parametrize("scoring", SCORINGS)
def test_assembly_is_merging_layer_after_layer(tiny, pool, batches, scoring, merge):
    wanted = settings(scoring=scoring, merge=merge)
    found = run(tiny, pool, batches, wanted)
    for weights, batch in zip(found, batches, strict=True):
        assert_same(weights, naive(tiny, pool, batch, wanted))


@pytest.mark.parametrize("contrast", [False, True])
@pytest.mark.parametrize("activations", ["assembled", "base"])
@pytest.mark.parametrize("scoring", SCORINGS)
def test_what_is_scored(tiny, pool, batches, scoring, activations, contrast):
    """Against the equations: what the base passes on or what is assembled, whole or without what all have in common."""
    wanted = settings(scoring=scoring, activations=activations)
    common = {}
    if contrast:
        common = common_activations(tiny, random_rows(tiny, LENGTHS, 7), scoring, batch_tokens=64)
    (found,) = run(tiny, pool, batches[:1], wanted, common=common)
    assert_same(found, naive(tiny, pool, batches[0], wanted, common))


def test_users_in_one_pass_are_the_users_alone(tiny, pool, batches):
    together = run(tiny, pool, batches, settings())
    assert [sorted(s for s, _ in together[0][m]) for m in tiny.targets] != [
        sorted(s for s, _ in together[1][m]) for m in tiny.targets
    ]
    for weights, batch in zip(together, batches, strict=True):
        assert_same(weights, run(tiny, pool, [batch], settings())[0])


def test_early_pieces_change_later_scores(tiny, pool, batches):
    """Other pieces in the first layer (factor merge instead of product) leave its scores and change the last one's."""
    product, factor = (run(tiny, pool, batches[:1], settings(merge=merge))[0] for merge in ("product", "factor"))
    modules = list(tiny.targets)
    for same in modules[:3]:
        assert product[same] == factor[same]
    assert product[modules[-1]] != approx(factor[modules[-1]], abs=1e-3)


def test_pieces_that_are_not_shared_are_never_used(tiny, batches, tmp_path):
    half = write_pool(tmp_path, tiny, 5, share_ratio=0.5)
    wanted = settings(top_k=5)
    found = run(tiny, half, batches[:1], wanted)[0]
    for module, mix in found.items():
        assert sorted(s for s, _ in mix) == [s for s in range(5) if module in half.shares(s)]
    assert_same(found, naive(tiny, half, batches[0], wanted))


def test_a_pool_that_shares_nothing_gives_the_base(tiny, batches, tmp_path):
    nothing = write_pool(tmp_path, tiny, 2, share_ratio=0.0)
    assert run(tiny, nothing, batches[:1], settings()) == [{module: [] for module in tiny.targets}]


def test_scores_that_are_no_numbers_are_an_error(tiny, pool, batches):
    """As where float16 overflows: they must not become a recipe without pieces."""
    with pytest.raises(DataError, match="u: a history example has no answer"):
        run(tiny, pool, [HistoryBatch("u", 0, random_rows(tiny, [(4, 2), (4, 0)]))], settings())
    embedding = tiny.model.get_input_embeddings()
    handle = embedding.register_forward_hook(lambda _, inputs, output: output * torch.inf)
    with pytest.raises(PerpcsError, match=r"the gate scores of '.*layers\.0.*q_proj' are not finite"):
        run(tiny, pool, batches, settings())
    handle.remove()


def test_sampling_depends_on_seed_user_and_batch_alone(tiny, pool, batches):
    drawn = settings(sample=True, top_k=2, sample_from=5, temperature=5.0)

    def picks(weights):
        return [[sharer for sharer, _ in mix] for mix in weights.values()]

    same = [HistoryBatch(user, number, batches[0].rows) for user, number in (("u", 0), ("u", 1), ("v", 0))]
    first, second, third = (picks(weights) for weights in run(tiny, pool, same, drawn))
    assert first != second != third != first
    assert picks(run(tiny, pool, same[2:], drawn)[0]) == third
    assert picks(run(tiny, pool, same[2:], drawn, seed=1)[0]) != third


def test_assemble_averages_a_users_batches_and_reports_once(tiny, pool):
    """One pass for each batch, or all in one: the same recipes."""
    history = {"u": random_rows(tiny, [(6, 2)] * 5, 1), "v": random_rows(tiny, [(9, 3)] * 2, 2)}
    batches = [batch for user, rows in history.items() for batch in make_batches(user, rows, settings(batch_size=2))]
    assembler = Assembler(tiny, pool, PieceCache(tiny, pool.adapter), settings(), 0)
    expected = {
        user: average([assembler.run([batch])[0] for batch in batches if batch.user_id == user]) for user in history
    }
    for budget in (1, 50, 10_000):
        told = []
        done = lambda *result, told=told: told.append(result)  # noqa: E731
        assemble(assembler, batches, batch_tokens=budget, wanted=history, done=done)
        assert [user for user, _ in told] == ["u", "v"]
        for user, weights in told:
            assert_same(weights, expected[user])
            for mix in weights.values():
                assert sum(weight for _, weight in mix) == pytest.approx(1)


def test_who_is_wanted_changes_nothing_for_the_others(tiny, pool, monkeypatch):
    """The passes of a run that goes on are those of the whole run in which somebody is left."""
    history = {name: random_rows(tiny, [(6, 2)] * count, count) for name, count in (("u", 3), ("v", 5), ("w", 1))}
    batches = [batch for user, rows in history.items() for batch in make_batches(user, rows, settings(batch_size=2))]
    passes = []
    monkeypatch.setattr(Assembler, "run", lambda self, some, run=Assembler.run: passes.append(some) or run(self, some))
    assembler = Assembler(tiny, pool, PieceCache(tiny, pool.adapter), settings(), 0)

    def go(wanted):
        passes.clear()
        told = {}
        assemble(assembler, batches, batch_tokens=32, wanted=wanted, done=told.__setitem__)
        return told, [[(group.user_id, group.number) for group in some] for some in passes]

    whole, expected = go(history)
    assert expected == [[("u", 0), ("u", 1)], [("v", 0), ("v", 1)], [("v", 2), ("w", 0)]]
    assert go({"w"}) == ({"w": whole["w"]}, expected[2:])
    assert go({"u"}) == ({"u": whole["u"]}, expected[:1])
    assert go({"v"}) == ({"v": whole["v"]}, expected[1:])


def test_memory_that_runs_out_divides_a_pass_between_batches(tiny, pool, monkeypatch):
    rows = [dataclasses.replace(row, who="user u") for row in random_rows(tiny, [(6, 2)] * 5)]
    batches = make_batches("u", rows, settings(batch_size=2))
    assembler = Assembler(tiny, pool, PieceCache(tiny, pool.adapter), settings(sample=True), 0)
    whole, told = {}, {}
    assemble(assembler, batches, batch_tokens=1000, wanted=["u"], done=whole.__setitem__)
    with monkeypatch.context() as patch:
        sizes = short_of_memory(tiny, patch, 16)
        assemble(assembler, batches, batch_tokens=1000, wanted=["u"], done=told.__setitem__)
        assert sizes == [40, 32, 16, 16, 8]
    assert_same(told["u"], whole["u"])
    short_of_memory(tiny, monkeypatch, 15)
    with pytest.raises(PerpcsError, match="user u, 'row0': a batch of 2 rows, 8 tokens each, does not fit"):
        assemble(assembler, batches, batch_tokens=1000, wanted=["u"], done=told.__setitem__)
