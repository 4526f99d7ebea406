"""An assembly pass of models of 7B on a CUDA device that is not there: nothing comes back to the host before its end.

Under torch's FakeTensorMode tensors have shapes and devices and no numbers: what would need a number on the host, or
mixes devices, is an error.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fake_device import CUDA, Counted, fake_cuda
from helpers import provenance
from transformers import AutoConfig, AutoModelForCausalLM

from perpcs_cli.artifacts.pool import OpenPool, Pool, Sharer
from perpcs_cli.artifacts.settings import AssembleSettings
from perpcs_cli.methods.per_pcs import assembler as room
from perpcs_cli.methods.per_pcs.assembler import Assembler
from perpcs_cli.methods.per_pcs.history_batches import HistoryBatch
from perpcs_cli.model.engine.batching import Encoded
from perpcs_cli.model.loading.base import Base
from perpcs_cli.model.loading.identity import Identity

SHARERS, RANK, LAYERS = 50, 8, 2
SHAPES = {
    "llama-2-7b": {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32},
    "llama-3.1-8b": {
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    "qwen3-8b": {
        "model_type": "qwen3",
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
    },
    "gemma-3-4b": {
        "model_type": "gemma3_text",
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention"],
    },
}


class Tokenizer:
    """What a base needs to know of one."""

    pad_token_id = 0


class Bank:
    """Pieces of the pool, without numbers."""

    def __init__(self, base):
        self.base = base

    def stack(self, module, sharers):
        d, n = self.base.shapes[module]
        place = {"device": CUDA, "dtype": self.base.dtype}
        return torch.empty(len(sharers) * RANK, n, **place), torch.empty(d, len(sharers) * RANK, **place)


class Gates:
    """Their gates."""

    def __init__(self, pool, *_):
        self.pool = pool

    def __getitem__(self, module):
        return torch.empty(len(self.pool.ids), self.pool.manifest.modules[module][1], device=CUDA)


def base_of(name):
    shape = dict(SHAPES[name])
    config = AutoConfig.for_model(shape.pop("model_type"), **shape, num_hidden_layers=LAYERS, vocab_size=512)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa").eval()
    for module in model.modules():
        # Fake parameters cannot be swapped for those of another device in place.
        for held in (module._parameters, module._buffers):
            for key, tensor in held.items():
                moved = None if tensor is None else tensor.detach().to(CUDA)
                held[key] = torch.nn.Parameter(moved) if held is module._parameters and moved is not None else moved
    targets = {n: m for n, m in model.named_modules() if n.rsplit(".", 1)[-1] in ("q_proj", "k_proj", "v_proj")}
    identity = Identity(name, Path(name), None, CUDA, torch.bfloat16, "b" * 64)
    return Base(identity, model, Tokenizer(), targets, 4096, (1,))


def pool_of(base, share):
    count = round(share * len(base.targets))
    shared = None if share == 1 else tuple(range(count))
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


@pytest.fixture
def cuda(monkeypatch):
    """A device that has 80 GB."""
    monkeypatch.setattr(room, "Gates", Gates)
    monkeypatch.setattr(room, "total_bytes", lambda _: 80 << 30)
    with fake_cuda():
        yield


CHANGES = [
    {},
    {"activations": "base"},
    {"scoring": "paper", "merge": "factor"},
    {"sample": True},
    {"top_p": 0.8},
    {"top_p": 0.8, "sample": True, "keep_k": True},
]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
@pytest.mark.parametrize("name", SHAPES)
def test_a_pass_is_one_copy_to_the_device_and_one_back(cuda, name, changes):
    base = base_of(name)
    wanted = AssembleSettings(**{"top_k": 3, "batch_size": 3, **changes})
    common = {m: torch.empty(n, device=CUDA) for m, (_, n) in base.shapes.items()} if "merge" in changes else {}
    assembler = Assembler(base, pool_of(base, 0.5 if changes else 1.0), Bank(base), wanted, 0, common)
    rows = [Encoded("", [5] * length, [6] * answer) for length, answer in ((20, 3), (9, 4), (14, 2), (30, 5))]
    batches = [HistoryBatch("u", 0, rows[:3], [4]), HistoryBatch("v", 0, rows[3:])]
    with Counted() as counted:
        one = assembler.plan(batches)
        assert counted.copies == {("cpu", "cuda"): 1}
        with room.attached(base, assembler, merge=wanted.merge):
            packed = assembler.run_on_device(one)
        assert packed.device == CUDA
        packed.cpu()
    assert counted.copies == {("cpu", "cuda"): 1, ("cuda", "cpu"): 1}
