"""What personal models, and the adapters that sharers give, tell about the data they were trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perpcs_cli.artifacts.io import atomic, typed_files
from perpcs_cli.artifacts.io.journal import Header, open_journal, read_journal
from perpcs_cli.artifacts.io.provenance import check_same
from perpcs_cli.artifacts.io.safe_paths import check_name
from perpcs_cli.artifacts.metrics import Resampling
from perpcs_cli.artifacts.mia import (
    Leakage,
    Observation,
    Protocol,
    read_leakage,
    roc_path,
    scores_path,
    source,
    write_leakage,
    write_roc,
)
from perpcs_cli.artifacts.pool import check_base, check_layers
from perpcs_cli.artifacts.pools.secret import existing_secret
from perpcs_cli.artifacts.users import UserFile
from perpcs_cli.errors import DataError, UsageError
from perpcs_cli.steps.base import StepModel
from perpcs_cli.steps.evaluate.attack_targets import Attacked, AttackedModels, find_models
from perpcs_cli.steps.evaluate.membership_items import collect_items, find_owners
from perpcs_cli.steps.job import Outcome, Output, made_from, run_one
from perpcs_cli.steps.report import SILENT, Report
from perpcs_cli.steps.shards import end_journals, journal_of, rows_of_shards
from perpcs_cli.steps.workspace import EVERYONE, Who, Workspace
from perpcs_cli.tasks.prompts import digest

if TYPE_CHECKING:
    from perpcs_cli.methods.membership.protocols import Item
    from perpcs_cli.model.engine.batching import Encoded
    from perpcs_cli.tasks.prompts import Prompt

FORMAT = str(Leakage.__struct_config__.tag)
PROTOCOLS: tuple[Protocol, ...] = ("published", "held-out")


def mia(
    workspace: Workspace,
    what: Attacked | None = None,
    who: Who = EVERYONE,
    *,
    pool: Path | None = None,
    protocols: Sequence[Protocol] = PROTOCOLS,
    attacks: Sequence[str] | None = None,
    references: int = 4,
    max_items: int | None = None,
    resamples: int = 1000,
    name: str | None = None,
    out: Path | None = None,
    force: bool = False,
    dry_run: bool = False,
    report: Report = SILENT,
) -> Outcome[Leakage | int]:
    """Attack models by membership inference: the recipes of the target users, or as `what` says.

    `protocols`: where non-members come from; `attacks`: which, by name, or all; `references`: RMIA's reference sharers
    for each item; `max_items`: at most so many trained and held-out items of each user, drawn by seed. Which items, in
    which prompts, is said by the section `mia` of the settings. Writes `NAME.json` (or `out`), and beside it each
    item's scores and the ROC curves. A shard only scores its part of all batches, and its outcome has their number: the
    step without one takes the scores of all shards over.
    """
    import numpy as np

    from perpcs_cli.methods.membership.attacks import Observed, compressed_bytes
    from perpcs_cli.methods.membership.auc_summary import score_suspect, summarize
    from perpcs_cli.methods.membership.protocols import drawn, duplicate, rows_to_run

    if out and out.suffix != ".json":
        raise UsageError("the summary's name must end in .json", where="--out")
    if out and name:
        raise UsageError("give one", where="--name and --out")
    settings = workspace.settings
    wanted = _attacks(attacks, references)
    count = references if "rmia" in wanted else 0
    users = UserFile(who.path(workspace))
    targets = [user.user_id for user in who.each(workspace, users, "target")]
    models, opened, digests = find_models(workspace, what or Attacked(), pool, targets)
    owners = find_owners(workspace, models.owners, users)
    for user_id, owner in owners.items():
        if owner.adapter.card and owner.adapter.card.adopted:
            report.warn(
                f"{user_id}: was adopted; nothing says what it was trained on, and the whole history is taken for it"
            )
    every_item, prompts = collect_items(workspace.task, owners, settings.mia, existing_secret(workspace.root))
    chosen = drawn(every_item, max_items, settings.seed)
    items = [every_item[index] for index in chosen]
    rows = rows_to_run(models.suspects, items, protocols, reference_count=count, seed=settings.seed)
    systems = list(dict.fromkeys(suspect.system for suspect in models.suspects))
    path = out or workspace.mia / f"{check_name(name or '+'.join(systems), '--name')}.json"
    if not rows:
        raise DataError(
            "no model has both members and non-members: " + _reasons(models, items, protocols),
            hint="Train sharers with --hold-out, or attack recipes that do not use every sharer.",
        )
    model = StepModel(workspace, report)
    if opened:
        check_base(opened, model.fingerprint, settings.model)
    asked: dict[str, Any] = {"systems": systems, "targets": [f"{s.system}/{s.target}" for s in models.suspects]}
    asked |= {"protocols": protocols, "attacks": wanted, "references": count, "max_items": max_items}
    asked |= {"mia": settings.mia}
    asked |= {"resamples": resamples, "batch": [settings.predict.batch_tokens, settings.predict.batch_rows]}
    provenance = workspace.provenance(
        "mia",
        {**asked, "max_length": settings.max_length, **model.describe()},
        {"examples": digest(prompts[index] for index in chosen), **digests},
        model.fingerprint,
    )

    header = Header(of=FORMAT, provenance=provenance)
    kept = journal_of(path, who.shard)

    @cache
    def encoded() -> list[Encoded]:
        mine: dict[str, list[Prompt]] = {user_id: [] for user_id in models.owners}
        for index in chosen:
            mine[every_item[index].user_id].append(prompts[index])
        return [row for user_id, some in mine.items() for row in model.encode(some, who=f"user {user_id}")]

    def wanted_rows() -> set[tuple[int, int]]:
        """The shard's, in whole batches, so that it scores what the step without shards would."""
        batches = list(_batches(model, models, encoded(), rows))
        return {row for batch in who.mine(batches) for row in batch}

    def observe() -> dict[tuple[int, int], Observation]:
        atomic.check_writable(path)
        journal = open_journal(kept, header, Observation, force=force)
        seen = {(one.item, one.model): one for one in journal.rows}
        if not who.shard:
            others = {(one.item, one.model): one for one in rows_of_shards(path, header, Observation, force=force)}
            journal.add([one for row, one in others.items() if row not in seen])
            seen |= others
        asked = wanted_rows() if who.shard else set(rows)
        if done := len(seen.keys() & asked):
            report.note(f"{done} of {len(asked)} answers are scored already")
        if left := asked - seen.keys():
            if opened:
                check_layers(opened, model.base.shapes)
            _observe(model, models, encoded(), rows, left, journal.add, report)
        return {(one.item, one.model): one for one in journal.rows}

    def score_shard() -> int:
        return len(observe())

    def shard_finished() -> Leakage | int | None:
        if whole := made_from(provenance, path, read_leakage)():
            return whole
        if not kept.exists():
            return None
        begun, seen = read_journal(kept, Header, Observation)
        check_same(begun.provenance, provenance, where=kept)
        return len(seen) if wanted_rows() <= {(one.item, one.model) for one in seen} else None

    def make() -> Leakage:
        arrays = ("logprobs", "means", "deviations")
        seen = {row: Observed(*(np.array(getattr(one, name)) for name in arrays)) for row, one in observe().items()}
        compressed = [compressed_bytes((prompts[index].answer or "").strip()) for index in chosen]
        shared: dict[str, Any] = {"protocols": protocols, "attacks": wanted, "seed": settings.seed}
        scored = [
            row
            for suspect in models.suspects
            for row in score_suspect(suspect, items, compressed, seen, reference_count=count, **shared)
        ]
        found, curves = summarize(models.suspects, items, scored, resamples=resamples, **shared)
        typed_files.write_jsonl(scores_path(path), [row for row, _ in scored])
        write_roc(roc_path(path), curves)
        resampling = None
        if resamples:
            resampling = Resampling(unit="users", units=len(models.owners), resamples=resamples, seed=settings.seed)
        leakage = Leakage(
            task=workspace.task.name,
            systems=found,
            duplicates=sum(
                duplicate(suspect, item) for suspect in models.suspects for item in items if not item.context
            ),
            scores=source(scores_path(path)),
            roc=source(roc_path(path)),
            resampling=resampling,
            provenance=provenance,
        )
        write_leakage(path, leakage)
        end_journals(path)
        return leakage

    output: Output[Leakage | int]
    if who.shard:
        output = Output(path.stem, kept, shard_finished)
    else:
        output = Output(path.stem, path, made_from(provenance, path, read_leakage), partial(end_journals, path))
    act: Callable[[], Leakage | int] = score_shard if who.shard else make
    outcome = run_one(output, act, place=path, shard=who.shard, force=force, dry_run=dry_run, report=report)
    if dry_run and outcome.state == "to do":
        encoded()
    return outcome


