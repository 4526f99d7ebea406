"""The items that adapters were trained on or kept away from, for membership attacks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from perpcs_cli.artifacts.adapter import Adapter, divided, open_adapter
from perpcs_cli.artifacts.pools.pseudonyms import pseudonym
from perpcs_cli.artifacts.pools.secret import existing_secret, keyed_digest
from perpcs_cli.artifacts.profiles import with_profiles
from perpcs_cli.artifacts.settings import MiaSettings
from perpcs_cli.artifacts.users import User, newest
from perpcs_cli.errors import DataError
from perpcs_cli.methods.membership.protocols import Item
from perpcs_cli.steps.workspace import Workspace
from perpcs_cli.tasks.examples import history_prompts, training_prompts
from perpcs_cli.tasks.prompts import PLAIN, PUBLISHED, Prompt, Shown, digest, history_prompt
from perpcs_cli.tasks.spec import Task


@dataclass(frozen=True)
class Owner:
    """Whose items an attacked adapter was trained on, and the adapter whose card says how."""

    user: User
    adapter: Adapter


def find_owners(workspace: Workspace, adapters: Mapping[str, Adapter], users: Iterable[User]) -> dict[str, Owner]:
    """The user behind each attacked adapter, by the name that the adapter has where it is attacked.

    In a pool of pseudonyms the workspace's secret tells whose an adapter is, and the sharer's own directory how it was
    trained, if it still holds the adapter that was copied. Raises DataError where that cannot be told.
    """
    secret = existing_secret(workspace.root)
    behind: dict[str, str] = {}
    owners: dict[str, User] = {}
    for user in users:
        hidden = pseudonym(secret, user.user_id) if secret else ""
        if hidden in adapters:
            behind[hidden] = user.user_id
        if hidden in adapters or user.user_id in adapters:
            owners[user.user_id] = user
    owners = with_profiles(owners, workspace.profiles)
    found = {}
    for name, adapter in adapters.items():
        if name in owners:
            found[name] = Owner(owners[name], adapter)
        elif name in behind:
            own = open_adapter(workspace.sharers / behind[name])
            if not own.is_source_of(adapter):
                raise DataError(
                    f"{own.path} is another adapter than the one that was copied",
                    where=adapter.path,
                    hint="It cannot tell what the copy was trained on. Build the pool again.",
                )
            found[name] = Owner(owners[behind[name]], own)
        else:
            raise DataError(
                f"the users do not have {name!r}, whose adapter is attacked",
                where=adapter.path,
                hint="Give the users that the sharers were trained on with --users-file.",
            )
    return found


def collect_items(
    task: Task, owners: Mapping[str, Owner], settings: MiaSettings, secret: bytes | None = None
) -> tuple[list[Item], list[Prompt]]:
    """(items that each owner's adapter was trained on or was kept away from, the prompt of each).

    Each item is there plain, and with `prompts = "both"` again with the context that it has in training. Raises
    DataError where an owner has another history than the adapter was trained on.
    """
    found: list[tuple[str, int, bool, Prompt, Prompt | None]] = []
    for name, owner in owners.items():
        trained, away = training_parts(owner)
        check_examples(task, owner, trained, secret)
        sides = {id(item): side for part, side in ((trained, True), (away, False)) for item in part.history}
        contexts = _contexts(task, owner, trained) if settings.prompts == "both" else {}
        first = len(owner.user.history) - (settings.recent or len(owner.user.history))
        for place, item in enumerate(owner.user.history):
            if place >= first and id(item) in sides and item.get(task.output_field):
                found.append((name, place, sides[id(item)], history_prompt(task, item), contexts.get(id(item))))
    seen: dict[tuple[str, str | None], set[str]] = {}
    for user_id, _, side, plain, _ in found:
        if side:
            seen.setdefault((plain.text, plain.answer), set()).add(user_id)
    items, prompts = [], []
    for user_id, place, side, plain, context in found:
        one = Item(user_id, place, side, frozenset(seen.get((plain.text, plain.answer), ())))
        items += [one] if context is None else [one, replace(one, context=True)]
        prompts += [plain] if context is None else [plain, context]
    return items, prompts


def _contexts(task: Task, owner: Owner, trained: User) -> dict[int, Prompt]:
    """The prompt with context of each item that has one, by the item's id in memory.

    What the adapter was trained on comes after what it came after in training, what was kept away after earlier items
    of the whole history. For an adapter that was trained plain or does not say, it is as the published code trains.
    """
    shown = _shown(owner)
    if shown == PLAIN:
        shown = PUBLISHED
    if shown == PUBLISHED and not task.trains_with_context:
        return {}
    card = owner.adapter.card
    found: dict[int, Prompt] = {}
    for user in (owner.user, trained):
        answered = [item for item in user.history if item.get(task.output_field)]
        if answered:
            prompts = history_prompts(task, user, shown, seed=card.provenance.seed if card else 0)
            found |= {id(item): prompt for item, prompt in zip(answered, prompts, strict=True)}
            found.pop(id(answered[0]))
    return {item: prompt for item, prompt in found.items() if prompt.context}


def training_parts(owner: Owner) -> tuple[User, User]:
    """The user with what the adapter was trained on, and with what was kept away from it."""
    trained, away = divided(owner.adapter, owner.user)
    return newest(trained, _settings(owner).get("recent")), away


def check_examples(task: Task, owner: Owner, trained: User, secret: bytes | None) -> None:
    """Raise DataError where the adapter says that it was trained on other examples; some adapters say nothing.

    With differential privacy its digest is keyed: without the workspace's secret it says nothing, either.
    """
    card = owner.adapter.card
    expected = card.provenance.inputs.get("examples") if card else None
    if not card or not expected:
        return
    found = digest(training_prompts(task, trained, _shown(owner), seed=card.provenance.seed))
    if card.privacy:
        found = keyed_digest(secret, ["input", found]) if secret else expected
    if found != expected:
        raise DataError(
            f"was trained on another history of {owner.user.user_id!r} than the users have now",
            where=owner.adapter.path,
            hint="Give the users that it was trained on with --users-file, or train it again.",
        )


def _shown(owner: Owner) -> Shown:
    """What the adapter's examples with context show; nothing where it was trained plain or does not say."""
    return msgspec.convert(_settings(owner).get("prompts", {}), Shown)


def _settings(owner: Owner) -> dict[str, Any]:
    return owner.adapter.card.provenance.settings if owner.adapter.card else {}
