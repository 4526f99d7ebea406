"""What a sharer withholds is used by nobody: in assembly, retrieval and PriME's space."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from helpers import provenance, random_rows, write_sharer
from hypothesis import given, settings
from hypothesis import strategies as st

from perpcs_cli.artifacts.pool import OpenPool, open_pool
from perpcs_cli.artifacts.pools.build import build_pool
from perpcs_cli.artifacts.pools.pseudonyms import Copies, copies_root
from perpcs_cli.artifacts.settings import AssembleSettings
from perpcs_cli.methods.per_pcs.assembler import Assembler
from perpcs_cli.methods.per_pcs.assembly import assemble
from perpcs_cli.methods.per_pcs.history_batches import make_batches
from perpcs_cli.methods.prime.weight_space import make_space
from perpcs_cli.model.engine.piece_cache import PieceCache
from perpcs_cli.model.loading.base import Base

COUNT = 3


@pytest.fixture(scope="module")
def sharers(tiny: Base, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pool")
    for number in range(COUNT):
        write_sharer(root / "sharers" / f"s{number}", tiny, number)
    return root


def shared_pool(root: Path, base: Base, place: Path, ratio: float, seed: int, keyed: bool) -> OpenPool:
    path = place / "pool.json"
    copies = Copies(copies_root(path), b"0" * 32, provenance(base.fingerprint, seed)) if keyed else None
    build_pool(
        path,
        sorted((root / "sharers").iterdir()),
        list(base.targets),
        share_ratio=ratio,
        need_gates=True,
        provenance=provenance(base.fingerprint, seed),
        copies=copies,
    )
    return open_pool(path)


@settings(max_examples=15, deadline=None)
@given(
    ratio=st.floats(0.1, 1.0),
    seed=st.integers(0, 99),
    top_k=st.integers(1, COUNT),
    scoring=st.sampled_from(["published", "paper"]),
    sample=st.booleans(),
    keyed=st.booleans(),
)
def test_assembly_never_uses_a_withheld_piece(
    tiny: Base, sharers: Path, ratio: float, seed: int, top_k: int, scoring: str, sample: bool, keyed: bool
) -> None:
    with TemporaryDirectory(dir=sharers) as place:
        # A pool of ids holds relative paths downwards only, so it stands above its sharers.
        pool = shared_pool(sharers, tiny, Path(place) if keyed else sharers, ratio, seed, keyed)
        chosen = AssembleSettings(top_k=top_k, batch_size=2, scoring=scoring, sample=sample)
        read: list[tuple[int, str]] = []

        def adapter(index: int):
            opened = pool.adapter(index)
            return type("Watched", (), {"scale": opened.scale, "piece": partial(watch, opened, index)})()

        def watch(opened, index, module):
            read.append((index, module))
            return opened.piece(module)

        used: list[tuple[int, str]] = []
        assemble(
            Assembler(tiny, pool, PieceCache(tiny, adapter), chosen, seed),
            make_batches("u", random_rows(tiny, [(5, 2), (3, 3), (4, 2)], seed), chosen),
            batch_tokens=4096,
            wanted=["u"],
            done=lambda user, weights: used.extend((s, m) for m, mix in weights.items() for s, _ in mix),
        )
        given_pieces = {(index, module) for index in range(COUNT) for module in pool.shares(index)}
        assert used
        assert {*used, *read} <= given_pieces


@settings(max_examples=15, deadline=None)
@given(ratio=st.floats(0.1, 1.0), seed=st.integers(0, 99), granularity=st.sampled_from(["lora", "layer"]))
def test_whole_loras_are_merged_without_what_is_withheld(
    tiny: Base, sharers: Path, ratio: float, seed: int, granularity: str
) -> None:
    pool = shared_pool(sharers, tiny, sharers, ratio, seed, False)
    space = make_space(pool, pool.ids, granularity)
    used = {(index, module) for module, mix in space.mixes([1.0] * space.size).items() for index, _ in mix}
    assert used == {(index, module) for index in range(COUNT) for module in pool.shares(index)}
