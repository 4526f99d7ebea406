"""The scoring engine on many recipes, beside one recipe at a time with merged weights."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from perpcs_cli.errors import DataError, UsageError
from perpcs_cli.experiments.benchmarks.setup import bench_users, random_pool, timed
from perpcs_cli.steps.base import StepModel
from perpcs_cli.steps.report import SILENT, Report
from perpcs_cli.steps.workspace import Workspace
from perpcs_cli.tasks.examples import history_prompts

if TYPE_CHECKING:
    from perpcs_cli.model.engine.batching import Encoded
    from perpcs_cli.model.engine.recipe_router import Weights
    from perpcs_cli.model.engine.scoring import TokenScores

PER_USER = 20
"""History items of a synthetic user."""
CHOSEN = 3
"""Sharers of a recipe in each linear layer, as an assembly chooses them."""


class MiaTimes(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds for the same recipes and examples."""

    engine_s: float
    """Every recipe and the reference, each once, in shared passes."""
    loop_s: float
    """One recipe at a time, merged into the weights, and the reference again for each, as published code does."""
    loop_shared_reference_s: float
    """The same with the reference scored once."""
    identical: float
    """Largest difference of a token's log-probability between the engine and the loop, in nats."""
    targets: int
    examples: int
    sharers: int
    tokens: int
    """Of one recipe, over all examples."""
    answer_tokens: int
    batch_tokens: int
    dtype: str
    device: str


def time_scoring(
    workspace: Workspace,
    users_file: Path | None = None,
    *,
    targets: int = 4,
    examples: int = 24,
    pool_size: int = 8,
    report: Report = SILENT,
) -> MiaTimes:
    """Time both on the same `examples` history items, under `targets` recipes over random pieces and the reference."""
    from perpcs_cli.experiments.benchmarks.merged_weights_loop import score_one_by_one
    from perpcs_cli.model.engine.piece_cache import PieceCache
    from perpcs_cli.model.engine.recipe_router import RecipeRouter
    from perpcs_cli.model.engine.scoring import score

    settings = workspace.settings
    if settings.quantize != "none":
        raise UsageError(
            "the loop writes recipes into the weights, which 4 bits cannot hold",
            where="--quantize",
            hint="Give --quantize none.",
        )
    users = bench_users(workspace, users_file, count=-(-examples // PER_USER), items=PER_USER)
    if sum(len(user.history) for user in users) < examples:
        raise DataError(
            f"the users have fewer than {examples} history items", where=users_file, hint="Give fewer --examples."
        )
    model = StepModel(workspace, report)
    prompts = [prompt for user in users if user.history for prompt in history_prompts(workspace.task, user)]
    rows = model.encode(prompts[:examples], who="the examples")
    base = model.base
    tokens, most = settings.predict.batch_tokens, settings.predict.batch_rows
    with tempfile.TemporaryDirectory() as directory:
        pool = random_pool(Path(directory), base, settings.lora.rank, pool_size)
        recipes = make_recipes(list(base.targets), targets, pool_size, settings.seed)
        router = RecipeRouter(PieceCache(base, pool.adapter), [{}, *recipes])
        work = [(row, number) for number in range(targets + 1) for row in rows]

        def engine(work: Sequence[tuple[Encoded, int]]) -> dict[int, TokenScores]:
            return score(base, router, work, batch_tokens=tokens, batch_rows=most)

        def loop(some: Sequence[Weights], *, share: bool) -> tuple[list[list[TokenScores]], list[list[TokenScores]]]:
            return score_one_by_one(
                base, pool.adapter, some, rows, batch_tokens=tokens, batch_rows=most, share_reference=share
            )

        # The first passes of a process are slower, and both read pieces from disk.
        engine(work[:: len(rows)])
        score_one_by_one(base, pool.adapter, recipes, rows[:1], batch_tokens=tokens, batch_rows=most)
        found, engine_s = timed(report, "the engine", lambda: engine(work))
        (theirs, references), loop_s = timed(report, "the loop", lambda: loop(recipes, share=False))
        _, shared_s = timed(report, "the loop, reference shared", lambda: loop(recipes, share=True))
    expected = [one for part in [references[0], *theirs] for one in part]
    return MiaTimes(
        engine_s=engine_s,
        loop_s=loop_s,
        loop_shared_reference_s=shared_s,
        identical=max(_difference(found[index], one) for index, one in enumerate(expected)),
        targets=targets,
        examples=len(rows),
        sharers=pool_size,
        tokens=sum(map(len, rows)),
        answer_tokens=sum(len(row.answer) for row in rows),
        batch_tokens=tokens,
        dtype=model.describe()["dtype"],
        device=str(base.device),
    )


def make_recipes(modules: list[str], count: int, sharers: int, seed: int) -> list[dict[str, list[tuple[int, float]]]]:
    """Recipes of three sharers in each linear layer, drawn for each layer anew, with equal weights."""
    draw = random.Random(f"perpcs bench mia {seed}")
    few = min(CHOSEN, sharers)
    return [
        {module: [(sharer, 1 / few) for sharer in sorted(draw.sample(range(sharers), few))] for module in modules}
        for _ in range(count)
    ]


def _difference(ours: TokenScores, theirs: TokenScores) -> float:
    return max(abs(x - y) for x, y in zip(ours.logprobs, theirs.logprobs, strict=True))