def _attacks(names: Sequence[str] | None, references: int) -> list[str]:
    """The attacks that were asked for, in the order of the tables."""
    from perpcs_cli.methods.membership.attacks import NAMES, RMIA

    asked = list(NAMES) if names is None else list(names)
    if not asked or (odd := sorted(set(asked) - set(NAMES))):
        shown = repr(odd[0]) if asked else "none is named"
        raise UsageError(f"no such attack: {shown}", where="--attacks", hint=f"There are {', '.join(NAMES)}.")
    if not references and names is not None and RMIA in asked:
        raise UsageError("rmia needs reference sharers", where="--references")
    return [name for name in NAMES if name in asked and (references or name != RMIA)]


def _batches(
    model: StepModel, models: AttackedModels, encoded: Sequence[Encoded], rows: Sequence[tuple[int, int]]
) -> Iterator[list[tuple[int, int]]]:
    """The batches in which (item, model) pairs are scored."""
    from perpcs_cli.model.engine.scoring import plan

    settings = model.settings.predict
    for _, group in models.passes(rows):
        lines = [(encoded[item], number) for item, number in group]
        batches = plan(lines, settings.batch_tokens, settings.batch_rows, len(model.reader.tokenizer))
        yield from ([group[index] for index in batch] for batch in batches)


