"""Answer the users' queries with the base, recipes, a sharer or any PEFT adapter."""

from __future__ import annotations

from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from perpcs_cli.artifacts.io import atomic, hashing
from perpcs_cli.artifacts.io.journal import Header, LongJournal, each_of_journal, open_long_journal, partial_path
from perpcs_cli.artifacts.io.provenance import Provenance, check_same
from perpcs_cli.artifacts.io.safe_paths import check_name
from perpcs_cli.artifacts.pool import open_pool
from perpcs_cli.artifacts.predictions import (
    Prediction,
    PredictionsInfo,
    each_prediction,
    info_path,
    read_info,
    write_info,
    write_predictions,
)
from perpcs_cli.errors import DataError, UsageError
from perpcs_cli.steps.answers import answer
from perpcs_cli.steps.base import StepModel
from perpcs_cli.steps.evaluate.queries import BLOCK, Queries
from perpcs_cli.steps.job import Outcome, Output, run_one
from perpcs_cli.steps.models_to_run import (
    ModelsToRun,
    base_alone,
    recipes_name,
    recipes_over,
    single_adapters,
)
from perpcs_cli.steps.report import SILENT, Report
from perpcs_cli.steps.shards import end_journals, journal_of, rows_of_shards
from perpcs_cli.steps.workspace import EVERYONE, Who, Workspace
from perpcs_cli.tasks.prompts import PLAIN, Shown, digest

if TYPE_CHECKING:
    from perpcs_cli.model.engine.batching import Encoded

UNITS = 16
"""How many times the rows of a batch make a block, at least."""
FORMAT = str(PredictionsInfo.__struct_config__.tag)


def predict(
    workspace: Workspace,
    who: Who = EVERYONE,
    *,
    base: bool = False,
    recipes: Path | None = None,
    sharer: str | None = None,
    adapter: Path | None = None,
    own: Path | None = None,
    swap: bool = False,
    shown: Shown = PLAIN,
    pool: Path | None = None,
    name: str | None = None,
    out: Path | None = None,
    force: bool = False,
    dry_run: bool = False,
    report: Report = SILENT,
) -> Outcome[PredictionsInfo]:
    """Answer the target users' queries with one model, by the section `predict` of the settings.

    The model is the base, each user's recipe from the directory `recipes` (or one file for all), one sharer, one
    adapter, or each user's `own` adapter; by default the workspace's recipes. With `swap` each user gets another's, as
    a control. Answers are greedy, or drawn at `predict.temperature` by seed, user and query. A run that was stopped
    goes on from `NAME.partial.jsonl`; a shard keeps its answers in such a file of its own, and the step without one
    takes them over. Raises UsageError for two models.
    """
    given = {"--base": base or None, "--recipes": recipes, "--sharer": sharer, "--adapter": adapter, "--own": own}
    chosen = [flag for flag, value in given.items() if value is not None]
    if len(chosen) > 1:
        raise UsageError("choose one model", where=" and ".join(chosen))
    settings = workspace.settings
    everyone = Queries(workspace, who, shown)
    queries = everyone.ids()
    users = list(queries)
    if not users:
        raise DataError("the users have no queries to answer", where=who.path(workspace))
    if base:
        kind, models = "base", base_alone(users)
    elif chosen and recipes is None:
        shared = adapter if sharer is None else workspace.sharers / check_name(sharer, "--sharer")
        kind, models = (shared or own or Path()).resolve().name, single_adapters(shared, own, users)
    else:
        place = recipes or workspace.recipes
        kind, models = recipes_name(place), recipes_over(place, open_pool(pool or workspace.pool), users)
    if swap:
        kind, models = f"{kind}-swapped", models.swapped()
    path = out or workspace.predictions / f"{check_name(name or kind, '--name')}.jsonl"
    model = StepModel(workspace, report)
    models.check_base(model)
    changes = {"predict": settings.predict, "prompts": shown, "max_length": settings.max_length}
    provenance = workspace.provenance(
        "predict",
        {**changes, "merge": models.merge, **({"swap": True} if swap else {}), **model.describe()},
        {"prompts": digest(prompt for _, some in everyone.prompts() for prompt in some), **models.digests},
        model.fingerprint,
    )

    header = Header(of=FORMAT, provenance=provenance)
    kept, mine = journal_of(path, who.shard), who.mine(users)

    def told(answers: Path, count: int) -> PredictionsInfo:
        return PredictionsInfo(
            task=workspace.task.name,
            model_label=name or path.stem,
            count=count,
            sha256=hashing.digest_file(answers),
            provenance=provenance,
        )

    def make() -> PredictionsInfo:
        atomic.check_writable(path)
        journal = open_long_journal(kept, header, Prediction, _key, force=force)
        if not who.shard:
            others = rows_of_shards(path, header, Prediction, force=force)
            fresh = (row for row in others if _key(row) not in journal.places)
            while some := list(islice(fresh, BLOCK)):
                journal.add(some)
        _answer(models, model, everyone, {user: queries[user] for user in mine}, journal, report)
        if who.shard:
            return told(kept, len(journal.places))
        write_predictions(path, journal.rows((user, query) for user, some in queries.items() for query in some))
        info = told(path, len(journal.places))
        write_info(path, info)
        end_journals(path)
        return info

    def shard_finished() -> PredictionsInfo | None:
        if whole := _finished(path, provenance):
            return whole
        if not kept.exists():
            return None
        begun, rows = each_of_journal(kept, Header, Prediction)
        check_same(begun.provenance, provenance, where=kept)
        count = sum(1 for _ in rows)
        return told(kept, count) if count == sum(len(queries[user]) for user in mine) else None

    if who.shard:
        output = Output(path.stem, kept, shard_finished)
    else:
        output = Output(path.stem, path, lambda: _finished(path, provenance), partial(end_journals, path))
    outcome = run_one(output, make, place=path, shard=who.shard, force=force, dry_run=dry_run, report=report)
    if dry_run and outcome.state == "to do":
        for user_id, some in everyone.prompts():
            model.encode(some, who=f"user {user_id}", reserve=settings.predict.max_new_tokens)
    return outcome


