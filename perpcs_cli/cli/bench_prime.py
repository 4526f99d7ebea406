"""`perpcs bench prime`: the decoding engine on a search's candidates, beside PEFT and a bare prefill."""

from __future__ import annotations

import random
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from perpcs_cli.artifacts import store
from perpcs_cli.artifacts.adapter import WEIGHTS, Adapter, open_adapter
from perpcs_cli.artifacts.users import User, read_users
from perpcs_cli.artifacts.workspace import FILE
from perpcs_cli.cli.benching import timed
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.context import Context
from perpcs_cli.cli.options import BaseFlags, JsonOption, layer, takes
from perpcs_cli.errors import DataError, UsageError

if TYPE_CHECKING:
    from perpcs_cli.model.base import Base
    from perpcs_cli.model.decode import Techniques

POPULATION = 7
"""Candidates of a generation: CMA-ES's own number for three weights."""
BOUND = 1.5
SPREAD = 0.5
"""Standard deviation of a generation around its mean: the first one's of a search, and never smaller here."""
STEP = 0.3
"""Standard deviation of what the mean moves from one generation to the next."""
TRAINING = {"steps": 24, "batch_size": 4, "lr": 2e-3, "accumulate": 1}
TECHNIQUES = ("drafts", "prefix", "population")


class PrimeTimes(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds for the same candidates and prompts."""

    engine_s: float
    prefill_s: float
    """One pass over every prompt for every candidate, in the best of some batch sizes, and nothing else."""
    peft_s: float | None
    """PEFT's `add_weighted_adapter` and transformers' `generate`; None with `--skip-peft`."""
    identical: float | None
    """Share of the engine's answers that are PEFT's; None with `--skip-peft`."""
    without_s: dict[str, float]
    """The engine's seconds without one technique, and without all."""
    without: list[str]
    """Techniques that `engine_s` itself does without."""
    candidates: int
    items: int
    sharers: int
    prompt_tokens: int
    """Of one candidate, over all items."""
    new_tokens: int
    """Answered by all candidates together."""
    drafted_tokens: int
    accepted_tokens: int
    """Drafted tokens that were what greedy decoding says."""
    dtype: str
    device: str


@takes(BaseFlags)
def prime(
    base: BaseFlags,
    users_file: Annotated[
        Path | None, typer.Option("--users-file", help="The users. [default: synthetic ones]")
    ] = None,
    sharers: Annotated[
        Path | None, typer.Option("--sharers", help="Use the sharers in this directory. [default: train three]")
    ] = None,
    candidates: Annotated[int, typer.Option("--candidates", min=1, help="Candidates, in generations of 7.")] = 28,
    items: Annotated[int, typer.Option("--items", min=1, help="History items of the target user.")] = 20,
    count: Annotated[int, typer.Option("--count", min=1, help="Sharers that are merged.")] = 3,
    max_new_tokens: Annotated[int | None, typer.Option("--max-new-tokens", min=1, help="Longest answer.")] = None,
    batch_tokens: Annotated[int | None, typer.Option("--batch-tokens", min=1, help="Tokens in memory.")] = None,
    batch_rows: Annotated[int | None, typer.Option("--batch-rows", min=1, help="Rows in memory.")] = None,
    without: Annotated[
        str, typer.Option("--without", help="Switch techniques off: drafts, prefix, population.", metavar="LIST")
    ] = "",
    ablate: Annotated[
        bool, typer.Option("--ablate", help="Time the engine without each technique, too, and without all.")
    ] = False,
    skip_peft: Annotated[bool, typer.Option("--skip-peft", help="Do not run PEFT, which takes long.")] = False,
    json: JsonOption = False,
) -> None:
    """Time decoding against PEFT and a prefill.

    The rows are a PriME search's candidates on one user's history, the same for all, in one run. The target is the
    first user of --users-file with enough history, the sharers the next ones, each trained for a few steps.
    """
    console = Console(json=json, quiet=base.quiet)
    off = [name.strip() for name in without.split(",") if name.strip()]
    if odd := [name for name in off if name not in TECHNIQUES]:
        raise UsageError(
            f"no such technique: {odd[0]!r}", where="--without", hint=f"There are {', '.join(TECHNIQUES)}."
        )
    sizes = {"max_new_tokens": max_new_tokens, "batch_tokens": batch_tokens, "batch_rows": batch_rows}
    if not (base.workspace / FILE).exists():
        base = replace(base, model=base.model or "smollm2-135m", task=base.task or "news_headline")
        # A whole generation at a time, with room to spare.
        sizes["batch_tokens"] = batch_tokens or 32768
        sizes["batch_rows"] = batch_rows or 256
    context = base.open(predict=layer(sizes))
    users = _users(context, users_file, items, count, need=sharers is None)

    from perpcs_cli.cli.running import encode_all, open_base
    from perpcs_cli.model.decode import Techniques
    from perpcs_cli.model.drafts import Drafts
    from perpcs_cli.model.race import Race
    from perpcs_cli.tasks.examples import history_prompts

    model = open_base(context, console)
    target = users[0]
    reserve = context.settings.predict.max_new_tokens
    prompts = history_prompts(context.task, target)[-items:]
    rows = encode_all(model, prompts, context, console, who=f"user {target.user_id}", reserve=reserve)
    adapters = _open(sharers, count) if sharers else _trained(model, users[1:], context, console)
    for adapter in adapters:
        adapter.check_fits(model.fingerprint, model.shapes)
    mixtures = make_candidates(candidates, count, context.settings.seed)
    race = Race(model, rows, adapters, mixtures, POPULATION, context.settings.predict)
    # The first passes of a process are slower than the others.
    size = race.prefill_rows()
    used = Techniques(**{name: name not in off for name in TECHNIQUES})
    drafts = Drafts()
    outputs, engine_s = timed(console, "the engine", lambda: race.engine(used, drafts))
    without_s: dict[str, float] = {}
    if ablate:
        for name, variant in _variants(used).items():
            again, without_s[name] = timed(console, f"without {name}", partial(race.engine, variant, Drafts()))
            if again != outputs:
                console.warn(f"without {name}, {1 - _share(outputs, again):.2%} of the answers are others")
    _, prefill_s = timed(console, f"prefill alone, batches of {size}", lambda: race.prefill(size))
    peft_s = identical = None
    if not skip_peft:
        theirs, peft_s = timed(console, "PEFT", race.peft)
        identical = _share(outputs, theirs)
    times = PrimeTimes(
        engine_s=engine_s,
        prefill_s=prefill_s,
        peft_s=peft_s,
        identical=identical,
        without_s=without_s,
        without=off,
        candidates=candidates,
        items=len(rows),
        sharers=count,
        prompt_tokens=sum(len(row.prompt) for row in rows),
        new_tokens=sum(map(len, outputs)),
        drafted_tokens=drafts.tried,
        accepted_tokens=drafts.right,
        dtype=model.describe()["dtype"],
        device=str(model.device),
    )
    lines = [f"engine {engine_s:.2f} s = {engine_s / prefill_s:.2f} x prefill ({prefill_s:.2f} s)"]
    lines += [f"without {name} {seconds:.2f} s = {seconds / engine_s:.2f} x" for name, seconds in without_s.items()]
    if peft_s is not None and identical is not None:
        lines.append(
            f"PEFT {peft_s:.2f} s = {peft_s / engine_s:.2f} x engine; {identical:.2%} of the answers identical"
        )
    console.result(times, "\n".join(lines))


def make_candidates(number: int, sharers: int, seed: int) -> list[list[float]]:
    """[number, sharers] weights in [-1.5, 1.5], as a search proposes them: generations around a mean that moves."""
    draw = random.Random(f"perpcs bench prime {seed}")
    mean = [0.0] * sharers
    found: list[list[float]] = []
    while len(found) < number:
        for _ in range(min(POPULATION, number - len(found))):
            found.append([max(-BOUND, min(BOUND, draw.gauss(center, SPREAD))) for center in mean])
        mean = [max(-BOUND, min(BOUND, draw.gauss(center, STEP))) for center in mean]
    return found


def _users(context: Context, path: Path | None, items: int, sharers: int, *, need: bool) -> list[User]:
    """The target, and where they are needed as many sharers with at least half of its history."""
    if path:
        everyone = list(read_users(path).values())
    elif context.task.name == "news_headline":
        from perpcs_cli.tasks.synthetic import make_users

        everyone = make_users(sharers + 1, items, 0, context.settings.seed)
    else:
        raise UsageError(
            f"the synthetic users have news headlines, and the task is {context.task.name}",
            hint="Give the task's users with --users-file, or --task news_headline.",
        )
    target = next((user for user in everyone if len(user.history) >= items), None)
    others = [user for user in everyone if user is not target and 2 * len(user.history) >= items]
    if target is None or (need and len(others) < sharers):
        raise DataError(
            f"there must be a user with {items} history items and {sharers} more with half of that",
            where=path,
            hint="Give smaller --items or --count, or ready sharers with --sharers.",
        )
    return [target, *others[:sharers]]


def _open(directory: Path, count: int) -> list[Adapter]:
    places = sorted(path.parent for path in directory.glob(f"*/{WEIGHTS}"))
    if len(places) < count:
        raise DataError(f"holds {len(places)} sharers, and {count} are needed", where=directory)
    return [open_adapter(place) for place in places[:count]]


def _trained(base: Base, users: list[User], context: Context, console: Console) -> list[Adapter]:
    """Sharers trained for a few steps, kept in the cache for the next time."""
    from perpcs_cli.artifacts.adapter import CARD
    from perpcs_cli.cli.running import encode_all
    from perpcs_cli.cli.sharers import train_loras
    from perpcs_cli.model.zoo import cache_directory
    from perpcs_cli.tasks.examples import history_prompts

    settings = msgspec.structs.replace(context.settings.train, **TRAINING)
    shared = {"train": settings, "lora": context.settings.lora, "max_length": context.settings.max_length}
    origin = context.provenance("bench", shared, {"users": store.digest_value(users)}, base.fingerprint)
    directory = cache_directory() / "bench" / store.digest_value(origin)[:16]
    places = [directory / user.user_id for user in users]
    if not all((place / CARD).exists() for place in places):
        console.note(f"training {len(users)} sharers for {settings.steps} steps, into {directory}")
        directory.mkdir(parents=True, exist_ok=True)
        prompts = [encode_all(base, history_prompts(context.task, u), context, console, who=u.user_id) for u in users]
        work = [(place.name, place, rows, origin) for place, rows in zip(places, prompts, strict=True)]
        train_loras(base, work, context.settings.lora, settings, console, seed=context.settings.seed)
    return [open_adapter(place) for place in places]


def _variants(used: Techniques) -> dict[str, Techniques]:
    """The engine without one of the techniques that it uses, and without all."""
    on = [name for name, value in asdict(used).items() if value]
    single = {name: replace(used, **{name: False}) for name in on}
    return {**single, "all": replace(used, **dict.fromkeys(on, False))} if len(on) > 1 else single


def _share(ours: list[list[int]], theirs: list[list[int]]) -> float:
    return sum(map(list.__eq__, ours, theirs)) / len(ours)