def _observe(
    model: StepModel,
    models: AttackedModels,
    encoded: Sequence[Encoded],
    rows: Sequence[tuple[int, int]],
    left: set[tuple[int, int]],
    add: Callable[[list[Observation]], object],
    report: Report,
) -> None:
    """Run each (item, model) that is `left` once, in the batches of all; `add` is called after each batch."""
    from perpcs_cli.model.engine.recipe_router import RecipeRouter
    from perpcs_cli.model.engine.scoring import TokenScores, score

    settings = model.settings.predict
    pieces = models.pieces(model.base)
    with report.progress("scoring", len(left)) as bar:
        for merge, group in models.passes(rows):

            def keep(scored: dict[int, TokenScores], group: list[tuple[int, int]] = group) -> None:
                new = [
                    Observation(
                        item=group[index][0],
                        model=group[index][1],
                        logprobs=one.logprobs,
                        means=one.means,
                        deviations=one.deviations,
                    )
                    for index, one in scored.items()
                    if group[index] in left
                ]
                add(new)
                bar.advance(len(new))

            score(
                model.base,
                RecipeRouter(pieces, models.models),
                [(encoded[item], number) for item, number in group],
                batch_tokens=settings.batch_tokens,
                batch_rows=settings.batch_rows,
                merge=merge,
                known={index for index, row in enumerate(group) if row not in left},
                done=keep,
            )


def _reasons(models: AttackedModels, items: Sequence[Item], protocols: Sequence[Protocol]) -> str:
    """Why models are left out, with how many of them."""
    from perpcs_cli.methods.membership.protocols import members_of, why_left_out

    found = Counter(
        f"{protocol}: {why_left_out(suspect, members_of(suspect, items, protocol).values(), protocol)}"
        for suspect in models.suspects
        for protocol in protocols
    )
    return "; ".join(f"{reason} ({count})" for reason, count in found.items())
