"""What the benchmarks share: a clock, and a pool of random pieces."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from perpcs_cli.cli.console import Console

if TYPE_CHECKING:
    from perpcs_cli.artifacts.pool import OpenPool
    from perpcs_cli.model.base import Base

T = TypeVar("T")


def timed(console: Console, what: str, run: Callable[[], T]) -> tuple[T, float]:
    """(what `run` returns, its seconds), said on stderr."""
    start = time.perf_counter()
    result = run()
    seconds = time.perf_counter() - start
    console.note(f"{what}: {seconds:.2f} s")
    return result, seconds


def random_pool(directory: Path, model: Base, rank: int, count: int) -> OpenPool:
    """A pool of `count` sharers with random pieces and gates, below `directory`."""
    import torch

    from perpcs_cli.artifacts import store
    from perpcs_cli.artifacts.adapter import CARD, AdapterConfig, Card, write_adapter
    from perpcs_cli.artifacts.gate import FILE as GATE_FILE
    from perpcs_cli.artifacts.gate import GateCard, write_gates
    from perpcs_cli.artifacts.pool import open_pool
    from perpcs_cli.artifacts.pooling import build_pool
    from perpcs_cli.artifacts.provenance import Provenance

    generator = torch.Generator().manual_seed(0)
    provenance = Provenance(command="bench", settings={}, seed=0, base=model.fingerprint)
    targets = sorted({name.rsplit(".", 1)[-1] for name in model.targets})
    paths = []
    for index in range(count):
        path = directory / f"s{index}"
        path.mkdir()
        pieces, gates = {}, {}
        for module, linear in model.targets.items():
            a = torch.randn(rank, linear.in_features, generator=generator) / linear.in_features**0.5
            b = torch.randn(linear.out_features, rank, generator=generator) * 1e-3
            pieces[module] = (a, b)
            gates[module] = torch.randn(linear.in_features, generator=generator) * 1e-3
        config = AdapterConfig(r=rank, lora_alpha=float(rank), target_modules=targets)
        digest = write_adapter(path, pieces, config, "")
        card = Card(user_id=path.name, examples=0, steps=0, tokens=0, digest=digest, provenance=provenance)
        store.write_json(path / CARD, card)
        write_gates(
            path / GATE_FILE,
            gates,
            GateCard(user_id=path.name, adapter=digest, steps=0, provenance=provenance),
        )
        paths.append(path)
    manifest = directory / "pool.json"
    build_pool(manifest, paths, list(model.targets), share_ratio=1.0, need_gates=True, provenance=provenance)
    return open_pool(manifest)
