"""Pools: built from sharers that fit together."""

from __future__ import annotations

import json
import shutil

import msgspec
import pytest
import torch
from helpers import edit_json, edit_tensor, provenance, random_pieces, write_pool, write_sharer
from safetensors.torch import load_file

from perpcs_cli.artifacts.adapter import CARD, CONFIG, PREFIX, WEIGHTS
from perpcs_cli.artifacts.gate import FILE as GATE_FILE
from perpcs_cli.artifacts.gate import read_gates
from perpcs_cli.artifacts.io import hashing
from perpcs_cli.artifacts.pool import gates_path, open_pool
from perpcs_cli.artifacts.pools.build import build_pool, shared_pieces
from perpcs_cli.artifacts.pools.verify import verify_pool
from perpcs_cli.errors import DataError, UsageError

COUNT = 3


def test_the_manifest(tiny, pool, root):
    manifest = pool.manifest
    assert pool.ids == ["s0", "s1", "s2"]
    assert pool.modules == list(tiny.targets)
    assert (manifest.base, manifest.model, manifest.rank, manifest.scale) == (tiny.fingerprint, "tiny", 4, 1.0)
    assert manifest.modules == {name: tuple(layer.weight.shape) for name, layer in tiny.targets.items()}
    assert pool.digest == hashing.digest_file(root / "pool.json")
    for sharer in manifest.sharers:
        directory = root / sharer.path
        assert sharer.path == f"sharers/{sharer.user_id}"
        assert sharer.adapter == hashing.digest_file(directory / WEIGHTS)
        assert sharer.gate == hashing.digest_file(directory / GATE_FILE)
    assert verify_pool(pool) == []


def test_the_gates_are_stacked(pool, root):
    gates = pool.gates()
    for index, name in enumerate(pool.ids):
        own, _ = read_gates(root / "sharers" / name / GATE_FILE)
        for module in pool.modules:
            assert torch.equal(gates.read(module)[index], own.read(module))


def test_gates_of_another_type_are_stacked_without_loss(tiny, root):
    first = next(iter(tiny.targets))
    exact = torch.linspace(0, 1, 64, dtype=torch.double)
    edit_tensor(root / "sharers" / "s1" / GATE_FILE, first, exact)
    pool = write_pool(root, tiny, COUNT)
    assert torch.equal(pool.gates().read(first)[1], exact)
    own, _ = read_gates(root / "sharers" / "s0" / GATE_FILE)
    assert torch.equal(pool.gates().read(first)[0], own.read(first).double())


def test_the_pieces_are_the_sharers(tiny, pool):
    for index in range(COUNT):
        expected = random_pieces(tiny, index)
        for module in pool.modules:
            assert torch.equal(pool.adapter(index).piece(module)[0], expected[module][0])


def test_the_same_sharers_give_the_same_bytes(tiny, pool, root):
    before = (root / "pool.json").read_bytes()
    write_pool(root, tiny, COUNT)
    assert (root / "pool.json").read_bytes() == before


@pytest.mark.parametrize(("ratio", "count"), [(0.0, 0), (0.3, 2), (0.5, 4), (0.99, 8)])
def test_the_share_ratio(tiny, root, ratio, count):
    pool = write_pool(root, tiny, COUNT, share_ratio=ratio)
    shares = [pool.shares(index) for index in range(COUNT)]
    assert [len(share) for share in shares] == [count] * COUNT
    assert all(share <= set(pool.modules) for share in shares)
    assert shares == [write_pool(root, tiny, COUNT, share_ratio=ratio).shares(index) for index in range(COUNT)]


def test_what_is_shared_depends_on_seed_and_sharer_alone():
    draws = {(user, seed): shared_pieces(user, 100, 0.5, seed) for user in ("u", "v") for seed in (0, 1)}
    assert len(set(draws.values())) == 4
    assert draws["u", 0] == shared_pieces("u", 100, 0.5, 0)
    assert shared_pieces("u", 100, 1.0, 0) is None


def test_without_gates(tiny, root):
    (root / "sharers" / "s1" / GATE_FILE).unlink()
    directories = sorted((root / "sharers").iterdir())
    ungated = {"share_ratio": 1.0, "need_gates": False, "provenance": provenance()}
    build_pool(root / "pool.json", directories, list(tiny.targets), **ungated)
    pool = open_pool(root / "pool.json")
    assert verify_pool(pool) == []
    assert not gates_path(root / "pool.json").exists()
    with pytest.raises(DataError, match="built without gates"):
        pool.gates()


def refused(tiny, root, message, kind=DataError):
    with pytest.raises(kind, match=message):
        write_pool(root, tiny, COUNT)
    assert not (root / "pool.json").exists()


def test_another_base(tiny, root):
    card = root / "sharers" / "s1" / CARD
    card.write_text(card.read_text().replace(tiny.fingerprint, "0" * 64))
    refused(tiny, root, "s1: trained on another base model than .*s0")


