"""Assembly against merging layer after layer by hand, in float64."""

from __future__ import annotations

import dataclasses
import math
import threading
from types import MappingProxyType

import pytest
import torch
from helpers import merged, random_pieces, random_rows, short_of_memory, write_pool

from perpcs_cli.artifacts.io.tensors import TensorFile
from perpcs_cli.artifacts.pool import gates_path
from perpcs_cli.artifacts.settings import AssembleSettings
from perpcs_cli.errors import DataError, PerpcsError
from perpcs_cli.methods.per_pcs import assembly
from perpcs_cli.methods.per_pcs import gates as gates_room
from perpcs_cli.methods.per_pcs.assembler import Assembler
from perpcs_cli.methods.per_pcs.assembly import assemble, average
from perpcs_cli.methods.per_pcs.common_activations import common_activations
from perpcs_cli.methods.per_pcs.history_batches import HistoryBatch, make_batches
from perpcs_cli.model.engine.piece_cache import PieceCache

SCORINGS = ["published", "paper"]


def settings(**changes):
    return AssembleSettings(**{"top_k": 2, "batch_size": 3, **changes})


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
        # The first one is tried again without the gates that were kept.
        assert sizes == [40, 40, 32, 16, 16, 8]
    assert_same(told["u"], whole["u"])
    short_of_memory(tiny, monkeypatch, 15)
    with pytest.raises(PerpcsError, match="user u, 'row0': a batch of 2 rows, 8 tokens each, does not fit"):
        assemble(assembler, batches, batch_tokens=1000, wanted=["u"], done=told.__setitem__)


def streaming(monkeypatch, pool, kept=0, beside=1 << 40):
    """Room for the gates of `kept` linear layers, and for passes that hold `beside` bytes side by side."""
    monkeypatch.setattr(gates_room, "free_bytes", lambda _: 2 * kept * 4 * 64 * len(pool.ids))
    monkeypatch.setattr(gates_room, "GATE_CACHE_BYTES", 0)
    monkeypatch.setattr(assembly, "free_bytes", lambda _: 4 * beside)


def gates_read(monkeypatch, pool):
    """The linear layers whose gates are read from the file from now on."""
    seen, read = [], TensorFile.read

    def reading(file, key):
        if file.path == gates_path(pool.path):
            seen.append(key)
        return read(file, key)

    monkeypatch.setattr(TensorFile, "read", reading)
    return seen


@pytest.mark.parametrize(
    ("kept", "beside", "reads"), [(0, 0, 24), (3, 0, 18), (8, 0, 8), (0, 1 << 40, 8), (3, 1 << 40, 8)]
)
@pytest.mark.parametrize("changes", [{}, {"activations": "base"}, {"gate_dtype": "bfloat16"}], ids=str)
def test_gates_are_read_once_as_far_as_there_is_room(tiny, pool, monkeypatch, kept, beside, reads, changes):
    """Three passes over the 8 linear layers, where the gates of `kept` of these stay; one after the other, or side by
    side. It changes no number."""
    wanted = settings(**changes)
    batches = make_batches("u", random_rows(tiny, [(6, 2), (5, 3), (8, 1)]), settings(batch_size=1))
    expected, found = {}, {}
    whole = Assembler(tiny, pool, PieceCache(tiny, pool.adapter), wanted, 0)
    assemble(whole, batches, batch_tokens=1, wanted=["u"], done=expected.__setitem__)
    streaming(monkeypatch, pool, kept, beside)
    seen = gates_read(monkeypatch, pool)
    tight = Assembler(tiny, pool, PieceCache(tiny, pool.adapter), wanted, 0)
    assemble(tight, batches, batch_tokens=1, wanted=["u"], done=found.__setitem__)
    # In half the memory twice as many stay.
    assert len(seen) == (24 - 4 * min(kept, 4) if "gate_dtype" in changes and not beside else reads)
    assert found == expected
    assert list(found["u"]) == list(tiny.targets), "in the order in which the model runs them"


