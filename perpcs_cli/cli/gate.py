"""`perpcs gate`: post-hoc gate vectors for sharers' pieces."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from perpcs_cli.artifacts.gate import FILE, GateCard, read_gates, write_gates
from perpcs_cli.artifacts.provenance import Provenance, check_same
from perpcs_cli.artifacts.users import newest
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.options import (
    BaseFlags,
    ExampleFlags,
    ForceOption,
    JsonOption,
    RecentOption,
    TogetherOption,
    TrainingFlags,
    UserFlags,
    takes,
)
from perpcs_cli.cli.pool import SharersOption, sharer_names
from perpcs_cli.errors import DataError

if TYPE_CHECKING:
    from perpcs_cli.tasks.prompts import Prompt


@takes(BaseFlags, UserFlags, TrainingFlags, ExampleFlags)
def gate(
    base: BaseFlags,
    who: UserFlags,
    training: TrainingFlags,
    asked: ExampleFlags,
    recent: RecentOption = None,
    together: TogetherOption = 1,
    sharers: SharersOption = None,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Train gates for sharers' pieces.

    One vector per piece, with the LoRA frozen, for everyone below sharers/ by default. Sharers whose gates are
    finished are skipped. What `train-sharer --hold-out` kept away is kept away here, too.
    """
    console = Console(json=json, quiet=base.quiet)
    context = base.open(gate=training.given())
    settings = context.settings
    directory = sharers or context.sharers
    shown = asked.examples()
    if not (who.user or who.users):
        names = sharer_names(directory)
        if not names:
            raise DataError("holds no sharers", where=directory, hint="Train them with `perpcs train-sharer`.")
        who = UserFlags(user=names, users_file=who.users_file)
    users = who.select(context)

    from perpcs_cli.artifacts.adapter import divided, open_adapter
    from perpcs_cli.cli.running import encode_all, first_and_last, open_base
    from perpcs_cli.model.train import new_gates, total_steps, train
    from perpcs_cli.tasks.examples import training_prompts
    from perpcs_cli.tasks.prompts import digest

    adapters = {user.user_id: open_adapter(directory / user.user_id) for user in users}
    model = open_base(context, console)
    shared: dict[str, Any] = {"gate": settings.gate, "recent": recent, "prompts": shown, "together": together}
    shared |= {"max_length": settings.max_length, **model.describe()}
    prompts: dict[str, list[Prompt]] = {}
    cards: dict[str, GateCard] = {}
    provenances: dict[str, Provenance] = {}
    for user in users:
        adapter = adapters[user.user_id]
        adapter.check_fits(model.fingerprint, model.shapes)
        seen = newest(divided(adapter, user)[0], recent)
        prompts[user.user_id] = training_prompts(context.task, seen, shown, seed=settings.seed)
        inputs = {"examples": digest(prompts[user.user_id]), "adapter": adapter.digest_weights()}
        provenances[user.user_id] = context.provenance("gate", shared, inputs, model.fingerprint)
        done = _finished(adapter.path / FILE, provenances[user.user_id], force)
        if done:
            cards[user.user_id] = done
    todo = [user for user in users if user.user_id not in cards]
    if len(todo) < len(users):
        console.note(f"{len(users) - len(todo)} of {len(users)} sharers have their gates already")
    for at in range(0, len(todo), together):
        jobs = []
        for user in todo[at : at + together]:
            rows = encode_all(model, prompts[user.user_id], context, console, who=f"user {user.user_id}")
            adapter = adapters[user.user_id]
            pieces = {module: adapter.piece(module) for module in model.targets}
            jobs.append(new_gates(model, user.user_id, rows, pieces, adapter.scale))
        steps = sum(total_steps(settings.gate, len(job.examples)) for job in jobs)
        with console.progress(jobs[0].name if len(jobs) == 1 else f"{len(jobs)} sharers", steps) as bar:
            train(model, jobs, settings.gate, seed=settings.seed, report=bar.loss)
        for job in jobs:
            first, last = first_and_last([step.loss for step in job.log])
            provenance = provenances[job.name]
            card = GateCard(
                user_id=job.name,
                adapter=provenance.inputs["adapter"],
                steps=len(job.log),
                first_loss=first,
                last_loss=last,
                provenance=provenance,
            )
            write_gates(directory / job.name / FILE, job.gates, card)
            cards[job.name] = card
            console.note(f"{job.name}: loss {first:.3f} -> {last:.3f}, {len(job.log)} steps")
    ordered = [cards[user.user_id] for user in users]
    console.result(
        ordered,
        "\n".join(
            f"{c.user_id}\t{directory / c.user_id / FILE}\t{c.first_loss:.4f}\t{c.last_loss:.4f}" for c in ordered
        ),
    )


def _finished(path: Path, provenance: Provenance, force: bool) -> GateCard | None:
    if force or not path.exists():
        return None
    card = read_gates(path)[1]
    check_same(card.provenance, provenance, where=path)
    return card
