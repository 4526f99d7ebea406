"""An assembly pass of models of 7B on a CUDA device that is not there: nothing comes back to the host before its end.

Not tried are passes that go side by side through the linear layers: they run in threads, where no tensor is fake.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fake_cuda import TOKEN, fake_base, fake_cuda, fake_pieces
from helpers import MemoryAdapter, provenance

from perpcs_cli.artifacts.pool import OpenPool, Pool, Sharer
from perpcs_cli.artifacts.settings import AssembleSettings
from perpcs_cli.methods.per_pcs import assembler, gates
from perpcs_cli.methods.per_pcs.assembler import Assembler
from perpcs_cli.methods.per_pcs.history_batches import HistoryBatch
from perpcs_cli.model.engine.batching import Encoded
from perpcs_cli.model.engine.piece_cache import PieceCache

SHARERS, RANK = 8, 8
ROWS = [Encoded("", [5] * length, [6] * answer) for length, answer in ((20, 3), (9, 4), (14, 2), (30, 5))]


@pytest.fixture
def counts(monkeypatch):
    """A device that has 80 GB, all of them free."""
    monkeypatch.setattr(assembler, "total_bytes", lambda _: 80 << 30)
    monkeypatch.setattr(gates, "free_bytes", lambda _: 80 << 30)
    monkeypatch.setattr(OpenPool, "gates", lambda pool: SimpleNamespace(read=lambda module: gates_of(pool, module)))
    with fake_cuda(monkeypatch) as counts:
        yield counts


def gates_of(pool, module):
    return torch.empty(len(pool.ids), pool.manifest.modules[module][1])


def pool_of(base, share):
    shared = None if share == 1 else tuple(range(round(share * len(base.targets))))
    sharers = [Sharer(user_id=f"s{i}", path="x", adapter="", pieces="", gate="", shared=shared) for i in range(SHARERS)]
    manifest = Pool(
        base="b" * 64,
        model="m",
        rank=RANK,
        scale=2.0,
        modules=base.shapes,
        sharers=tuple(sharers),
        share_ratio=share,
        gates=(),
        provenance=provenance(),
    )
    return OpenPool(Path("pool.json"), manifest, "d" * 64)


CHANGES = [
    {},
    {"activations": "base"},
    {"scoring": "paper", "merge": "factor"},
    {"sample": True},
    {"top_p": 0.8},
    {"top_p": 0.8, "sample": True, "keep_k": True},
]


@pytest.mark.parametrize(
    ("name", "changes"), [("Gemma-3-4B", {}), *(("Llama-3.1-8B", change) for change in CHANGES)], ids=str
)
def test_a_pass_is_one_copy_to_the_device_and_one_back(counts, name, changes):
    base = fake_base(name)
    adapter = MemoryAdapter(fake_pieces(base, RANK))
    wanted = AssembleSettings(**{"top_k": 3, "batch_size": 3, **changes})
    common = {m: torch.empty(n).to(base.device) for m, (_, n) in base.shapes.items()} if "merge" in changes else {}
    pool = pool_of(base, 0.5 if changes else 1.0)
    found = Assembler(base, pool, PieceCache(base, lambda _: adapter), wanted, 0, common)
    batches = [HistoryBatch("u", 0, ROWS[:3], [4]), HistoryBatch("v", 0, ROWS[3:])]
    found.run(batches)  # Reads the gates, and the pieces.
    before = counts.copy()
    weights = found.run(batches)
    passed = counts.since(before)
    assert (passed.to_device, passed.fetched) == (1, 1)
    assert [list(mix) for mix in weights] == [list(base.targets)] * 2
    assert weights[0]["model.layers.0.self_attn.q_proj"][0] == (TOKEN, float(TOKEN))
