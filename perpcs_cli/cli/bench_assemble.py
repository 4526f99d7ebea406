"""`perpcs bench assemble`: assembly against a plain forward pass and against training, side by side in one run."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from perpcs_cli.artifacts.users import newest, read_users
from perpcs_cli.artifacts.workspace import FILE
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.options import BaseFlags, JsonOption, takes
from perpcs_cli.errors import DataError, UsageError


class AssembleTimes(msgspec.Struct, frozen=True, kw_only=True):
    """Medians in seconds, sizes in bytes."""

    assemble_s: float
    forward_s: float
    """One plain forward pass over the same batches."""
    oppu_s: float | None
    """Training a LoRA on the same history with the task's settings; None with `--skip-oppu`."""
    recipe_bytes: int
    adapter_bytes: int
    items: int
    sharers: int
    tokens: int
    dtype: str
    device: str


@takes(BaseFlags)
def assemble(
    base: BaseFlags,
    users_file: Annotated[
        Path | None, typer.Option("--users-file", help="The users. [default: one synthetic user]")
    ] = None,
    items: Annotated[int, typer.Option("--items", min=1, help="History items of the target user.")] = 20,
    sharers: Annotated[int, typer.Option("--sharers", min=1, help="Sharers in the pool.")] = 10,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Measurements of pass and assembly.")] = 5,
    skip_oppu: Annotated[bool, typer.Option("--skip-oppu", help="Do not train the LoRA.")] = False,
    json: JsonOption = False,
) -> None:
    """Time assembly, a forward pass and training.

    All three see one user's history, in one run. The user is the first of --users-file with enough history, or a
    synthetic one; the sharers' pieces are random, which does not change the time.
    """
    console = Console(json=json, quiet=base.quiet)
    if not (base.workspace / FILE).exists():
        base = BaseFlags(**{**vars(base), "model": base.model or "smollm2-135m", "task": base.task or "news_headline"})
    context = base.open()
    settings = context.settings

    import time
    from statistics import median

    import torch

    from perpcs_cli.artifacts.provenance import Provenance
    from perpcs_cli.artifacts.recipe import Recipe, pack, write_recipe
    from perpcs_cli.cli.benching import random_pool
    from perpcs_cli.cli.running import encode_all, open_base
    from perpcs_cli.methods.assembly import Assembler, assemble, make_groups
    from perpcs_cli.model.batching import make_batch
    from perpcs_cli.model.pieces import Bank
    from perpcs_cli.model.train import new_lora, train
    from perpcs_cli.tasks.examples import training_prompts
    from perpcs_cli.tasks.synthetic import make_users

    if users_file:
        able = [user for user in read_users(users_file).values() if len(user.history) >= items]
        if not able:
            raise DataError(f"no user has {items} history items", where=users_file, hint="Give a smaller --items.")
        user = able[0]
    elif context.task.name != "news_headline":
        raise UsageError(
            "the synthetic user has news headlines, and the task is " + context.task.name,
            hint="Give the task's users with --users-file, or --task news_headline.",
        )
    else:
        user = make_users(1, items, 0, settings.seed)[0]
    model = open_base(context, console)
    rows = encode_all(model, training_prompts(context.task, newest(user, items)), context, console, who=user.user_id)
    groups = make_groups(user.user_id, rows, settings.assemble.batch_size)
    with tempfile.TemporaryDirectory() as directory:
        pool = random_pool(Path(directory), model, context.settings.lora.rank, sharers)
        forward, assembly = [], []
        recipe_path = Path(directory) / "recipe.json"
        with console.progress("measuring", repeats) as bar:
            for _ in range(repeats + 1):
                start = time.perf_counter()
                for group in groups:
                    with torch.inference_mode():
                        model.model(**make_batch(model, group.rows).inputs(), use_cache=False, logits_to_keep=1)
                    model.wait()
                middle = time.perf_counter()
                found: dict[str, dict[str, list[tuple[int, float]]]] = {}
                assembler = Assembler(model, pool, Bank(model, pool.adapter), settings.assemble, settings.seed)
                assemble(assembler, groups, batch_tokens=1, done=found.__setitem__)
                model.wait()
                end = time.perf_counter()
                forward.append(middle - start)
                assembly.append(end - middle)
                bar.advance()
        named = {m: [(pool.ids[i], w) for i, w in mix] for m, mix in found[user.user_id].items()}
        used, weights = pack(named)
        provenance = Provenance(command="bench", settings={}, seed=0)
        write_recipe(
            recipe_path,
            Recipe(
                user_id=user.user_id,
                method="per-pcs",
                merge=settings.assemble.merge,
                pool=pool.digest,
                sharers=used,
                weights=weights,
                provenance=provenance,
            ),
        )
        oppu = None
        if not skip_oppu:
            console.note(f"training the user's own LoRA on {len(rows)} examples")
            start = time.perf_counter()
            job = new_lora(model, user.user_id, rows, settings.lora, settings.seed)
            train(model, [job], settings.train, seed=settings.seed, dropout=settings.lora.dropout)
            oppu = time.perf_counter() - start
        times = AssembleTimes(
            # The first round warms up.
            assemble_s=median(assembly[1:]),
            forward_s=median(forward[1:]),
            oppu_s=oppu,
            recipe_bytes=recipe_path.stat().st_size,
            adapter_bytes=pool.adapter(0).file.path.stat().st_size,
            items=items,
            sharers=sharers,
            tokens=sum(len(row) for row in rows),
            dtype=model.describe()["dtype"],
            device=str(model.device),
        )
    lines = [
        f"assemble {times.assemble_s:.2f} s = {times.assemble_s / times.forward_s:.2f} x one forward pass"
        f" ({times.forward_s:.2f} s)",
        f"adapter {times.adapter_bytes} bytes = {times.adapter_bytes / times.recipe_bytes:.0f} x recipe "
        f"({times.recipe_bytes} bytes)",
    ]
    if times.oppu_s is not None:
        lines.insert(1, f"OPPU {times.oppu_s:.1f} s = {times.oppu_s / times.assemble_s:.1f} x assemble")
    console.result(times, "\n".join(lines))
