"""`perpcs mia`: what personal models, and the adapters that sharers give, tell about the data they were trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from perpcs_cli.artifacts import store
from perpcs_cli.artifacts.metrics import Resampling
from perpcs_cli.artifacts.mia import (
    Leakage,
    Observation,
    Protocol,
    open_observations,
    partial_path,
    read_leakage,
    roc_path,
    scores_path,
    source,
    write_leakage,
    write_roc,
)
from perpcs_cli.artifacts.pool import check_base
from perpcs_cli.artifacts.provenance import check_same
from perpcs_cli.artifacts.secret import existing_secret
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.context import selected
from perpcs_cli.cli.options import BaseFlags, ForceOption, JsonOption, PoolOption, UserFlags, layer, takes
from perpcs_cli.cli.suspects import Cast, TargetFlags, assemble_cast
from perpcs_cli.errors import DataError, UsageError

if TYPE_CHECKING:
    from perpcs_cli.artifacts.provenance import Provenance
    from perpcs_cli.cli.context import Context
    from perpcs_cli.methods.attacks import Observed
    from perpcs_cli.methods.membership import Item
    from perpcs_cli.model.base import Base
    from perpcs_cli.model.batching import Encoded


@takes(BaseFlags, UserFlags, TargetFlags)
def mia(
    base: BaseFlags,
    who: UserFlags,
    what: TargetFlags,
    pool: PoolOption = None,
    protocol: Annotated[
        Literal["published", "held-out", "both"],
        typer.Option("--protocol", help="Where non-members come from: other users, or the same users' held-out items."),
    ] = "both",
    attacks: Annotated[
        str | None, typer.Option("--attacks", metavar="<names>", help="Only these attacks. [default: all]")
    ] = None,
    references: Annotated[
        int, typer.Option("--references", min=0, help="RMIA's reference sharers for each item; 0: no RMIA.")
    ] = 4,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, help="At most so many trained and held-out items of each user, drawn by seed."),
    ] = None,
    resamples: Annotated[int, typer.Option("--resamples", min=0, help="Bootstrap resamples; 0 for none.")] = 1000,
    batch_tokens: Annotated[
        int | None, typer.Option("--batch-tokens", min=1, help="Tokens per batch. [default: perpcs.toml]")
    ] = None,
    batch_rows: Annotated[
        int | None, typer.Option("--batch-rows", min=1, help="Answers per batch. [default: perpcs.toml]")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the files. [default: the attacked models' names]")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The summary. [default: mia/NAME.json of the workspace]")
    ] = None,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Attack models by membership inference.

    Asks of history items whether a model's sharers were trained on them. The published protocol takes non-members from
    users who are not in the recipe, so it also finds what tells users apart; the held-out one takes them from the same
    users and needs `train-sharer --hold-out`. The targets are those of splits/target.txt by default.
    """
    console = Console(json=json, quiet=base.quiet)
    context = base.open(predict=layer({"batch_tokens": batch_tokens, "batch_rows": batch_rows}))
    settings = context.settings
    protocols: list[Protocol] = ["published", "held-out"] if protocol == "both" else [protocol]

    if out and out.suffix != ".json":
        raise UsageError("the summary's name must end in .json", where="--out")
    if out and name:
        raise UsageError("give one", where="--name and --out")

    from perpcs_cli.cli.attacked import collect_items, find_owners
    from perpcs_cli.methods.membership import drawn, duplicate, rows_to_run

    wanted = _attacks(attacks, references)
    reference_count = references if "rmia" in wanted else 0
    everyone, targets = selected(context, who.users_file, who.user, who.users, "target")
    cast, opened, digests = assemble_cast(context, what, pool, targets)
    owners = find_owners(context, cast.owners, everyone)
    every_item, prompts = collect_items(context.task, owners, existing_secret(context.root))
    chosen = drawn(every_item, limit, settings.seed)
    items = [every_item[index] for index in chosen]
    rows = rows_to_run(cast.suspects, items, protocols, reference_count=reference_count, seed=settings.seed)
    systems = list(dict.fromkeys(suspect.system for suspect in cast.suspects))
    path = out or context.mia / f"{store.check_id(name or '+'.join(systems), 'name', where='--name')}.json"

    from perpcs_cli.cli.running import encode_all, open_base
    from perpcs_cli.methods.attacks import compressed_bytes
    from perpcs_cli.methods.leakage import score_suspect, summarize
    from perpcs_cli.tasks.prompts import digest

    if not rows:
        raise DataError(
            "no model has both members and non-members: " + _reasons(cast, items, protocols),
            hint="Train sharers with --hold-out, or attack recipes that do not use every sharer.",
        )
    model = open_base(context, console)
    if opened:
        check_base(opened, model.fingerprint, settings.model, model.shapes)
    asked: dict[str, Any] = {"systems": systems, "targets": [f"{s.system}/{s.target}" for s in cast.suspects]}
    asked |= {"protocols": protocols, "attacks": wanted, "references": reference_count, "limit": limit}
    asked |= {"resamples": resamples, "batch": [settings.predict.batch_tokens, settings.predict.batch_rows]}
    provenance = context.provenance(
        "mia",
        {**asked, "max_length": settings.max_length, **model.describe()},
        {"examples": digest(prompts[index] for index in chosen), **digests},
        model.fingerprint,
    )
    if not force and path.exists():
        before = read_leakage(path)
        check_same(before.provenance, provenance, where=path)
        console.note("the attacks are done already")
        console.result(before, _table(before))
        return
    encoded = []
    for user_id in cast.owners:
        mine = [prompts[index] for index in chosen if every_item[index].user_id == user_id]
        encoded += encode_all(model, mine, context, console, who=f"user {user_id}")
    seen = _observe(model, cast, encoded, rows, path, provenance, context, console, force=force)
    compressed = [compressed_bytes((prompts[index].answer or "").strip()) for index in chosen]
    scored = [
        row
        for suspect in cast.suspects
        for row in score_suspect(
            suspect,
            items,
            compressed,
            seen,
            protocols=protocols,
            attacks=wanted,
            reference_count=reference_count,
            seed=settings.seed,
        )
    ]
    found, curves = summarize(
        cast.suspects,
        items,
        scored,
        protocols=protocols,
        attacks=wanted,
        resamples=resamples,
        seed=settings.seed,
    )
    store.write_jsonl(scores_path(path), [row for row, _ in scored])
    write_roc(roc_path(path), curves)
    resampling = None
    if resamples:
        resampling = Resampling(unit="users", units=len(cast.owners), resamples=resamples, seed=settings.seed)
    leakage = Leakage(
        task=context.task.name,
        systems=found,
        duplicates=sum(duplicate(suspect, item) for suspect in cast.suspects for item in items),
        scores=source(scores_path(path)),
        roc=source(roc_path(path)),
        resampling=resampling,
        provenance=provenance,
    )
    write_leakage(path, leakage)
    partial_path(path).unlink()
    console.note(f"wrote {path}")
    console.result(leakage, _table(leakage))


