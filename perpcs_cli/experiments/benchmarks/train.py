"""Training sharers side by side, one after the other, and the matrix products that both cannot do without."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from perpcs_cli.artifacts.io import hashing
from perpcs_cli.errors import DataError
from perpcs_cli.experiments.benchmarks.setup import bench_users
from perpcs_cli.steps.base import StepModel
from perpcs_cli.steps.report import SILENT, Report
from perpcs_cli.steps.workspace import Workspace
from perpcs_cli.tasks.examples import training_prompts

if TYPE_CHECKING:
    from perpcs_cli.artifacts.settings import TrainSettings
    from perpcs_cli.model.engine.batching import Encoded
    from perpcs_cli.model.loading.base import Base

Passes = list[tuple[int, int]]
"""(tokens, answer tokens) of each pass."""


class TrainTimes(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds of training the same LoRAs for the same steps; the best of the repeats, which take turns."""

    together_s: float
    """All side by side."""
    alone_s: float
    """One after the other."""
    limit_s: float
    """The products with the base's matrices alone, forward and backward, in passes as large as those side by side."""
    together_cpu_s: float
    """The same in seconds of the processor, which other programs disturb less."""
    alone_cpu_s: float
    limit_cpu_s: float
    peak_mb: float | None
    """The device's memory at its peak, side by side; None on a processor."""
    sharers: int
    steps: int
    tokens: int
    """Of all sharers and steps."""
    answer_tokens: int
    dtype: str
    device: str


def time_training(
    workspace: Workspace,
    users_file: Path | None = None,
    *,
    sharers: int = 8,
    items: int = 20,
    steps: int = 1,
    repeats: int = 3,
    report: Report = SILENT,
) -> TrainTimes:
    """Time all of them on the histories of the first `sharers` users with `items` items, by the section `train`."""
    import torch

    from perpcs_cli.model.training.order import evenly
    from perpcs_cli.model.training.pass_size import pass_tokens
    from perpcs_cli.model.training.train import check_trained, new_lora, train

    able = [user for user in bench_users(workspace, users_file, count=sharers, items=items) if user.history]
    able = [user for user in able if len(user.history) >= items][:sharers]
    if len(able) < sharers:
        hint = "Give smaller --items or --sharers."
        raise DataError(f"{len(able)} users have {items} history items, not {sharers}", where=users_file, hint=hint)
    model = StepModel(workspace, report)
    base, lora, seed = model.base, workspace.settings.lora, workspace.settings.seed
    settings = msgspec.structs.replace(workspace.settings.train, steps=steps)
    examples = {
        user.user_id: model.encode(training_prompts(workspace.task, user), who=user.user_id)[:items] for user in able
    }
    most = pass_tokens(base)

    def trained(size: int) -> None:
        jobs = [new_lora(base, name, rows, lora, seed) for name, rows in examples.items()]
        for at in range(0, len(jobs), size):
            train(base, jobs[at : at + size], settings, seed=seed, dropout=lora.dropout, tokens=most)
        check_trained(jobs)

    passes: Passes = []
    for rows in _steps(examples, settings, seed):
        for some in evenly(rows, [len(row) - 1 for row in rows], most):
            passes.append((sum(len(row) - 1 for row in some), sum(len(row.answer) for row in some)))
    work: dict[str, Callable[[], None]] = {
        "together": lambda: trained(sharers),
        "alone": lambda: trained(1),
        "limit": lambda: _products(base, passes),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in work}
    peak = None
    with report.progress("measuring", repeats * len(work)) as bar:
        for _ in range(repeats):
            for name, run in work.items():
                if name == "together" and base.device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats(base.device)
                found[name].append(_clocked(base, run))
                if name == "together" and base.device.type == "cuda":
                    peak = torch.cuda.max_memory_allocated(base.device) / 1e6
                bar.advance()
    best = {name: tuple(map(min, zip(*times, strict=True))) for name, times in found.items()}
    return TrainTimes(
        together_s=best["together"][0],
        alone_s=best["alone"][0],
        limit_s=best["limit"][0],
        together_cpu_s=best["together"][1],
        alone_cpu_s=best["alone"][1],
        limit_cpu_s=best["limit"][1],
        peak_mb=peak,
        sharers=sharers,
        steps=steps,
        tokens=sum(tokens for tokens, _ in passes),
        answer_tokens=sum(answers for _, answers in passes),
        dtype=model.describe()["dtype"],
        device=str(base.device),
    )


def _clocked(base: Base, run: Callable[[], None]) -> tuple[float, float]:
    """(seconds, seconds of the processor)."""
    base.wait()
    start, used = time.perf_counter(), time.process_time()
    run()
    base.wait()
    return time.perf_counter() - start, time.process_time() - used


def _steps(examples: Mapping[str, Sequence[Encoded]], settings: TrainSettings, seed: int) -> list[list[Encoded]]:
    """The rows of each pass side by side."""
    from perpcs_cli.model.training.order import draw_steps, side_by_side

    streams = [
        draw_steps(rows, settings, random.Random(hashing.derive_seed(seed, "order", name)))
        for name, rows in examples.items()
    ]
    steps = side_by_side(streams)
    return [[row for rows, _ in some.values() for row in rows] for step in steps for some in step]


def _products(base: Base, passes: Passes) -> None:
    """x Wᵀ and y W with each matrix of the decoder, whose gradient is not asked for, and with that of the logits."""
    import torch

    decoder, head = base.model.get_decoder(), base.model.get_output_embeddings()
    layers = [module.weight for module in decoder.modules() if isinstance(module, torch.nn.Linear)]
    with torch.inference_mode():
        for tokens, answers in passes:
            for rows, weights in ((tokens, layers), (answers, [head.weight])):
                shape = {size: torch.ones(rows, size, device=base.device, dtype=base.dtype) for size in _sizes(weights)}
                for weight in weights:
                    torch.mm(shape[weight.shape[1]], weight.T)
                    torch.mm(shape[weight.shape[0]], weight)


def _sizes(weights: Sequence[object]) -> set[int]:
    return {size for weight in weights for size in weight.shape}  # type: ignore[attr-defined]
