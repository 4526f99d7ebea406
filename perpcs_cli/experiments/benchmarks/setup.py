"""What the benchmarks share: a clock, users to work on, and a pool of random pieces."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from perpcs_cli.artifacts.users import User, read_users
from perpcs_cli.errors import UsageError
from perpcs_cli.steps.report import Report
from perpcs_cli.steps.workspace import Workspace
from perpcs_cli.tasks.synthetic_users import make_users

if TYPE_CHECKING:
    from torch import Generator

    from perpcs_cli.artifacts.pool import OpenPool
    from perpcs_cli.model.loading.base import Base

T = TypeVar("T")


def timed(report: Report, what: str, run: Callable[[], T]) -> tuple[T, float]:
    """(what `run` returns, its seconds), told."""
    start = time.perf_counter()
    result = run()
    seconds = time.perf_counter() - start
    report.note(f"{what}: {seconds:.2f} s")
    return result, seconds


def bench_users(workspace: Workspace, path: Path | None, *, count: int, items: int) -> list[User]:
    """The users of a file, else `count` synthetic ones with `items` items; these have news headlines alone."""
    if path:
        return list(read_users(path).values())
    if workspace.task.name != "news_headline":
        raise UsageError(
            f"the synthetic users have news headlines, and the task is {workspace.task.name}",
            hint="Give the task's users with --users-file, or --task news_headline.",
        )
    return make_users(count, items, 0, workspace.settings.seed)


def random_pool(directory: Path, model: Base, rank: int, count: int) -> OpenPool:
    """A pool of `count` sharers with random pieces and gates, below `directory`."""
    import torch

    from perpcs_cli.artifacts.io.provenance import Provenance
    from perpcs_cli.artifacts.pool import open_pool
    from perpcs_cli.artifacts.pools.build import build_pool

    generator = torch.Generator().manual_seed(0)
    paths = [directory / f"s{index}" for index in range(count)]
    for path in paths:
        random_sharer(path, model, rank, generator)
    manifest = directory / "pool.json"
    provenance = Provenance(command="bench", settings={}, seed=0, base=model.fingerprint)
    build_pool(manifest, paths, list(model.targets), share_ratio=1.0, need_gates=True, provenance=provenance)
    return open_pool(manifest)


def random_sharer(path: Path, model: Base, rank: int, generator: Generator) -> None:
    """A sharer with random pieces and gates in a new directory, whose name is its id."""
    import torch

    from perpcs_cli.artifacts.adapter import CARD, AdapterConfig, Card, write_adapter
    from perpcs_cli.artifacts.gate import FILE as GATE_FILE
    from perpcs_cli.artifacts.gate import GateCard, write_gates
    from perpcs_cli.artifacts.io import typed_files
    from perpcs_cli.artifacts.io.provenance import Provenance

    provenance = Provenance(command="bench", settings={}, seed=0, base=model.fingerprint)
    targets = sorted({name.rsplit(".", 1)[-1] for name in model.targets})
    path.mkdir()
    pieces, gates = {}, {}
    for module, linear in model.targets.items():
        a = torch.randn(rank, linear.in_features, generator=generator) / linear.in_features**0.5
        b = torch.randn(linear.out_features, rank, generator=generator) * 1e-3
        pieces[module] = (a, b)
        gates[module] = torch.randn(linear.in_features, generator=generator) * 1e-3
    config = AdapterConfig(r=rank, lora_alpha=float(rank), target_modules=targets)
    digest = write_adapter(path, pieces, config, "")
    card = Card(user_id=path.name, examples=0, steps=0, digest=digest, scale=config.scale, provenance=provenance)
    typed_files.write_json(path / CARD, card)
    gate_card = GateCard(user_id=path.name, adapter=digest, steps=0, provenance=provenance)
    write_gates(path / GATE_FILE, gates, gate_card)