def _attacks(names: str | None, references: int) -> list[str]:
    """The attacks that were asked for, in the order of the tables."""
    from perpcs_cli.methods.attacks import NAMES, RMIA

    asked = [name.strip() for name in names.split(",") if name.strip()] if names is not None else list(NAMES)
    if not asked or (odd := sorted(set(asked) - set(NAMES))):
        shown = repr(odd[0]) if asked else "none is named"
        raise UsageError(f"no such attack: {shown}", where="--attacks", hint=f"There are {', '.join(NAMES)}.")
    if not references and names is not None and RMIA in asked:
        raise UsageError("rmia needs reference sharers", where="--references")
    return [name for name in NAMES if name in asked and (references or name != RMIA)]


def _observe(
    model: Base,
    cast: Cast,
    encoded: Sequence[Encoded],
    rows: Sequence[tuple[int, int]],
    path: Path,
    provenance: Provenance,
    context: Context,
    console: Console,
    *,
    force: bool,
) -> dict[tuple[int, int], Observed]:
    """Run each (item, model) once; what a stopped run has found already is not run again."""
    import numpy as np

    from perpcs_cli.methods.attacks import Observed
    from perpcs_cli.model.pieces import Recipes
    from perpcs_cli.model.scoring import Scored, score

    store.check_writable(path)
    if force:
        partial_path(path).unlink(missing_ok=True)
    journal, found = open_observations(partial_path(path), provenance)
    seen = {(one.item, one.model): one for one in found}
    if seen:
        console.note(f"{len(seen)} of {len(rows)} answers are scored already")
    bank = cast.bank(model)
    with console.progress("scoring", len(rows)) as bar:
        bar.advance(len(seen))
        for merge, group in cast.passes(rows):

            def keep(scored: dict[int, Scored], group: list[tuple[int, int]] = group) -> None:
                new = [
                    Observation(
                        item=group[index][0],
                        model=group[index][1],
                        logprobs=one.logprobs,
                        means=one.means,
                        deviations=one.deviations,
                    )
                    for index, one in scored.items()
                    if group[index] not in seen
                ]
                journal.append(new)
                seen.update({(one.item, one.model): one for one in new})
                bar.advance(len(new))

            score(
                model,
                Recipes(bank, cast.models),
                [(encoded[item], number) for item, number in group],
                batch_tokens=context.settings.predict.batch_tokens,
                batch_rows=context.settings.predict.batch_rows,
                merge=merge,
                known={index for index, row in enumerate(group) if row in seen},
                done=keep,
            )
    arrays = ("logprobs", "means", "deviations")
    return {key: Observed(*(np.array(getattr(one, name)) for name in arrays)) for key, one in seen.items()}


