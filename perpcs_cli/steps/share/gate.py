"""Train post-hoc gate vectors for sharers' pieces."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from perpcs_cli.artifacts.adapter import CARD, Adapter, divided, open_adapter
from perpcs_cli.artifacts.gate import FILE, GateCard, read_fitting_gates, write_gates
from perpcs_cli.artifacts.linked_adapter import check_same_adapter, link_adapter
from perpcs_cli.artifacts.pools.removal import check_removable
from perpcs_cli.artifacts.users import newest
from perpcs_cli.errors import DataError
from perpcs_cli.steps.base import StepModel
from perpcs_cli.steps.job import Outcome, Output, made_from, run
from perpcs_cli.steps.report import SILENT, Report
from perpcs_cli.steps.share.failures import Failures
from perpcs_cli.steps.share.privacy import Budget, note_losses, told, train_with_guarantee
from perpcs_cli.steps.share.train_loras import side_by_side, trained_together
from perpcs_cli.steps.workspace import EVERYONE, Who, Workspace
from perpcs_cli.tasks.examples import training_prompts
from perpcs_cli.tasks.prompts import PUBLISHED, Shown, digest


def sharer_names(directory: Path) -> list[str]:
    """The sharers in a directory; what is being written has a name with a dot in front."""
    return sorted(path.name for path in directory.glob("*") if path.is_dir() and not path.name.startswith("."))


def gate(
    workspace: Workspace,
    who: Who = EVERYONE,
    *,
    shown: Shown = PUBLISHED,
    recent: int | None = None,
    together: int | None = None,
    budget: Budget | None = None,
    sharers: Path | None = None,
    out: Path | None = None,
    force: bool = False,
    dry_run: bool = False,
    report: Report = SILENT,
) -> list[Outcome[GateCard]]:
    """Train one vector per piece for everyone in the directory `sharers`, by the section `gate` of the settings.

    What `hold_out` kept away from the LoRA is kept away here, too. With `out` the sharers stay as they are, and others
    with the same LoRAs and these gates are made there. The other arguments are those of `train_sharer`.
    """
    together = trained_together(together, private=budget is not None)
    if budget:
        budget.check(shown, together)
        budget = replace(budget, dry_run=dry_run)
    settings = workspace.settings
    source = sharers or workspace.sharers
    if not who.ids:
        who = replace(who, ids=sharer_names(source))
        if not who.ids:
            raise DataError("holds no sharers", where=source, hint="Train them with `perpcs train-sharer`.")
    users = {user.user_id: user for user in who.mine(who.select(workspace), together)}
    adapters = {name: open_adapter(source / name) for name in users}
    if plain := [name for name, adapter in adapters.items() if adapter.card is None]:
        hint = "No pool would take its gates. Train it with `perpcs train-sharer`, or leave it out with --users."
        raise DataError(f"holds no {CARD}", where=source / plain[0], hint=hint)
    directory = out or source
    if out is not None and force:
        for name in users:
            check_removable(out / name)
    model = StepModel(workspace, report, trains=True)
    shared: dict[str, Any] = {"gate": settings.gate, "recent": recent, "prompts": shown, "together": together}
    shared |= {"max_length": settings.max_length, **model.describe(), **(budget.settings() if budget else {})}
    prompts, origins = {}, {}
    for name, user in users.items():
        adapters[name].check_base(model.fingerprint)
        seen = newest(divided(adapters[name], user)[0], recent)
        prompts[name] = training_prompts(workspace.task, seen, shown, seed=settings.seed)
        examples = digest(prompts[name])
        inputs = {
            "examples": budget.hide(examples) if budget else examples,
            "adapter": adapters[name].digest_weights(),
        }
        origins[name] = workspace.provenance("gate", shared, inputs, model.fingerprint)

    def finished(name: str) -> GateCard | None:
        if out is not None and not check_same_adapter(source / name, out / name):
            check_removable(out / name)
        layers = {module: adapters[name].shape(module) for module in adapters[name].modules}
        return made_from(origins[name], directory / name / FILE, lambda path: read_fitting_gates(path, layers)[1])()

    outputs = [Output(name, directory / name / FILE, partial(finished, name)) for name in users]

    def make(todo: Any, keep: Any) -> None:
        from perpcs_cli.model.training.order import total_steps
        from perpcs_cli.model.training.pass_size import pass_tokens
        from perpcs_cli.model.training.train import new_gates, train

        for one in todo if out is not None else ():
            link_adapter(source / one.name, directory / one.name, force=force)
        failures = Failures(report)
        for group in side_by_side(outputs, todo, together):
            jobs = []
            for one in group:
                adapter = adapters[one.name]
                adapter.check_layers(model.base.shapes)
                rows = model.encode(prompts[one.name], who=f"user {one.name}")
                pieces = {module: adapter.piece(module) for module in model.base.targets}
                jobs.append(new_gates(model.base, one.name, rows, pieces, adapter.scale))
            spent = None
            if budget:
                origin = origins[group[0].name]
                spent = train_with_guarantee(model.base, jobs[0], settings.gate, budget, origin, report)
            else:
                steps = sum(total_steps(settings.gate, len(job.examples)) for job in jobs)
                with report.progress(jobs[0].name if len(jobs) == 1 else f"{len(jobs)} sharers", steps) as bar:
                    how: Any = {"dropout": settings.gate.dropout, "tokens": pass_tokens(model.base)}
                    train(model.base, jobs, settings.gate, seed=settings.seed, report=bar.loss, **how)
            for one, job in zip(group, jobs, strict=True):
                if one not in todo or failures.note(job, one.path.parent):
                    continue
                origin = origins[one.name]
                card = GateCard(
                    user_id=one.name, adapter=origin.inputs["adapter"], provenance=origin, **told(job, spent)
                )
                write_gates(one.path, job.gates, card)
                keep(one, card)
                if not spent:
                    note_losses(report, one.name, card)
                _warn_of_halves(adapters[one.name], card, report)
        failures.end()

    outcomes = run(
        outputs,
        make,
        place=directory,
        things="sharers",
        shard=who.shard,
        force=force,
        dry_run=dry_run,
        report=report,
    )
    if dry_run:
        model.check_room(prompts, outcomes)
    return outcomes


def _warn_of_halves(adapter: Adapter, card: GateCard, report: Report) -> None:
    """Say so where only one of adapter and gates is private: what a sharer gives is both."""
    private = adapter.card.privacy if adapter.card else None
    if card.privacy and not private:
        report.warn(
            f"{card.user_id}: the adapter was trained without differential privacy, so adapter and gates together "
            "guarantee nothing; train it with `perpcs train-sharer --dp-epsilon`"
        )
    elif private and not card.privacy:
        report.warn(
            f"{card.user_id}: the gates are trained without differential privacy, so adapter and gates together "
            "guarantee nothing; give --dp-epsilon here too, or share the adapter alone with `pool build --no-gates`"
        )
