"""Pools are whole, or everything that is wrong with them is said."""

from __future__ import annotations

import shutil

import pytest
import torch
from helpers import edit_json, edit_tensor, provenance

from perpcs_cli.artifacts.adapter import PREFIX, WEIGHTS
from perpcs_cli.artifacts.embeddings import EmbeddingsCard
from perpcs_cli.artifacts.gate import FILE as GATE_FILE
from perpcs_cli.artifacts.io import hashing, tensors
from perpcs_cli.artifacts.pool import embeddings_path, gates_path, open_pool
from perpcs_cli.artifacts.pools.verify import verify_pool


def test_an_empty_manifest(pool):
    """A pool whose sharers have all been revoked is a pool; gates of sharers that are not there are not."""
    edit_json(pool.path, sharers=[])
    (problem,) = verify_pool(open_pool(pool.path))
    assert "have shape" in problem
    edit_json(pool.path, gates=[])
    assert (open_pool(pool.path).ids, verify_pool(open_pool(pool.path))) == ([], [])


def test_a_pool_can_move_with_its_sharers(pool, root, tmp_path_factory):
    moved = shutil.move(root, tmp_path_factory.mktemp("elsewhere") / "pool")
    assert verify_pool(open_pool(moved / "pool.json")) == []


def test_verify_lists_everything(tiny, pool, root):
    first = next(iter(tiny.targets))
    shutil.rmtree(root / "sharers" / "s0")
    edit_tensor(root / "sharers" / "s1" / WEIGHTS, f"{PREFIX}{first}.lora_A.weight", torch.zeros(4, 64))
    edit_tensor(root / "sharers" / "s2" / GATE_FILE, first, torch.zeros(64))
    gates_path(pool.path).unlink()
    problems = verify_pool(open_pool(pool.path))
    assert len(problems) == 4
    said = ["s0: holds no", "'s1' has changed", f"s2/{GATE_FILE}: has changed", "the pool's gates are missing"]
    assert all(words in problem for words, problem in zip(said, problems, strict=True))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"base": "0" * 64}, "has another base model than the manifest says"),
        ({"rank": 5}, "has rank 4 and scale 1, and the pool says 5 and 1"),
        ({"scale": 3.0}, "has rank 4 and scale 1, and the pool says 4 and 3"),
    ],
)
def test_verify_compares_the_manifest_with_the_adapters(pool, change, says):
    edit_json(pool.path, **change)
    problems = verify_pool(open_pool(pool.path))
    assert len(problems) == len(pool.ids)
    assert all(says in problem for problem in problems)


def test_verify_reads_gates_that_are_gone(pool, root):
    (root / "sharers" / "s2" / GATE_FILE).unlink()
    problems = verify_pool(pool)
    assert len(problems) == 1
    assert problems[0].startswith(f"{root / 'sharers' / 's2' / GATE_FILE}: no such file")


def test_gates_and_embeddings_are_no_integers(tiny, pool, root):
    first = next(iter(tiny.targets))
    edit_tensor(gates_path(pool.path), first, torch.ones(3, 64, dtype=torch.int32))
    (problem,) = verify_pool(open_pool(pool.path))
    assert "holds I32, and no floating-point numbers" in problem
    card = EmbeddingsCard(encoder="e", users=dict.fromkeys(pool.ids, ""), provenance=provenance())
    named = {"embeddings": torch.ones(3, 4, dtype=torch.int64)}
    tensors.write_tensors(embeddings_path(pool.path), named, tensors.card_metadata(card))
    edit_json(pool.path, gates=[], embeddings=hashing.digest_file(embeddings_path(pool.path)))
    (problem,) = verify_pool(open_pool(pool.path))
    assert "holds I64, and no floating-point numbers" in problem


def test_verifying_digests_each_file_once(pool, root, monkeypatch):
    read = []
    digest_file = hashing.digest_file
    monkeypatch.setattr(hashing, "digest_file", lambda path: read.append(path) or digest_file(path))
    assert verify_pool(pool) == []
    own = [root / "sharers" / name / file for name in pool.ids for file in (WEIGHTS, GATE_FILE)]
    assert sorted(read) == sorted(own)
