"""Exactly what the model sees of users, as each step makes its prompts, with token counts."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Literal

import msgspec

from perpcs_cli.artifacts.users import User, held_out, newest
from perpcs_cli.errors import DataError, UsageError
from perpcs_cli.steps.workspace import EVERYONE, Who, Workspace
from perpcs_cli.tasks.prompts import PLAIN, PUBLISHED, Prompt, Shown, Source

Step = Literal["predict", "train-sharer", "gate", "assemble", "prime", "adapt"]

LISTS: dict[Step, tuple[str, ...]] = {
    "adapt": ("base",),
    "train-sharer": ("sharer", "candidate"),
    "gate": ("sharer", "candidate"),
}
"""The lists in splits/ whose users a step takes by default; the others take the targets."""


class ShownPrompt(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt after it was cut to fit, with special tokens, and the tokens of each part."""

    user_id: str
    id: str
    prompt: str
    answer: str
    tokens: dict[str, int]
    cut: int
    """Tokens that did not fit."""


def prompt(
    workspace: Workspace,
    step: Step = "predict",
    who: Who = EVERYONE,
    *,
    shown: Shown | None = None,
    ids: Collection[str] = (),
    first: int | None = None,
    recent: int | None = None,
    hold_out: float = 0.0,
    source: Source = "auto",
) -> list[ShownPrompt]:
    """The prompts of `step`, of the users that it takes by default; the tokenizer is loaded, not the model.

    `shown`: what they show of the history, or the step's default; `ids`: only these queries or items; `first`: only so
    many of each user. Raises UsageError for an id that there is not.
    """
    from perpcs_cli.methods.prime.search import sample_items
    from perpcs_cli.model.engine.batching import count_parts, fit, tokenize
    from perpcs_cli.model.loading.identity import locate
    from perpcs_cli.model.loading.tokenizer_info import load_vocabulary
    from perpcs_cli.tasks.examples import adaptation_prompts, query_prompts, search_prompts, training_prompts

    settings, task = workspace.settings, workspace.task

    def prompts_of(user: User) -> list[Prompt]:
        if step == "adapt":
            return adaptation_prompts(task, [user], shown or PUBLISHED, source=source, seed=settings.seed)
        if step == "predict":
            prompts = query_prompts(task, user, shown or PLAIN, seed=settings.seed)
            return [replace(one, answer=None) for one in prompts]
        if step == "prime":
            seen = newest(user, recent or settings.prime.recent)
            prompts, _ = search_prompts(task, seen, settings.prime.prompts, shown or PLAIN, seed=settings.seed)
            items = sample_items(prompts, settings.prime.data_fraction, settings.seed, user.user_id)
            return [replace(one, answer=None) for one in items]
        seen = newest(user, recent or (settings.assemble.recent if step == "assemble" else None))
        seen, _ = held_out(seen, hold_out, settings.seed)
        return training_prompts(task, seen, shown or PUBLISHED, seed=settings.seed)

    users = who.select(workspace, *LISTS.get(step, ("target",)))
    prompts = {user.user_id: prompts_of(user) for user in users}
    if missing := set(ids) - {one.key for some in prompts.values() for one in some}:
        raise UsageError(f"no such query or item: {min(missing)!r}", where="--id")
    reader = load_vocabulary(locate(settings.model))
    longest = task.generates_history if step == "prime" else 0
    reserve = (longest or settings.predict.max_new_tokens) if step in ("predict", "prime") else 0
    rows = []
    for user_id, some in prompts.items():
        for whole in [one for one in some if not ids or one.key in ids][:first]:
            try:
                short = fit(reader, whole, settings.max_length, reserve=reserve)
            except DataError as error:
                raise DataError(error.what, where=f"user {user_id}", hint=error.hint) from None
            encoded = tokenize(reader, short)
            rows.append(
                ShownPrompt(
                    user_id=user_id,
                    id=whole.key,
                    prompt=reader.tokenizer.decode(encoded.prompt),
                    answer=reader.tokenizer.decode(encoded.answer),
                    tokens={"all": len(encoded), **count_parts(reader, short)},
                    cut=len(tokenize(reader, whole)) - len(encoded),
                )
            )
    return rows
