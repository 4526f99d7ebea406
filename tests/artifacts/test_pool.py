"""Manifests: checked when they are opened, and what they list when it is used."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from helpers import edit_json, edit_tensor, write_pool

from perpcs_cli.artifacts.adapter import PREFIX, WEIGHTS
from perpcs_cli.artifacts.io import hashing
from perpcs_cli.artifacts.io.tensors import TensorFile
from perpcs_cli.artifacts.pool import check_base, check_layers, gates_path, open_pool, pieces_path
from perpcs_cli.errors import DataError


def test_no_pool(tmp_path):
    with pytest.raises(DataError, match="there is no pool") as caught:
        open_pool(tmp_path / "pool.json")
    assert "perpcs pool build" in caught.value.hint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": "../outside"}, "leaves its directory"),
        ({"path": "/etc"}, "leaves its directory"),
        ({"user_id": "../x"}, "cannot name a file"),
        ({"user_id": "s1"}, "listed twice"),
        ({"shared": [0, 8]}, "shares a piece that is not in the list"),
        ({"shared": [-1]}, "Expected `int` >= 0"),
        ({"shared": [0, 0, 0, 0, 0, 0, 0, 0]}, "shares a piece twice"),
        ({"shared": [0, 1]}, "does not share 8 pieces, as the pool's share says"),
        ({"colour": "red"}, "unknown field `colour`"),
    ],
    ids=str,
)
def test_a_manifest_that_was_edited(pool, changes, message):
    sharers = json.loads(pool.path.read_text())["sharers"]
    edit_json(pool.path, sharers=[{**sharers[0], **changes}, *sharers[1:]])
    with pytest.raises(DataError, match=message):
        open_pool(pool.path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"share_ratio": -3}, "Expected `float` >= 0"),
        ({"share_ratio": 0.5}, "does not share 4 pieces"),
        ({"rank": 0}, "Expected `int` >= 1"),
        ({"rank": 5000}, "Expected `int` <= 4096"),
        ({"modules": {}}, "Expected `object` of length >= 1"),
        ({"modules": {"m": [0, 4]}}, "Expected `int` >= 1"),
        ({"modules": {"m": [1 << 40, 4]}}, "Expected `int` <= 2147483648"),
        ({"max_norm": 0}, "Expected `float` > 0"),
    ],
    ids=str,
)
def test_numbers_that_cannot_be(pool, changes, message):
    edit_json(pool.path, **changes)
    with pytest.raises(DataError, match=message):
        open_pool(pool.path)


def test_a_link_that_leads_out(pool, root, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    shutil.move(root / "sharers" / "s1", outside / "s1")
    (root / "sharers" / "s1").symlink_to(outside / "s1")
    with pytest.raises(DataError, match="leaves its directory"):
        open_pool(pool.path)


def test_a_changed_adapter_is_noticed_when_it_is_used(tiny, pool, root):
    weights = root / "sharers" / "s1" / WEIGHTS
    edit_tensor(weights, f"{PREFIX}{next(iter(tiny.targets))}.lora_A.weight", torch.zeros(4, 64))
    opened = open_pool(pool.path)
    first, second, *_ = opened.modules
    opened.adapter(0).piece(first)
    opened.adapter(1).piece(second)
    with pytest.raises(DataError, match="the adapter of 's1' has changed since the pool was built"):
        opened.adapter(1).piece(first)
    opened.check_whole(0)
    with pytest.raises(DataError, match="the adapter of 's1' has changed since the pool was built"):
        opened.check_whole(1)


def test_reading_a_piece_reads_no_other(pool, monkeypatch):
    read, whole = [], TensorFile.read
    monkeypatch.setattr(TensorFile, "read", lambda file, key: read.append(key) or whole(file, key))
    monkeypatch.setattr(hashing, "digest_file", lambda path: pytest.fail(f"read {path}"))
    pool.adapter(2).piece(pool.modules[3])
    assert read == [f"{PREFIX}{pool.modules[3]}.lora_{side}.weight" for side in "AB"]


@pytest.mark.parametrize("damage", ["cut", "changed", "swapped", "gone"])
def test_digests_of_pieces_that_are_not_the_manifests(pool, damage):
    path = pieces_path(pool.path)
    lines = path.read_text().splitlines(keepends=True)
    if damage == "gone":
        path.unlink()
    else:
        changed = {"cut": [lines[0], lines[1][:-9]], "changed": [lines[0], "f" * 512 + "\n"], "swapped": lines[1::-1]}
        path.write_text("".join(changed[damage]))
    with pytest.raises(DataError, match=r"no such file|the digests of the pool's pieces are missing or have changed"):
        open_pool(pool.path).adapter(1)


def test_changed_or_missing_gates(pool):
    path = gates_path(pool.path)
    edit_tensor(path, pool.modules[0], torch.zeros(len(pool.ids), 64))
    gates = pool.gates()
    gates.read(pool.modules[1])
    with pytest.raises(DataError, match="missing or have changed"):
        gates.read(pool.modules[0])
    path.unlink()
    with pytest.raises(DataError, match="missing or have changed"):
        pool.gates()


def test_a_manifest_with_a_sharer_less_than_gates(pool):
    """Gates are found by position, so that a shorter list of sharers would give them to the wrong ones."""
    edit_json(pool.path, sharers=json.loads(pool.path.read_text())["sharers"][1:])
    with pytest.raises(DataError, match=r"the gates of .* have shape \[3, 64\], not \[2, 64\]"):
        open_pool(pool.path).gates()


def test_the_base_is_checked(tiny, pool):
    check_base(pool, tiny.fingerprint, "tiny")
    check_layers(pool, tiny.shapes)
    with pytest.raises(DataError, match="built on another base model or task adapter"):
        check_base(pool, "0" * 64, "tiny")
    first, *others = tiny.targets
    for layers in ({**tiny.shapes, "x": (1, 1)}, {m: tiny.shapes[m] for m in others}, {**tiny.shapes, first: (1, 1)}):
        with pytest.raises(DataError, match="the pool's pieces and the model's target layers differ"):
            check_layers(pool, layers)


@pytest.mark.parametrize("ratio", [1.0, 0.5, 0.0])
def test_what_is_withheld_is_what_is_not_shared(tiny, tmp_path, ratio):
    pool = write_pool(tmp_path, tiny, share_ratio=ratio)
    for module, places in pool.withheld().items():
        assert places == [place for place in range(4) if module not in pool.shares(place)]
    assert sum(map(len, pool.withheld().values())) == round((1 - ratio) * 8) * 4


def test_each_sharer_has_one_place(pool):
    assert [pool.ids[place] for place in pool.places.values()] == list(pool.places) == pool.ids


def test_an_adapter_that_is_used_stays_open_and_one_that_is_looked_at_does_not(pool, monkeypatch):
    read = []
    digest_file = hashing.digest_file
    monkeypatch.setattr(hashing, "digest_file", lambda path: read.append(path) or digest_file(path))
    assert pool.adapter(0) is pool.adapter(0)
    assert pool.open(0) is not pool.open(0)
    assert read == []
