"""`perpcs train-sharer`: one LoRA per user, on the user's own history. On a target user it is the OPPU baseline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perpcs_cli.artifacts.adapter import CARD, Card, open_adapter
from perpcs_cli.artifacts.provenance import check_same
from perpcs_cli.artifacts.users import User, held_out, newest
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.options import (
    BaseFlags,
    DryRunOption,
    ExampleFlags,
    ForceOption,
    HoldOutOption,
    JsonOption,
    LoraFlags,
    RecentOption,
    TogetherOption,
    TrainingFlags,
    UserFlags,
    takes,
)
from perpcs_cli.cli.privacy import LORA_CLIP, PrivacyFlags, columns

if TYPE_CHECKING:
    from perpcs_cli.artifacts.provenance import Provenance


@takes(BaseFlags, UserFlags, TrainingFlags, LoraFlags, ExampleFlags, PrivacyFlags)
def train_sharer(
    base: BaseFlags,
    who: UserFlags,
    training: TrainingFlags,
    lora: LoraFlags,
    asked: ExampleFlags,
    private: PrivacyFlags,
    recent: RecentOption = None,
    hold_out: HoldOutOption = 0.0,
    together: TogetherOption = 1,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Directory of the sharers. [default: sharers of the workspace]")
    ] = None,
    force: ForceOption = False,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Train a LoRA for each user.

    The users are those of splits/sharer.txt by default (see `perpcs select`), or of splits/candidate.txt where nobody
    was selected; each gets a directory in PEFT's layout. Users who are finished are skipped, so a run that was stopped
    goes on where it was. Trained on target users (--users @splits/target.txt --out oppu), it is the OPPU baseline.
    """
    console = Console(json=json, quiet=base.quiet)
    context = base.open(train=training.given(), lora=lora.given())
    settings = context.settings
    users = who.select(context, "sharer", "candidate")
    directory = out or context.sharers
    shown = asked.examples()
    budget = private.budget(context.root, training, shown, together, clip=LORA_CLIP)
    if hold_out and shown.profile is not False and any(user.profile for user in users):
        console.warn(
            "profiles were written from whole histories: what is held out may show in them; --plain leaves them out"
        )

    from perpcs_cli.tasks.examples import training_prompts
    from perpcs_cli.tasks.prompts import digest

    prompts = {}
    for user in users:
        trained, _ = held_out(newest(user, recent), hold_out, settings.seed)
        prompts[user.user_id] = training_prompts(context.task, trained, shown, seed=settings.seed)
    if dry_run:
        planned = [
            {
                "user_id": user.user_id,
                "path": str(directory / user.user_id),
                "examples": len(prompts[user.user_id]),
                "trained": not force and (directory / user.user_id / CARD).exists(),
            }
            for user in users
        ]
        lines = [
            f"{p['user_id']}\t{p['path']}\t{p['examples']} examples\t{'trained' if p['trained'] else 'to train'}"
            for p in planned
        ]
        console.result(planned, "\n".join(lines))
        return

    from perpcs_cli.cli.running import encode_all, open_base
    from perpcs_cli.cli.sharers import train_loras

    model = open_base(context, console)
    shared: dict[str, Any] = {
        "train": settings.train,
        "lora": settings.lora,
        "recent": recent,
        "hold_out": hold_out,
        "prompts": shown,
        "together": together,
    }
    shared |= {"max_length": settings.max_length, **model.describe(), **(budget.settings() if budget else {})}

    def provenance(user: User) -> Provenance:
        examples = digest(prompts[user.user_id])
        inputs = {"examples": budget.hide(examples) if budget else examples}
        return context.provenance("train-sharer", shared, inputs, model.fingerprint)

    cards = {user.user_id: finished(directory / user.user_id, provenance(user), force) for user in users}
    todo = [user for user in users if cards[user.user_id] is None]
    if len(todo) < len(users):
        console.note(f"{len(users) - len(todo)} of {len(users)} users are finished already")
    for at in range(0, len(todo), together):
        group = todo[at : at + together]
        work = [
            (
                user.user_id,
                directory / user.user_id,
                encode_all(model, prompts[user.user_id], context, console, who=f"user {user.user_id}"),
                provenance(user),
            )
            for user in group
        ]
        for card in train_loras(model, work, settings.lora, settings.train, console, seed=settings.seed, budget=budget):
            cards[card.user_id] = card
            if not budget:
                console.note(f"{card.user_id}: loss {card.first_loss:.3f} -> {card.last_loss:.3f}, {card.steps} steps")
    done = [card for card in cards.values() if card]
    console.result(
        done,
        "\n".join(f"{c.user_id}\t{directory / c.user_id}\t{columns(c, c.steps)}" for c in done),
    )


def finished(directory: Path, provenance: Provenance, force: bool) -> Card | None:
    """The card of a sharer that was trained to its end with these settings, or None where there is none.

    Raises DataError where it was trained with others.
    """
    path = directory / CARD
    if force or not path.exists():
        return None
    adapter = open_adapter(directory)
    adapter.digest_weights()
    card = adapter.card
    if card:
        check_same(card.provenance, provenance, where=directory)
    return card