def _finished(path: Path, provenance: Provenance) -> PredictionsInfo | None:
    """What tells of these very predictions at `path`. Raises where there are others, or something else."""
    if not path.exists():
        return None
    stopped = path.is_file() and partial_path(path).exists()
    if not path.is_file() or not info_path(path).exists():
        if stopped:
            return None
        raise UsageError("already exists", where=path, hint="Use --force to replace it, or --name for another.")
    try:
        info = read_info(path, sum(1 for _ in each_prediction(path)))
    except DataError:
        # Stopped between the answers and their sidecar: the last step is done again.
        if stopped:
            return None
        raise
    if info:
        check_same(info.provenance, provenance, where=path)
    return info


def _key(row: Prediction) -> tuple[str, str]:
    return row.user_id, row.id


def _answer(
    models: ModelsToRun,
    model: StepModel,
    everyone: Queries,
    queries: dict[str, list[str]],
    journal: LongJournal[tuple[str, str], Prediction],
    report: Report,
) -> None:
    """Answer those of `queries`, ids by user, that the journal does not hold yet, into the journal.

    As many users at a time as have a block of queries: what is computed for one does not depend on the others'.
    """
    from perpcs_cli.model.engine.piece_cache import PieceCache
    from perpcs_cli.model.engine.recipe_router import RecipeRouter
    from perpcs_cli.model.engine.sampling import sampling_of

    settings = model.settings.predict
    asked = {(user, query) for user, some in queries.items() for query in some}
    if strangers := sorted(journal.places.keys() - asked):
        raise DataError(
            f"answers {strangers[0][1]!r} of {strangers[0][0]!r}, which was not asked",
            where=journal.path,
            hint="Use --force to begin again.",
        )
    done, total = len(journal.places), len(asked)
    if done:
        report.note(f"{done} of {total} queries are answered already")
    if done == total:
        # A shard, or all of them, have answered.
        return
    models.check_layers(model)
    pieces = PieceCache(model.base, lambda index: models.adapters[index])
    blocks = _blocks(queries, max(BLOCK, UNITS * settings.batch_rows))
    left = [
        block
        for block in blocks
        if any((user, query) not in journal.places for user in block for query in queries[user])
    ]
    asking = everyone.prompts({user for block in left for user in block})
    with report.progress("predicting", total) as bar:
        bar.advance(total - sum(len(queries[user]) for block in left for user in block))
        for block in left:
            rows: list[tuple[Encoded, int]] = []
            owners: list[str] = []
            for user, prompts in islice(asking, len(block)):
                encoded = model.encode(prompts, who=f"user {user}", reserve=settings.max_new_tokens)
                rows += [(row, models.users[user]) for row in encoded]
                owners += [user] * len(encoded)
            keys = [(owner, row.key) for owner, (row, _) in zip(owners, rows, strict=True)]
            answer(
                model,
                RecipeRouter(pieces, models.recipes),
                rows,
                journal.add,
                partial(_prediction, keys),
                bar,
                max_new_tokens=settings.max_new_tokens,
                sampling=sampling_of(settings, model.settings.seed),
                known={place for place, key in enumerate(keys) if key in journal.places},
                merge=models.merge,
            )


def _prediction(keys: list[tuple[str, str]], place: int, text: str) -> Prediction:
    user, query = keys[place]
    return Prediction(user_id=user, id=query, output=text)


def _blocks(queries: dict[str, list[str]], size: int) -> list[list[str]]:
    """The users, in their order, in blocks of at least `size` queries."""
    blocks: list[list[str]] = [[]]
    count = 0
    for user, some in queries.items():
        if count >= size:
            blocks.append([])
            count = 0
        blocks[-1].append(user)
        count += len(some)
    return blocks
