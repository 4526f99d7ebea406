"""`perpcs adapt`: teach the base the task's form with one LoRA, on users who are neither sharers nor targets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perpcs_cli.artifacts import store
from perpcs_cli.artifacts.workspace import FILE, set_task_adapter
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.options import (
    BaseFlags,
    ExampleFlags,
    ForceOption,
    JsonOption,
    LoraFlags,
    SourceOption,
    TrainingFlags,
    UserFlags,
    takes,
)


@takes(BaseFlags, UserFlags, TrainingFlags, LoraFlags, ExampleFlags)
def adapt(
    base: BaseFlags,
    who: UserFlags,
    training: TrainingFlags,
    lora: LoraFlags,
    asked: ExampleFlags,
    source: SourceOption = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="At most so many examples, drawn by seed. [default: all]")
    ] = None,
    save_merged: Annotated[
        Path | None, typer.Option("--save-merged", help="Also write the adapted model as a plain model directory.")
    ] = None,
    record: Annotated[
        bool, typer.Option("--record/--no-record", help="Name the adapter in perpcs.toml, or leave that file alone.")
    ] = True,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Directory of the adapter. [default: task-adapter of the workspace]"),
    ] = None,
    force: ForceOption = False,
    json: JsonOption = False,
) -> None:
    """Adapt the base model to the task.

    Trains one LoRA, the task adapter, on the base users (default: splits/base.txt) and names it in perpcs.toml. It
    is merged into the base by every other command, and is part of its fingerprint. Without it, sharers learn the
    task's form instead of their users.
    """
    console = Console(json=json, quiet=base.quiet)
    context = base.open(adapt=training.given(), lora=lora.given())
    settings = context.settings
    target = out or context.task_adapter
    store.refuse_existing(target, force=force)
    if save_merged:
        store.refuse_existing(save_merged, force=force)
    users = who.select(context, "base")
    shown = asked.examples()

    import random

    from perpcs_cli.cli.running import encode_all, open_base
    from perpcs_cli.cli.sharers import train_loras
    from perpcs_cli.tasks.examples import adaptation_prompts
    from perpcs_cli.tasks.prompts import digest

    prompts = adaptation_prompts(context.task, users, shown, source=source or "auto", seed=settings.seed)
    if limit and limit < len(prompts):
        prompts = random.Random(settings.seed).sample(prompts, limit)
    model = open_base(context, console, adapted=False, changed=save_merged is not None)
    rows = encode_all(model, prompts, context, console, who="base users")
    console.note(f"adapting on {len(rows)} examples of {len(users)} users")
    provenance = context.provenance(
        "adapt",
        {"adapt": settings.adapt, "lora": settings.lora, "source": source or "auto", "prompts": shown, "limit": limit}
        | {"max_length": settings.max_length, **model.describe()},
        {"examples": digest(prompts)},
        model.fingerprint,
    )
    work = [("task-adapter", target, rows, provenance)]
    card = train_loras(model, work, settings.lora, settings.adapt, console, seed=settings.seed)[0]
    if record and (settings_file := base.workspace / FILE).exists():
        inside = target.resolve().is_relative_to(base.workspace.resolve())
        place = target.resolve().relative_to(base.workspace.resolve()) if inside else target.resolve()
        set_task_adapter(settings_file, str(place))
        console.note(f"{settings_file} now names {place} as the task adapter")
    if save_merged:
        from perpcs_cli.artifacts.adapter import open_adapter
        from perpcs_cli.model.base import merge_adapter

        merge_adapter(model.model, open_adapter(target))
        with store.replacing_directory(save_merged) as temporary:
            model.model.save_pretrained(temporary)
            model.tokenizer.save_pretrained(temporary)
        console.note(f"wrote {save_merged}")
    console.result(card, f"{target}\tloss {card.first_loss:.3f} -> {card.last_loss:.3f}\t{card.examples} examples")
