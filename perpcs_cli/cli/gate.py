"""`perpcs gate`: post-hoc gate vectors for sharers' pieces."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
from perpcs_cli.cli.privacy import GATE_CLIP, PrivacyFlags, columns, told, train_with_guarantee
from perpcs_cli.errors import DataError

if TYPE_CHECKING:
    from perpcs_cli.artifacts.adapter import Adapter
    from perpcs_cli.tasks.prompts import Prompt


@takes(BaseFlags, UserFlags, TrainingFlags, ExampleFlags, PrivacyFlags)
def gate(
    base: BaseFlags,
    who: UserFlags,
    training: TrainingFlags,
    asked: ExampleFlags,
    private: PrivacyFlags,
    recent: RecentOption = None,
    together: TogetherOption = 1,
    sharers: SharersOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Directory for the sharers with these gates. [default: the gates go to the sharers]"
        ),
    ] = None,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Train gates for sharers' pieces.

    One vector per piece, with the LoRA frozen, for everyone below sharers/ by default. Sharers whose gates are
    finished are skipped. What `train-sharer --hold-out` kept away is kept away here, too. With --out the sharers stay
    as they are, and others with the same LoRAs and these gates are made, so that several gates can be compared.
    """
    console = Console(json=json, quiet=base.quiet)
    context = base.open(gate=training.given())
    settings = context.settings
    directory = sharers or context.sharers
    shown = asked.examples()
    budget = private.budget(context.root, training, shown, together, clip=GATE_CLIP)
    if not (who.user or who.users):
        names = sharer_names(directory)
        if not names:
            raise DataError("holds no sharers", where=directory, hint="Train them with `perpcs train-sharer`.")
        who = UserFlags(user=names, users_file=who.users_file)
    users = who.select(context)

    from perpcs_cli.artifacts.adapter import divided, link_adapter, open_adapter
    from perpcs_cli.cli.running import encode_all, open_base
    from perpcs_cli.model.train import new_gates, total_steps, train
    from perpcs_cli.tasks.examples import training_prompts
    from perpcs_cli.tasks.prompts import digest

    if out is not None:
        for user in users:
            link_adapter(directory / user.user_id, out / user.user_id, force=force)
        directory = out
    adapters = {user.user_id: open_adapter(directory / user.user_id) for user in users}
    model = open_base(context, console)
    shared: dict[str, Any] = {"gate": settings.gate, "recent": recent, "prompts": shown, "together": together}
    shared |= {"max_length": settings.max_length, **model.describe(), **(budget.settings() if budget else {})}
    prompts: dict[str, list[Prompt]] = {}
    cards: dict[str, GateCard] = {}
    provenances: dict[str, Provenance] = {}
    for user in users:
        adapter = adapters[user.user_id]
        adapter.check_fits(model.fingerprint, model.shapes)
        seen = newest(divided(adapter, user)[0], recent)
        prompts[user.user_id] = training_prompts(context.task, seen, shown, seed=settings.seed)
        examples = digest(prompts[user.user_id])
        inputs = {"examples": budget.hide(examples) if budget else examples, "adapter": adapter.digest_weights()}
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
        spent = None
        if budget:
            spent = train_with_guarantee(model, jobs[0], settings.gate, budget, provenances[jobs[0].name], console)
        else:
            steps = sum(total_steps(settings.gate, len(job.examples)) for job in jobs)
            with console.progress(jobs[0].name if len(jobs) == 1 else f"{len(jobs)} sharers", steps) as bar:
                train(model, jobs, settings.gate, seed=settings.seed, report=bar.loss)
        for job in jobs:
            provenance = provenances[job.name]
            card = GateCard(
                user_id=job.name,
                adapter=provenance.inputs["adapter"],
                provenance=provenance,
                **told(job, spent),
            )
            write_gates(directory / job.name / FILE, job.gates, card)
            cards[job.name] = card
            if not spent:
                console.note(f"{job.name}: loss {card.first_loss:.3f} -> {card.last_loss:.3f}, {card.steps} steps")
            _warn_of_halves(adapters[job.name], card, console)
    ordered = [cards[user.user_id] for user in users]
    console.result(
        ordered,
        "\n".join(f"{c.user_id}\t{directory / c.user_id / FILE}\t{columns(c)}" for c in ordered),
    )


def _warn_of_halves(adapter: Adapter, card: GateCard, console: Console) -> None:
    """Say so where only one of adapter and gates is private: what a sharer gives is both."""
    private = adapter.card.privacy if adapter.card else None
    if card.privacy and not private:
        console.warn(
            f"{card.user_id}: the adapter was trained without differential privacy, so adapter and gates together "
            "guarantee nothing; train it with `perpcs train-sharer --dp-epsilon`"
        )
    elif private and not card.privacy:
        console.warn(
            f"{card.user_id}: the gates are trained without differential privacy, so adapter and gates together "
            "guarantee nothing; give --dp-epsilon here too, or share the adapter alone with `pool build --no-gates`"
        )


def _finished(path: Path, provenance: Provenance, force: bool) -> GateCard | None:
    if force or not path.exists():
        return None
    card = read_gates(path)[1]
    check_same(card.provenance, provenance, where=path)
    return card
