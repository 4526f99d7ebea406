"""Where the memory runs out: what fits is run, in order and with the same result, and what does not is named."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch
from helpers import MemoryAdapter, random_pieces, random_rows, short_of_memory

from perpcs_cli.errors import PerpcsError
from perpcs_cli.model.engine import memory
from perpcs_cli.model.engine.batching import Encoded
from perpcs_cli.model.engine.decode import generate
from perpcs_cli.model.engine.memory import Halving, free_bytes, watched
from perpcs_cli.model.engine.piece_cache import PieceCache
from perpcs_cli.model.engine.recipe_router import RecipeRouter
from perpcs_cli.model.engine.scoring import score

LENGTHS = [(12, 2), (7, 3), (9, 2), (12, 4), (5, 1), (11, 3), (12, 2)]


def row(length):
    return Encoded(f"i{length}", [5] * length, [], who="user u")


def fitting(most):
    """(runs items by their lengths, the parts that were tried)."""
    tried: list[list[int]] = []

    def work(items):
        tried.append(list(items))
        if len(items) * max(items) > most:
            raise torch.OutOfMemoryError
        return sum(items)

    halving = Halving[int](lambda length: [row(length)])
    return lambda items: halving.run(items, work), tried


def test_halves_in_order():
    run, tried = fitting(8)
    assert run([4, 3, 2, 6, 1]) == [7, 2, 6, 1]
    # As much as did not fit before is divided right away.
    assert tried == [[4, 3, 2, 6, 1], [4, 3, 2], [4, 3], [2], [6], [1]]
    # As much as did not fit before is divided right away.
    assert run([3, 3, 3, 3]) == [6, 6]
    assert tried[6:] == [[3, 3], [3, 3]]


def test_all_at_once_where_it_fits():
    run, tried = fitting(100)
    assert run([4, 3, 2]) == [9]
    assert tried == [[4, 3, 2]]


def test_what_does_not_fit_alone_is_named():
    run, _ = fitting(12)
    with pytest.raises(PerpcsError, match="user u, 'i13': a row of 13 tokens does not fit into the device's memory"):
        run([2, 13, 1])


def test_a_smaller_row_is_tried_after_a_large_one_failed():
    run, _ = fitting(12)
    with pytest.raises(PerpcsError):
        run([13])
    assert run([12, 1]) == [12, 1]


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", torch.OutOfMemoryError),
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes", torch.OutOfMemoryError),
        ("CUDA error: out of memory", torch.OutOfMemoryError),
        ("the sizes do not match", RuntimeError),
    ],
)
def test_what_means_a_lack_of_memory(said, kind):
    with pytest.raises(RuntimeError, match=re.escape(said)) as caught, watched():
        raise RuntimeError(said)
    assert caught.type is kind


def test_the_processors_lack_of_memory_is_one():
    with pytest.raises(torch.OutOfMemoryError), watched():
        torch.empty(1 << 60)


@pytest.fixture
def recipes(tiny):
    adapters = [MemoryAdapter(random_pieces(tiny, seed)) for seed in range(2)]
    weights = [{}, {module: [(0, 1.0)] for module in tiny.targets}, {module: [(1, 0.5)] for module in tiny.targets}]
    return RecipeRouter(PieceCache(tiny, lambda index: adapters[index]), weights)


@pytest.fixture
def rows(tiny):
    return [(dataclasses.replace(one, who="user u"), n % 3) for n, one in enumerate(random_rows(tiny, LENGTHS))]


def test_decoding_goes_on_with_fewer_rows(tiny, recipes, rows, monkeypatch):
    room = {"max_new_tokens": 6, "batch_tokens": 1000, "batch_rows": 8}
    base = dataclasses.replace(tiny, stop=(-1,))
    expected = generate(base, recipes, rows, **room)
    told: list[int] = []
    sizes = short_of_memory(tiny, monkeypatch, 25)
    assert generate(base, recipes, rows, **room, done=lambda indices, _: told.extend(indices)) == expected
    assert [size for size in sizes if size > 25] == [sum(length for length, _ in LENGTHS), sizes[1]]
    assert sorted(told) == list(range(len(rows)))


def test_memory_that_runs_out_on_the_way(tiny, recipes, rows, monkeypatch):
    """After some rows have ended: these are not told again, and the others keep what they have said."""
    room = {"max_new_tokens": 6, "batch_tokens": 1000, "batch_rows": 4}
    base = dataclasses.replace(tiny, stop=(-1,))
    expected = generate(base, recipes, rows, **room)
    told: list[int] = []
    embeddings = tiny.model.get_input_embeddings()
    whole, passes = embeddings.forward, []

    def forward(ids):
        passes.append(ids.numel())
        if len(passes) in (3, 9):
            raise torch.OutOfMemoryError
        return whole(ids)

    monkeypatch.setattr(embeddings, "forward", forward)
    assert generate(base, recipes, rows, **room, done=lambda indices, _: told.extend(indices)) == expected
    assert sorted(told) == list(range(len(rows)))
    assert len(passes) > 9


def test_decoding_names_the_row_that_does_not_fit(tiny, recipes, rows, monkeypatch):
    short_of_memory(tiny, monkeypatch, 11)
    with pytest.raises(PerpcsError, match=r"user u, 'row[036]': a row of 1\d tokens does not fit"):
        generate(tiny, recipes, rows, max_new_tokens=6, batch_tokens=1000, batch_rows=8)
    assert not any(layer._forward_hooks for layer in tiny.targets.values())
    assert tiny.model.config._attn_implementation == "sdpa"


def test_scoring_goes_on_with_fewer_rows(tiny, recipes, rows, monkeypatch):
    room = {"batch_tokens": 1000, "batch_rows": 8}
    expected = score(tiny, recipes, rows, **room)
    short_of_memory(tiny, monkeypatch, 20)
    found = score(tiny, recipes, rows, **room)
    for index, one in expected.items():
        assert found[index].logprobs == pytest.approx(one.logprobs, abs=1e-4)
    short_of_memory(tiny, monkeypatch, 10)
    with pytest.raises(PerpcsError, match=r"user u, 'row\d': a row of 1\d tokens does not fit"):
        score(tiny, recipes, rows, **room)


def test_free_memory_is_the_machines_or_the_containers(tmp_path, monkeypatch):
    cpu = torch.device("cpu")
    assert free_bytes(cpu) > 1 << 20
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert free_bytes(cpu) == 0
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    8 kB\n")
    assert free_bytes(cpu) == 8192
    (tmp_path / "memory.current").write_text("1000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes(cpu) == 8192
    (tmp_path / "memory.max").write_text("5000\n")
    assert free_bytes(cpu) == 4000
    (tmp_path / "memory.max").write_text("500\n")
    assert free_bytes(cpu) == 0