@pytest.mark.parametrize("sharer", ["s0", "s1"])
def test_missing_and_unexpected_pieces(tiny, root, sharer):
    weights = root / "sharers" / sharer / WEIGHTS
    last = list(tiny.targets)[-1]
    spare = {side: load_file(weights)[f"{PREFIX}{last}.lora_{side}.weight"] for side in "AB"}
    for side, tensor in spare.items():
        edit_tensor(weights, f"{PREFIX}{last}x.lora_{side}.weight", tensor)
    refused(tiny, root, f"{sharer}.* has an unexpected piece for '.*o_projx'")
    for name in (last, f"{last}x"):
        for side in "AB":
            edit_tensor(weights, f"{PREFIX}{name}.lora_{side}.weight", None)
    refused(tiny, root, f"{sharer}.*(has no piece for|missing tensor) '.*layers.1.self_attn.o_proj")


def test_another_shape(tiny, root):
    first = next(iter(tiny.targets))
    edit_tensor(root / "sharers" / "s1" / WEIGHTS, f"{PREFIX}{first}.lora_B.weight", torch.zeros(60, 4))
    refused(tiny, root, "s1: the piece of '.*q_proj' is not for a 64 × 64 layer")


def test_no_gates_and_anothers_gates(tiny, root):
    gate = root / "sharers" / "s1" / GATE_FILE
    shutil.copy(root / "sharers" / "s2" / GATE_FILE, gate)
    refused(tiny, root, "the gates of 's1' belong to another adapter")
    gate.unlink()
    refused(tiny, root, "the sharer has no gates")


def test_a_gate_of_another_shape(tiny, root):
    edit_tensor(root / "sharers" / "s1" / GATE_FILE, next(iter(tiny.targets)), torch.zeros(3))
    refused(tiny, root, r"s1.*the gate of '.*q_proj' has shape \[3\]")


def test_an_unfinished_sharer(tiny, root):
    (root / "sharers" / "s1" / CARD).unlink()
    refused(tiny, root, r"s1: holds no sharer\.json")


def test_nan(tiny, root):
    first = next(iter(tiny.targets))
    edit_tensor(root / "sharers" / "s2" / WEIGHTS, f"{PREFIX}{first}.lora_A.weight", torch.full((4, 64), torch.inf))
    refused(tiny, root, "s2.* holds NaN or infinity")


def test_a_sharer_twice(tiny, root):
    shutil.rmtree(root / "sharers" / "s1")
    shutil.copytree(root / "sharers" / "s0", root / "sharers" / "s1")
    refused(tiny, root, "s1: is the same sharer as sharers/s0: 's0'")


def test_a_sharer_outside(tiny, root, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "s9"
    write_sharer(outside, tiny, 9)
    with pytest.raises(UsageError, match="is not below the pool's directory"):
        build_pool(
            root / "pool.json",
            [outside],
            list(tiny.targets),
            share_ratio=1.0,
            need_gates=True,
            provenance=provenance(),
        )


def test_the_manifest_holds_no_more_than_its_fields(pool):
    """Whatever the sharers' files hold, only these keys reach the manifest."""
    content = json.loads(pool.path.read_text())
    assert set(content) == {
        *("format", "base", "model", "rank", "scale", "modules", "sharers", "share_ratio", "gates", "provenance"),
        *("pseudonyms", "embeddings", "max_norm"),
    }
    assert all(
        set(sharer) <= {"user_id", "path", "adapter", "pieces", "gate", "shared"} for sharer in content["sharers"]
    )
    assert msgspec.convert(content, type(pool.manifest)) == pool.manifest


def test_sharers_of_several_ranks_and_scales(tiny, root):
    write_sharer(root / "sharers" / "s3", tiny, 3, rank=6)
    config, card = root / "sharers" / "s1" / CONFIG, root / "sharers" / "s1" / CARD
    edit_json(config, lora_alpha=8)
    edit_json(card, scale=2.0)
    pool = write_pool(root, tiny, 4)
    assert (pool.manifest.rank, pool.manifest.scale) == (6, 1.0)
    told = [(one.user_id, one.rank, one.scale) for one in pool.manifest.sharers]
    assert told == [("s0", 4, None), ("s1", 4, 2.0), ("s2", 4, None), ("s3", None, None)]
    assert verify_pool(pool) == []
    edit_json(config, lora_alpha=4)
    edit_json(card, scale=1.0)
    (problem,) = verify_pool(open_pool(pool.path))
    assert "has rank 4 and scale 1, and the pool says 4 and 2" in problem
    edit_json(pool.path, rank=5)
    assert any("has rank 6 and scale 1, and the pool says 5" in one for one in verify_pool(open_pool(pool.path)))
    edit_json(pool.path, rank=3)
    with pytest.raises(DataError, match="'s0' has a larger rank than 3, the pool's"):
        open_pool(pool.path)
