"""Answer the users' queries with the base, recipes, a sharer or any PEFT adapter."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from perpcs_cli.artifacts.io import atomic, hashing
from perpcs_cli.artifacts.io.journal import Header, Journal, open_journal, partial_path, read_journal
from perpcs_cli.artifacts.io.provenance import Provenance, check_same
from perpcs_cli.artifacts.io.safe_paths import check_name
from perpcs_cli.artifacts.pool import open_pool
from perpcs_cli.artifacts.predictions import (
    Prediction,
    PredictionsInfo,
    info_path,
    read_info,
    read_predictions,
    write_info,
    write_predictions,
)
from perpcs_cli.artifacts.users import User
from perpcs_cli.errors import DataError, UsageError
from perpcs_cli.steps.answers import answer
from perpcs_cli.steps.base import StepModel
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
from perpcs_cli.tasks.examples import query_prompts
from perpcs_cli.tasks.prompts import PLAIN, Shown, digest

if TYPE_CHECKING:
    from perpcs_cli.model.engine.batching import Encoded
    from perpcs_cli.tasks.prompts import Prompt

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
    users = [user for user in who.select(workspace, "target") if user.queries]
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
    # A known answer must not shape its own prompt: neither how much is cut nor the tokens where they meet.
    prompts = {
        user.user_id: [
            replace(prompt, answer=None) for prompt in query_prompts(workspace.task, user, shown, seed=settings.seed)
        ]
        for user in users
    }
    model = StepModel(workspace, report)
    models.check_base(model)
    changes = {"predict": settings.predict, "prompts": shown, "max_length": settings.max_length}
    provenance = workspace.provenance(
        "predict",
        {**changes, "merge": models.merge, **({"swap": True} if swap else {}), **model.describe()},
        {"prompts": digest(prompt for some in prompts.values() for prompt in some), **models.digests},
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
        journal = open_journal(kept, header, Prediction, force=force)
        if not who.shard:
            have = {(row.user_id, row.id) for row in journal.rows}
            others = rows_of_shards(path, header, Prediction, force=force)
            journal.add(list({k: row for row in others if (k := (row.user_id, row.id)) not in have}.values()))
        _answer(models, model, mine, prompts, journal, report)
        if who.shard:
            return told(kept, len(journal.rows))
        order = {(u.user_id, q.id): n for n, (u, q) in enumerate((u, q) for u in users for q in u.queries)}
        answers = sorted(journal.rows, key=lambda row: order[row.user_id, row.id])
        write_predictions(path, answers)
        info = told(path, len(answers))
        write_info(path, info)
        end_journals(path)
        return info

    def shard_finished() -> PredictionsInfo | None:
        if whole := _finished(path, provenance):
            return whole
        if not kept.exists():
            return None
        begun, rows = read_journal(kept, Header, Prediction)
        check_same(begun.provenance, provenance, where=kept)
        return told(kept, len(rows)) if len(rows) == sum(len(user.queries) for user in mine) else None

    if who.shard:
        output = Output(path.stem, kept, shard_finished)
    else:
        output = Output(path.stem, path, lambda: _finished(path, provenance), partial(end_journals, path))
    outcome = run_one(output, make, place=path, shard=who.shard, force=force, dry_run=dry_run, report=report)
    if dry_run and outcome.state == "to do":
        for user_id, some in prompts.items():
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
        info = read_info(path, read_predictions(path))
    except DataError:
        # Stopped between the answers and their sidecar: the last step is done again.
        if stopped:
            return None
        raise
    if info:
        check_same(info.provenance, provenance, where=path)
    return info


def _answer(
    models: ModelsToRun,
    model: StepModel,
    users: list[User],
    prompts: dict[str, list[Prompt]],
    journal: Journal[Prediction],
    report: Report,
) -> None:
    """Answer what the journal does not hold yet, into the journal."""
    from perpcs_cli.model.engine.piece_cache import PieceCache
    from perpcs_cli.model.engine.recipe_router import RecipeRouter
    from perpcs_cli.model.engine.sampling import sampling_of

    settings = model.settings.predict
    done = {(row.user_id, row.id) for row in journal.rows}
    asked = {(user.user_id, prompt.key) for user in users for prompt in prompts[user.user_id]}
    if strangers := sorted(done - asked):
        raise DataError(
            f"answers {strangers[0][1]!r} of {strangers[0][0]!r}, which was not asked",
            where=journal.path,
            hint="Use --force to begin again.",
        )
    if done == asked:
        # A shard, or all of them, have answered.
        report.note(f"{len(done)} of {len(asked)} queries are answered already")
        return
    models.check_layers(model)
    rows: list[tuple[Encoded, int]] = []
    owners: list[str] = []
    for user in users:
        encoded = model.encode(prompts[user.user_id], who=f"user {user.user_id}", reserve=settings.max_new_tokens)
        rows += [(row, models.users[user.user_id]) for row in encoded]
        owners += [user.user_id] * len(encoded)
    known = {
        place for place, (owner, (row, _)) in enumerate(zip(owners, rows, strict=True)) if (owner, row.key) in done
    }
    if known:
        report.note(f"{len(known)} of {len(rows)} queries are answered already")
    answer(
        model,
        RecipeRouter(PieceCache(model.base, lambda index: models.adapters[index]), models.recipes),
        rows,
        journal,
        lambda place, text: Prediction(user_id=owners[place], id=rows[place][0].key, output=text),
        report,
        label="predicting",
        max_new_tokens=settings.max_new_tokens,
        sampling=sampling_of(settings, model.settings.seed),
        known=known,
        merge=models.merge,
    )