def _reasons(cast: Cast, items: Sequence[Item], protocols: Sequence[Protocol]) -> str:
    """Why models are left out, with how many of them."""
    from perpcs_cli.methods.membership import members_of, why_left_out

    found = Counter(
        f"{protocol}: {why_left_out(suspect, members_of(suspect, items, protocol).values(), protocol)}"
        for suspect in cast.suspects
        for protocol in protocols
    )
    return "; ".join(f"{reason} ({count})" for reason, count in found.items())


def _table(leakage: Leakage) -> str:
    """One section for each system and protocol; the strongest attack has a star."""
    from perpcs_cli.cli.tables import Cell, Column, Estimate, Table, render

    columns = [
        Column("model"),
        Column("protocol"),
        Column("attack"),
        Column("AUC"),
        Column("without recipe"),
        Column("TPR at 1 % FPR"),
        Column("at 0.1 %"),
        Column("balanced accuracy"),
        Column("members"),
        Column("non-members"),
        Column("targets"),
    ]
    sections: list[list[list[Cell]]] = []
    notes = []
    for name, system in leakage.systems.items():
        for protocol, found in system.protocols.items():
            notes += [f"{name}, {protocol}: {count} left out, {why}" for why, count in found.left_out.items()]
            rows: list[list[Cell]] = []
            for attack, one in found.attacks.items():
                auc: Cell = Estimate(one.auc, one.interval.low, one.interval.high) if one.interval else one.auc
                star = " *" if attack == found.strongest else ""
                rates = [one.without, one.tpr_at_1, one.tpr_at_01, one.balanced_accuracy]
                counts = [found.members, found.non_members, found.targets]
                rows.append([name, protocol, attack + star, auc, *rates, *counts])
            sections += [rows] if rows else []
    return "\n".join([render(Table(columns, sections), "table").rstrip("\n"), *notes, leakage.caution])