def test_gates_in_half_the_memory(tiny, pool, monkeypatch):
    """Of twice as many linear layers they stay; scores are rounded, and no more."""
    streaming(monkeypatch, pool, kept=3)
    order = list(tiny.targets)
    whole, half = (gates_room.Gates(pool, order, tiny.device, "published", name) for name in ("float32", "bfloat16"))
    assert [sum(map(gates.stays, order)) for gates in (whole, half)] == [3, 6]
    means = torch.nn.functional.layer_norm(torch.randn(2, 64), (64,))
    for module in order:
        if whole[module].shape[1] == 64:
            assert half[module].dtype == torch.bfloat16
            scores = gates_room.gate_scores(means, whole[module]), gates_room.gate_scores(means, half[module])
            torch.testing.assert_close(*scores, rtol=0, atol=0.02)
            assert not scores[0].equal(scores[1])


def test_as_many_passes_side_by_side_as_there_is_room_for(tiny, pool, monkeypatch):
    batches = make_batches("u", random_rows(tiny, [(6, 2)] * 5), settings(batch_size=1))
    assembler = Assembler(tiny, pool, PieceCache(tiny, pool.adapter), settings(), 0)
    each = assembler.bytes_held(batches[:1])
    assert each == 4 * 8 * 64 * 4, "four tensors of 8 tokens, as wide as the widest layer"
    streaming(monkeypatch, pool, beside=2 * each)
    tight, seen = Assembler(tiny, pool, PieceCache(tiny, pool.adapter), settings(), 0), gates_read(monkeypatch, pool)
    assemble(tight, batches, batch_tokens=1, wanted=["u"], done=lambda *_: None)
    assert len(seen) == 3 * 8


def test_what_fails_side_by_side(tiny, pool, monkeypatch):
    """Memory that runs out leaves one pass at a time; what is no number is an error as ever; threads end."""
    batches = make_batches("u", random_rows(tiny, [(6, 2), (5, 3), (8, 1)]), settings(batch_size=1))
    expected, found = {}, {}
    whole = Assembler(tiny, pool, PieceCache(tiny, pool.adapter), settings(), 0)
    assemble(whole, batches, batch_tokens=1, wanted=["u"], done=expected.__setitem__)
    streaming(monkeypatch, pool)
    tight = Assembler(tiny, pool, PieceCache(tiny, pool.adapter), settings(), 0)
    last, calls = tiny.targets[list(tiny.targets)[-1]], []

    def fail(*_):
        calls.append(None)
        if len(calls) == 2:
            raise torch.OutOfMemoryError

    before = threading.active_count()
    handle = last.register_forward_pre_hook(fail)
    assemble(tight, batches, batch_tokens=1, wanted=["u"], done=found.__setitem__)
    handle.remove()
    assert found == expected
    handle = tiny.model.get_input_embeddings().register_forward_hook(lambda _, inputs, output: output * torch.inf)
    with pytest.raises(PerpcsError, match=r"the gate scores of '.*layers\.0.*q_proj' are not finite"):
        assemble(tight, batches, batch_tokens=1, wanted=["u"], done=found.__setitem__)
    handle.remove()
    assert threading.active_count() <= before + 1, "the reader of gates alone"


@pytest.mark.parametrize("changes", [{}, {"top_p": 0.7}, {"sample": True}, {"top_k": 5}], ids=str)
@pytest.mark.parametrize("merge", ["product", "factor"])
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_pieces_that_stay_on_the_device(tiny, batches, tmp_path, monkeypatch, share, merge, changes):
    """Each row with its own pieces, out of all that the pool has: the same as those of all rows, side by side."""
    some = write_pool(tmp_path, tiny, 5, share_ratio=share)
    wanted = settings(merge=merge, **changes)
    expected = run(tiny, some, batches, wanted)
    monkeypatch.setattr(Assembler, "_fits", lambda _: True)
    for found, one in zip(run(tiny, some, batches, wanted), expected, strict=True):
        assert_same(found, one)
