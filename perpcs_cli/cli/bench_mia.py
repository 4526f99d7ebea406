"""`perpcs bench mia`: the scoring engine on many recipes, beside one recipe at a time with merged weights."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from perpcs_cli.artifacts.users import User, read_users
from perpcs_cli.artifacts.workspace import FILE
from perpcs_cli.cli.benching import random_pool, timed
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.context import Context
from perpcs_cli.cli.options import BaseFlags, JsonOption, layer, takes
from perpcs_cli.errors import DataError, UsageError

if TYPE_CHECKING:
    from perpcs_cli.model.batching import Encoded
    from perpcs_cli.model.pieces import Weights
    from perpcs_cli.model.scoring import Scored

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


@takes(BaseFlags)
def mia(
    base: BaseFlags,
    users_file: Annotated[
        Path | None, typer.Option("--users-file", help="The users. [default: synthetic ones]")
    ] = None,
    targets: Annotated[int, typer.Option("--targets", min=1, help="Recipes under attack.")] = 4,
    examples: Annotated[int, typer.Option("--examples", min=1, help="History items that are asked for.")] = 24,
    sharers: Annotated[int, typer.Option("--sharers", min=1, help="Sharers in the pool.")] = 8,
    batch_tokens: Annotated[int | None, typer.Option("--batch-tokens", min=1, help="Tokens in memory.")] = None,
    batch_rows: Annotated[int | None, typer.Option("--batch-rows", min=1, help="Rows in memory.")] = None,
    json: JsonOption = False,
) -> None:
    """Time membership scoring against a loop.

    Both score the same examples under the same recipes and the reference, in one run. The sharers' pieces are random,
    which does not change the time; each recipe uses three of them in each linear layer.
    """
    console = Console(json=json, quiet=base.quiet)
    if not (base.workspace / FILE).exists():
        base = replace(base, model=base.model or "smollm2-135m", task=base.task or "news_headline")
    context = base.open(predict=layer({"batch_tokens": batch_tokens, "batch_rows": batch_rows}))
    settings = context.settings
    users = _users(context, users_file, examples)

    from perpcs_cli.cli.running import encode_all, open_base
    from perpcs_cli.model.pieces import Bank, Recipes
    from perpcs_cli.model.scoring import score
    from perpcs_cli.model.scoring_loop import score_one_by_one
    from perpcs_cli.tasks.examples import history_prompts

    model = open_base(context, console)
    prompts = [prompt for user in users for prompt in history_prompts(context.task, user)][:examples]
    rows = encode_all(model, prompts, context, console, who="the examples")
    tokens, most = settings.predict.batch_tokens, settings.predict.batch_rows
    with tempfile.TemporaryDirectory() as directory:
        pool = random_pool(Path(directory), model, settings.lora.rank, sharers)
        recipes = make_recipes(list(model.targets), targets, sharers, settings.seed)
        router = Recipes(Bank(model, pool.adapter), [{}, *recipes])
        work = [(row, number) for number in range(targets + 1) for row in rows]

        def engine(work: Sequence[tuple[Encoded, int]]) -> dict[int, Scored]:
            return score(model, router, work, batch_tokens=tokens, batch_rows=most)

        def loop(some: Sequence[Weights], *, share: bool) -> tuple[list[list[Scored]], list[list[Scored]]]:
            return score_one_by_one(
                model, pool.adapter, some, rows, batch_tokens=tokens, batch_rows=most, share_reference=share
            )

        # The first passes of a process are slower, and both read pieces from disk.
        engine(work[:: len(rows)])
        score_one_by_one(model, pool.adapter, recipes, rows[:1], batch_tokens=tokens, batch_rows=most)
        found, engine_s = timed(console, "the engine", lambda: engine(work))
        (theirs, references), loop_s = timed(console, "the loop", lambda: loop(recipes, share=False))
        _, shared_s = timed(console, "the loop, reference shared", lambda: loop(recipes, share=True))
    expected = [one for part in [references[0], *theirs] for one in part]
    times = MiaTimes(
        engine_s=engine_s,
        loop_s=loop_s,
        loop_shared_reference_s=shared_s,
        identical=max(_difference(found[index], one) for index, one in enumerate(expected)),
        targets=targets,
        examples=len(rows),
        sharers=sharers,
        tokens=sum(map(len, rows)),
        answer_tokens=sum(len(row.answer) for row in rows),
        batch_tokens=tokens,
        dtype=model.describe()["dtype"],
        device=str(model.device),
    )
    lines = [
        f"engine {engine_s:.2f} s for {targets} targets x {len(rows)} examples",
        f"loop {loop_s:.2f} s = {loop_s / engine_s:.2f} x engine",
        f"loop, reference shared {shared_s:.2f} s = {shared_s / engine_s:.2f} x engine",
        f"largest difference of a log-probability {times.identical:.1e}",
    ]
    console.result(times, "\n".join(lines))


def make_recipes(modules: list[str], count: int, sharers: int, seed: int) -> list[dict[str, list[tuple[int, float]]]]:
    """Recipes of three sharers in each linear layer, drawn for each layer anew, with equal weights."""
    draw = random.Random(f"perpcs bench mia {seed}")
    few = min(CHOSEN, sharers)
    return [
        {module: [(sharer, 1 / few) for sharer in sorted(draw.sample(range(sharers), few))] for module in modules}
        for _ in range(count)
    ]


def _users(context: Context, path: Path | None, examples: int) -> list[User]:
    if path:
        users = [user for user in read_users(path).values() if user.history]
    elif context.task.name == "news_headline":
        from perpcs_cli.tasks.synthetic import make_users

        users = make_users(-(-examples // PER_USER), PER_USER, 0, context.settings.seed)
    else:
        raise UsageError(
            f"the synthetic users have news headlines, and the task is {context.task.name}",
            hint="Give the task's users with --users-file, or --task news_headline.",
        )
    if sum(len(user.history) for user in users) < examples:
        raise DataError(
            f"the users have fewer than {examples} history items", where=path, hint="Give fewer --examples."
        )
    return users


def _difference(ours: Scored, theirs: Scored) -> float:
    return max(abs(x - y) for x, y in zip(ours.logprobs, theirs.logprobs, strict=True))
