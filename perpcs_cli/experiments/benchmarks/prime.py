"""The decoding engine on a search's candidates, beside PEFT and a bare prefill."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from perpcs_cli.artifacts.adapter import CARD, WEIGHTS, Adapter, open_adapter
from perpcs_cli.artifacts.io import hashing
from perpcs_cli.artifacts.users import User
from perpcs_cli.errors import DataError
from perpcs_cli.experiments.benchmarks.setup import bench_users, timed
from perpcs_cli.steps.base import StepModel
from perpcs_cli.steps.report import SILENT, Report
from perpcs_cli.steps.workspace import Workspace
from perpcs_cli.tasks.examples import history_prompts
from perpcs_cli.tasks.prompts import Prompt, digest

if TYPE_CHECKING:
    from perpcs_cli.model.engine.batching import Encoded
    from perpcs_cli.model.engine.decoded_rows import Techniques

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
    """Seconds for the same candidates and prompts on one base."""

    base: Literal["plain", "adapted"]
    """Whether the base has a task adapter. One that has none may not know where an answer ends."""
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
    ended: float
    """Share of the answers that end before they are as long as they may be."""
    drafted_tokens: int
    accepted_tokens: int
    """Drafted tokens that were what greedy decoding says."""
    dtype: str
    device: str


def time_search(
    workspace: Workspace,
    users_file: Path | None = None,
    *,
    sharers: Path | None = None,
    candidates: int = 28,
    items: int = 20,
    loras: int = 3,
    without: Collection[str] = (),
    ablate: bool = False,
    with_peft: bool = True,
    report: Report = SILENT,
) -> list[PrimeTimes]:
    """Time all of them on the candidates of a search on one user's history, on the plain and on the adapted base.

    The target is the first user with `items` items; `loras` sharers are those of the directory `sharers`, whose base
    is then the only one, or trained here. The adapted base has the task adapter of the settings, or else one trained
    here on the sharers' users. `without`: techniques that the engine does without; `ablate`: also without each of the
    others.
    """
    target, *others = _users(workspace, users_file, items, loras, need=sharers is None)
    adapter = workspace.settings.task_adapter
    if sharers:
        places = [workspace]
    else:
        plain = _on(workspace, "")
        adapted = _on(workspace, adapter or str(_adapted(StepModel(plain, report, trains=True), others, plain, report)))
        places = [plain, adapted]
    found = []
    for place in places:
        model = StepModel(place, report, trains=sharers is None)
        adapters = _open(sharers, loras) if sharers else _trained(model, others, place, report)
        for one in adapters:
            one.check_fits(model.fingerprint, model.base.shapes)
        prompts = history_prompts(workspace.task, target)[-items:]
        reserve = place.settings.predict.max_new_tokens
        rows = model.encode(prompts, who=f"user {target.user_id}", reserve=reserve)
        mixtures = make_candidates(candidates, loras, place.settings.seed)
        found.append(_time(model, rows, adapters, mixtures, without, report, ablate=ablate, with_peft=with_peft))
    return found


def _time(
    model: StepModel,
    rows: Sequence[Encoded],
    adapters: Sequence[Adapter],
    mixtures: Sequence[Sequence[float]],
    without: Collection[str],
    report: Report,
    *,
    ablate: bool,
    with_peft: bool,
) -> PrimeTimes:
    """Time the engine and what it is measured against on one base."""
    from perpcs_cli.experiments.benchmarks.peft_loop import DecodingComparison
    from perpcs_cli.model.engine.decoded_rows import Techniques
    from perpcs_cli.model.engine.drafts import Drafts

    predict = model.settings.predict
    race = DecodingComparison(model.base, rows, adapters, mixtures, POPULATION, predict)
    # The first passes of a process are slower than the others.
    size = race.prefill_rows()
    used = Techniques(**{name: name not in without for name in TECHNIQUES})
    drafts = Drafts()
    outputs, engine_s = timed(report, "the engine", lambda: race.engine(used, drafts))
    without_s: dict[str, float] = {}
    if ablate:
        for name, variant in _variants(used).items():
            again, without_s[name] = timed(report, f"without {name}", partial(race.engine, variant, Drafts()))
            if again != outputs:
                report.warn(f"without {name}, {1 - _share(outputs, again):.2%} of the answers are others")
    _, prefill_s = timed(report, f"prefill alone, batches of {size}", lambda: race.prefill(size))
    peft_s = identical = None
    if with_peft:
        theirs, peft_s = timed(report, "PEFT", race.peft)
        identical = _share(outputs, theirs)
    return PrimeTimes(
        base="adapted" if model.settings.task_adapter else "plain",
        engine_s=engine_s,
        prefill_s=prefill_s,
        peft_s=peft_s,
        identical=identical,
        without_s=without_s,
        without=list(without),
        candidates=len(mixtures),
        items=len(rows),
        sharers=len(adapters),
        prompt_tokens=sum(len(row.prompt) for row in rows),
        new_tokens=sum(map(len, outputs)),
        ended=sum(len(output) < predict.max_new_tokens for output in outputs) / len(outputs),
        drafted_tokens=drafts.tried,
        accepted_tokens=drafts.right,
        dtype=model.describe()["dtype"],
        device=str(model.base.device),
    )


def _on(workspace: Workspace, task_adapter: str) -> Workspace:
    """The workspace with another task adapter, or without one."""
    return replace(workspace, settings=msgspec.structs.replace(workspace.settings, task_adapter=task_adapter))


def _users(workspace: Workspace, path: Path | None, items: int, sharers: int, *, need: bool) -> list[User]:
    """The target, and where they are needed as many sharers with at least half of its history."""
    everyone = bench_users(workspace, path, count=sharers + 1, items=items)
    target = next((user for user in everyone if len(user.history) >= items), None)
    others = [user for user in everyone if user is not target and 2 * len(user.history) >= items]
    if target is None or (need and len(others) < sharers):
        raise DataError(
            f"there must be a user with {items} history items and {sharers} more with half of that",
            where=path,
            hint="Give smaller --items or --loras, or ready sharers with --sharers.",
        )
    return [target, *others[:sharers]]


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


def _open(directory: Path, count: int) -> list[Adapter]:
    places = sorted(path.parent for path in directory.glob(f"*/{WEIGHTS}"))
    if len(places) < count:
        raise DataError(f"holds {len(places)} sharers, and {count} are needed", where=directory)
    return [open_adapter(place) for place in places[:count]]


def _trained(model: StepModel, users: list[User], workspace: Workspace, report: Report) -> list[Adapter]:
    """Sharers trained for a few steps, kept in the cache for the next time."""
    prompts = {user.user_id: history_prompts(workspace.task, user) for user in users}
    return [open_adapter(place) for place in _train(model, prompts, workspace, report)]


def _adapted(model: StepModel, users: list[User], workspace: Workspace, report: Report) -> Path:
    """A task adapter trained for a few steps on all of some users, kept in the cache for the next time."""
    prompts = [prompt for user in users for prompt in history_prompts(workspace.task, user)]
    (place,) = _train(model, {"task-adapter": prompts}, workspace, report)
    return place


def _train(
    model: StepModel, prompts: Mapping[str, Sequence[Prompt]], workspace: Workspace, report: Report
) -> list[Path]:
    """LoRAs by name, trained for a few steps on their prompts, in the cache."""
    from perpcs_cli.artifacts.caches import cache_directory
    from perpcs_cli.steps.share.failures import Failures
    from perpcs_cli.steps.share.train_loras import LoraWork, train_loras

    settings = msgspec.structs.replace(workspace.settings.train, **TRAINING)
    lora = workspace.settings.lora
    shared = {"train": settings, "lora": lora, "max_length": workspace.settings.max_length}
    inputs = {"prompts": hashing.digest_value({name: digest(some) for name, some in prompts.items()})}
    origin = workspace.provenance("bench", shared, inputs, model.fingerprint)
    directory = cache_directory() / "bench" / hashing.digest_value(origin)[:16]
    places = [directory / name for name in prompts]
    if not all((place / CARD).exists() for place in places):
        report.note(f"training {', '.join(prompts)} for {settings.steps} steps, into {directory}")
        directory.mkdir(parents=True, exist_ok=True)
        rows = [model.encode(some, who=name) for name, some in prompts.items()]
        work = [LoraWork(place.name, place, some, origin) for place, some in zip(places, rows, strict=True)]
        failures = Failures(report)
        train_loras(model.base, work, lora, settings, report, seed=workspace.settings.seed, failures=failures)
        failures.end()
    return places


def _variants(used: Techniques) -> dict[str, Techniques]:
    """The engine without one of the techniques that it uses, and without all."""
    on = [name for name, value in asdict(used).items() if value]
    single = {name: replace(used, **{name: False}) for name in on}
    return {**single, "all": replace(used, **dict.fromkeys(on, False))} if len(on) > 1 else single


def _share(ours: list[list[int]], theirs: list[list[int]]) -> float:
    return sum(map(list.__eq__, ours, theirs)) / len(ours)
