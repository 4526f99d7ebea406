"""Who counts as a member: suspects (models under attack), items, the two protocols, and RMIA's references."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice

from perpcs_cli.artifacts.io import hashing
from perpcs_cli.artifacts.mia import Kind, Protocol

PROTOCOLS: tuple[Protocol, ...] = ("published", "held-out")
POPULATION = 128
"""Most items of RMIA's population z for one suspect."""


@dataclass(frozen=True)
class Item:
    """A history item that may be attacked, without its text."""

    user_id: str
    place: int
    """In the user's history, from 0."""
    trained: bool
    """Its user's adapter was trained on it; else it was kept away from it."""
    seen_by: frozenset[str]
    """Everyone whose adapter was trained on the same text, be it this item or one like it."""
    context: bool = False
    """Asked after the profile and an earlier item; else plain. An item asked both ways is there twice."""


@dataclass(frozen=True)
class Suspect:
    """One model under attack: a target's recipe, one adapter, or the base."""

    system: str
    kind: Kind
    target: str
    model: int
    """Its index among the models that are run."""
    trained: frozenset[str]
    """The users whose adapters it is made of. For the base: those of the recipe that it is compared with."""
    users: tuple[str, ...]
    """Everyone whose items are attacked: the pool's sharers, or the users with an adapter of their own."""
    singles: Mapping[str, int]
    """Each of `users`' own adapter among the models that are run; RMIA's reference models."""


def member(suspect: Suspect, item: Item, protocol: Protocol) -> bool | None:
    """Whether an item is a member, a non-member, or no part of a protocol.

    published: members are the training items of the users that the model is made of, non-members all items of the
    others (the published code of Per-PCs and PriME). held-out: members and non-members are of the same users, who kept
    some items away from training. An item whose text the model was trained on from elsewhere is never a non-member.
    """
    own = item.user_id in suspect.trained
    if own and item.trained:
        return True
    if own == (protocol == "published") or duplicate(suspect, item):
        return None
    return False


def duplicate(suspect: Suspect, item: Item) -> bool:
    """The model was trained on the item's text, but not on the item."""
    return not (item.trained and item.user_id in suspect.trained) and bool(item.seen_by & suspect.trained)


def members_of(suspect: Suspect, items: Sequence[Item], protocol: Protocol) -> dict[int, bool]:
    """{index of an item: member} in a protocol; in `held-out`, only of users who kept something away."""
    users = set(suspect.users)
    mine = [index for index, item in enumerate(items) if item.user_id in users]
    divided = {items[index].user_id for index in mine if not items[index].trained}
    found = {}
    for index in mine:
        if protocol == "held-out" and items[index].user_id not in divided:
            continue
        side = member(suspect, items[index], protocol)
        if side is not None:
            found[index] = side
    return found


def why_left_out(suspect: Suspect, sides: Collection[bool], protocol: Protocol) -> str:
    """Why a suspect has no AUC in a protocol; empty where it has one."""
    if True in sides and False in sides:
        return ""
    if not suspect.trained:
        return "the recipe is the base"
    if protocol == "published":
        if set(suspect.users) <= suspect.trained:
            return "it is made of everyone's adapters"
        return "no non-members" if True in sides else "no members"
    return "trained without --hold-out"


def drawn(items: Sequence[Item], limit: int | None, seed: int) -> list[int]:
    """Indices of at most `limit` trained and `limit` kept-away items of each user, drawn by seed and user.

    Of an item that is there twice, both are drawn or none.
    """
    groups: dict[tuple[str, bool], dict[int, list[int]]] = {}
    for index, item in enumerate(items):
        groups.setdefault((item.user_id, item.trained), {}).setdefault(item.place, []).append(index)
    chosen: list[int] = []
    for (user_id, trained), group in groups.items():
        some = list(group.values())
        if limit is not None and limit < len(some):
            some = random.Random(hashing.derive_seed(seed, "mia", user_id, int(trained))).sample(some, limit)
        chosen += chain.from_iterable(some)
    return sorted(chosen)


def rmia_population(suspect: Suspect, items: Sequence[Item], seed: int) -> list[int]:
    """RMIA's population z: at most 128 items, drawn by seed, that the model was not trained on.

    They are items of users that the model is not made of; where there are none, what its own users kept away.
    """
    users = set(suspect.users)
    group = [index for index, item in enumerate(items) if item.user_id in users]
    free = [index for index in group if not items[index].seen_by & suspect.trained]
    others = [index for index in free if items[index].user_id not in suspect.trained]
    found = others or free
    if len(found) > POPULATION:
        found = sorted(random.Random(hashing.derive_seed(seed, "population")).sample(found, POPULATION))
    return found


def reference_order(suspect: Suspect, seed: int) -> list[str]:
    """The users whose adapters may serve RMIA as reference models, in an order drawn by seed; first those that the
    model is not made of."""
    return sorted(
        suspect.users, key=lambda name: (name in suspect.trained, hashing.derive_seed(seed, "reference", name))
    )


def references(order: Sequence[str], item: Item, count: int) -> list[str]:
    """The first `count` users of `order` whose adapters never saw an item's text; its own user is none of them."""
    free = (name for name in order if name != item.user_id and name not in item.seen_by)
    return list(islice(free, count))


def rows_to_run(
    suspects: Iterable[Suspect],
    items: Sequence[Item],
    protocols: Sequence[Protocol],
    *,
    reference_count: int,
    seed: int,
) -> list[tuple[int, int]]:
    """Every (item, model) that the attacks need, each once; model 0 is the reference. No reference sharers: no RMIA."""
    rows: set[tuple[int, int]] = set()
    for suspect in suspects:
        attacked = {index for protocol in protocols for index in decided(suspect, items, protocol)}
        if not attacked:
            continue
        rows |= {(index, model) for index in attacked for model in (0, suspect.model)}
        if reference_count:
            wanted = attacked | set(rmia_population(suspect, items, seed))
            rows |= {(index, suspect.model) for index in wanted}
            order = reference_order(suspect, seed)
            for index in wanted:
                names = references(order, items[index], reference_count)
                rows |= {(index, suspect.singles[name]) for name in names}
    return sorted(rows, key=lambda row: (row[1], row[0]))


def decided(suspect: Suspect, items: Sequence[Item], protocol: Protocol) -> dict[int, bool]:
    """`members_of`, or nothing where one side is empty."""
    found = members_of(suspect, items, protocol)
    return {} if why_left_out(suspect, found.values(), protocol) else found
