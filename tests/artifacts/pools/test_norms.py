"""Norms of pieces: what is too large is named, by the factors alone."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import edit_json, write_pool, write_sharer

from perpcs_cli.artifacts.adapter import CARD, WEIGHTS, Card, open_adapter
from perpcs_cli.artifacts.gate import FILE as GATE_FILE
from perpcs_cli.artifacts.io import hashing, tensors, typed_files
from perpcs_cli.artifacts.pool import open_pool
from perpcs_cli.artifacts.pools.build import build_pool
from perpcs_cli.artifacts.pools.norms import check_bound, far_from_others, piece_norm
from perpcs_cli.artifacts.pools.verify import verify_pool
from perpcs_cli.errors import DataError, UsageError


def enlarge(directory, module, factor):
    """Multiply one piece of a sharer, as if it had been trained so."""
    adapter = open_adapter(directory)
    named = {key: adapter.file.read(key).clone() for key in adapter.file.keys}
    named[f"base_model.model.{module}.lora_B.weight"] *= factor
    tensors.write_tensors(directory / WEIGHTS, named, {"format": "pt"})
    digest = hashing.digest_file(directory / WEIGHTS)
    edit_json(directory / CARD, digest=digest)
    (directory / GATE_FILE).unlink(missing_ok=True)
    assert typed_files.read_json(directory / CARD, Card).digest == digest


@pytest.mark.parametrize(("rank", "d", "n"), [(1, 6, 5), (4, 6, 5), (8, 3, 4)])
@pytest.mark.parametrize("scale", [1.0, -2.5, 0.0])
def test_the_norm_is_that_of_the_product(rank, d, n, scale):
    generator = torch.Generator().manual_seed(rank)
    a, b = torch.randn(rank, n, generator=generator), torch.randn(d, rank, generator=generator)
    naive = (scale * b.double() @ a.double()).pow(2).sum().sqrt().item()
    assert piece_norm(a, b, scale) == pytest.approx(naive, rel=1e-9)


def test_the_largest_numbers_have_a_norm():
    assert piece_norm(torch.full((2, 3), 3e38), torch.full((4, 2), 3e38), 1.0) == pytest.approx(9e76 * 2 * 12**0.5)


@pytest.mark.parametrize("bound", [0.0, -1.0, math.nan, math.inf])
def test_what_is_no_bound(bound):
    with pytest.raises(UsageError, match="must be above 0"):
        check_bound(bound)


@pytest.fixture
def module(tiny):
    """A linear layer."""
    return list(tiny.targets)[3]


def build(tiny, root, **changes):
    directories = [root / "sharers" / f"s{number}" for number in range(3)]
    path, origin = root / "pool.json", open_adapter(directories[0]).card.provenance
    settings = {"share_ratio": 1.0, "need_gates": False, "provenance": origin, **changes}
    return build_pool(path, directories, list(tiny.targets), **settings)


def test_a_piece_above_the_bound_is_not_built_in(tiny, root, module):
    enlarge(root / "sharers/s1", module, 1e4)
    with pytest.raises(DataError, match=rf"the piece of sharer 's1' for '{module}' has the norm .*, above 1000"):
        build(tiny, root, max_norm=1000.0)
    assert not (root / "pool.json").exists()
    assert build(tiny, root, max_norm=1e9).max_norm == 1e9
    assert verify_pool(open_pool(root / "pool.json")) == []


def test_verify_holds_the_manifests_bound_and_its_own(tiny, root, module):
    enlarge(root / "sharers/s1", module, 1e4)
    build(tiny, root)
    says = f"the piece of sharer 's1' for '{module}' has the norm"
    assert verify_pool(open_pool(root / "pool.json")) == []
    (problem,) = verify_pool(open_pool(root / "pool.json"), 1000.0)
    assert says in problem
    edit_json(root / "pool.json", max_norm=1000.0)
    for given in (None, 1e9):
        (problem,) = verify_pool(open_pool(root / "pool.json"), given)
        assert says in problem and "above 1000" in problem


def test_a_piece_that_is_not_given_does_not_count(tiny, root):
    pool = write_pool(root, tiny, 3, share_ratio=0.5)
    withheld = next(m for m in pool.modules if m not in pool.shares(1))
    enlarge(root / "sharers/s1", withheld, 1e4)
    assert build(tiny, root, share_ratio=0.5, max_norm=1000.0).max_norm == 1000.0


def test_a_sharer_far_from_the_others_is_named(tiny, root, module):
    build(tiny, root)
    assert far_from_others(open_pool(root / "pool.json")) == []
    enlarge(root / "sharers/s2", module, 40)
    build(tiny, root)
    (sentence,) = far_from_others(open_pool(root / "pool.json"))
    assert sentence.startswith(f"the piece of sharer 's2' for '{module}' has the norm")
    assert "times the median of the pool" in sentence


def test_untrained_pieces_are_no_median(tiny, tmp_path):
    for number in range(3):
        write_sharer(tmp_path / "sharers" / f"s{number}", tiny, number)
        for one in tiny.targets:
            enlarge(tmp_path / "sharers" / f"s{number}", one, 0.0)
    build(tiny, tmp_path)
    assert far_from_others(open_pool(tmp_path / "pool.json")) == []
