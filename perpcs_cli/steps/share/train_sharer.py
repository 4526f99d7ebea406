"""Train a LoRA for each user, on the user's own history. On target users it is the OPPU baseline."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from perpcs_cli.artifacts.adapter import Card
from perpcs_cli.artifacts.io.provenance import Provenance
from perpcs_cli.artifacts.pools.removal import check_removable
from perpcs_cli.artifacts.users import User, held_out, newest
from perpcs_cli.steps.base import StepModel
from perpcs_cli.steps.job import Outcome, Output, made_from, run
from perpcs_cli.steps.report import SILENT, Report
from perpcs_cli.steps.share.failures import Failures
from perpcs_cli.steps.share.privacy import Budget, note_losses
from perpcs_cli.steps.share.train_loras import LoraWork, read_trained, side_by_side, train_loras, trained_together
from perpcs_cli.steps.workspace import EVERYONE, Who, Workspace
from perpcs_cli.tasks.examples import training_prompts
from perpcs_cli.tasks.prompts import PUBLISHED, Shown, digest


def train_sharer(
    workspace: Workspace,
    who: Who = EVERYONE,
    *,
    shown: Shown = PUBLISHED,
    recent: int | None = None,
    hold_out: float = 0.0,
    together: int | None = None,
    budget: Budget | None = None,
    out: Path | None = None,
    force: bool = False,
    dry_run: bool = False,
    report: Report = SILENT,
) -> list[Outcome[Card]]:
    """Train a LoRA for each user into OUT/USER, in PEFT's layout, by the sections `train` and `lora` of the settings.

    The users are those of splits/sharer.txt by default, or of splits/candidate.txt. `shown`: what examples show of the
    history; `recent`: only so many newest items; `hold_out`: the share of them that training never sees; `together`:
    users trained side by side, 8 or, with a budget, one; `budget`: with differential privacy.
    """
    together = trained_together(together, private=budget is not None)
    if budget:
        budget.check(shown, together)
        budget = replace(budget, dry_run=dry_run)
    settings = workspace.settings
    # Whole groups, so that each user shares batches with whom it would without shards.
    users = who.mine(who.select(workspace, "sharer", "candidate"), together)
    directory = out or workspace.sharers
    if hold_out and shown.profile is not False and any(user.profile for user in users):
        report.warn(
            "profiles were written from whole histories: what is held out may show in them; --plain leaves them out"
        )
    prompts = {}
    for user in users:
        trained, _ = held_out(newest(user, recent), hold_out, settings.seed)
        prompts[user.user_id] = training_prompts(workspace.task, trained, shown, seed=settings.seed)
    model = StepModel(workspace, report, trains=True)
    shared: dict[str, Any] = {"train": settings.train, "lora": settings.lora, "recent": recent, "hold_out": hold_out}
    shared |= {"prompts": shown, "together": together, "max_length": settings.max_length, **model.describe()}
    shared |= budget.settings() if budget else {}

    def provenance(user: User) -> Provenance:
        examples = digest(prompts[user.user_id])
        inputs = {"examples": budget.hide(examples) if budget else examples}
        return workspace.provenance("train-sharer", shared, inputs, model.fingerprint)

    origins = {user.user_id: provenance(user) for user in users}
    places = {name: directory / name for name in origins}
    outputs = [Output(name, places[name], made_from(origins[name], places[name], read_trained)) for name in origins]

    if force:
        for place in places.values():
            check_removable(place)

    def make(todo: Any, keep: Any) -> None:
        failures = Failures(report)
        for group in side_by_side(outputs, todo, together):
            work = [
                LoraWork(
                    one.name,
                    one.path,
                    model.encode(prompts[one.name], who=f"user {one.name}"),
                    origins[one.name],
                    one in todo,
                )
                for one in group
            ]
            cards = train_loras(
                model.base,
                work,
                settings.lora,
                settings.train,
                report,
                seed=settings.seed,
                failures=failures,
                budget=budget,
            )
            for one, card in zip(group, cards, strict=True):
                if card:
                    keep(one, card)
                    if not budget:
                        note_losses(report, one.name, card)
        failures.end()

    outcomes = run(outputs, make, place=directory, shard=who.shard, force=force, dry_run=dry_run, report=report)
    if dry_run:
        model.check_room(prompts, outcomes)
    return outcomes
