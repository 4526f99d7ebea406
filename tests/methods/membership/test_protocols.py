"""Who is a member in which protocol, what is left out and why, and RMIA's references and population."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import pytest

from perpcs_cli.methods.membership.protocols import (
    POPULATION,
    Item,
    Suspect,
    drawn,
    duplicate,
    members_of,
    reference_order,
    references,
    rmia_population,
    rows_to_run,
    why_left_out,
)

USERS = ("a", "b", "c", "d")


def item(user_id, place, trained=True, also=()):
    return Item(user_id, place, trained, frozenset([*([user_id] if trained else []), *also]))


def suspect(*trained, model=5, system="x"):
    singles = {name: number + 1 for number, name in enumerate(USERS)}
    return Suspect(system, "recipes", "t", model, frozenset(trained), USERS, singles)


ITEMS = [item("a", 0), item("a", 1), item("a", 2, False), item("b", 0), item("b", 1, False), item("c", 0)]


def test_published_non_members_are_the_other_users_items():
    assert members_of(suspect("a"), ITEMS, "published") == {0: True, 1: True, 3: False, 4: False, 5: False}


def test_held_out_members_and_non_members_are_of_the_same_users():
    assert members_of(suspect("a"), ITEMS, "held-out") == {0: True, 1: True, 2: False}
    # `c` kept nothing away: its members have no counterpart.
    assert members_of(suspect("a", "c"), ITEMS, "held-out") == {0: True, 1: True, 2: False}


def test_a_text_that_was_trained_on_from_elsewhere_is_no_non_member():
    items = [item("a", 0), item("a", 1, False, also="a"), item("b", 0, also="a"), item("b", 1), item("a", 2, False)]
    assert members_of(suspect("a"), items, "published") == {0: True, 3: False}
    assert members_of(suspect("a"), items, "held-out") == {0: True, 4: False}
    assert [duplicate(suspect("a"), one) for one in items] == [False, True, True, False, False]
    assert members_of(suspect("b"), items, "published") == {0: False, 1: False, 2: True, 3: True, 4: False} | {0: False}


@pytest.mark.parametrize(
    ("trained", "items", "protocol", "why"),
    [
        (("a",), ITEMS, "published", ""),
        ((), ITEMS, "published", "the recipe is the base"),
        ((), ITEMS, "held-out", "the recipe is the base"),
        (USERS, ITEMS, "published", "it is made of everyone's adapters"),
        (("c",), ITEMS, "held-out", "trained without --hold-out"),
        (("d",), ITEMS, "published", "no members"),
        (("a",), ITEMS[:3], "published", "no non-members"),
    ],
)
def test_why_a_suspect_is_left_out(trained, items, protocol, why):
    one = suspect(*trained)
    assert why_left_out(one, members_of(one, items, protocol).values(), protocol) == why


def test_references_never_saw_the_text_and_are_not_in_the_recipe_if_others_are_there():
    for seed in range(5):
        order = reference_order(suspect("a", "b"), seed)
        assert {*order[:2]} == {"c", "d"}
        assert references(order, item("c", 0), 4) == ["d", *order[2:]]
        assert references(order, item("c", 0, also="d"), 1) == [order[2]]
        assert references(order, item("a", 0, also=USERS), 4) == []
    assert len({tuple(reference_order(suspect(), seed)) for seed in range(20)}) > 3


def test_the_population_was_not_trained_on():
    assert rmia_population(suspect("a"), ITEMS, 0) == [3, 4, 5]
    assert rmia_population(suspect("a", "b", "c"), ITEMS, 0) == [2, 4], "what its own users kept away"
    many = [item("b", place) for place in range(2 * POPULATION)]
    found = rmia_population(suspect("a"), many, 0)
    assert len(set(found)) == POPULATION and found == rmia_population(suspect("a"), many, 0) != rmia_population(
        suspect("a"), many, 1
    )


def test_few_items_are_drawn_by_seed_from_each_side_of_each_user():
    items = [item(user_id, place, place % 2 == 0) for user_id in "ab" for place in range(20)]
    found = drawn(items, 3, 0)
    sides = [(items[index].user_id, items[index].trained) for index in found]
    assert {side: sides.count(side) for side in set(sides)} == {(u, t): 3 for u in "ab" for t in (True, False)}
    assert found == drawn(items, 3, 0) != drawn(items, 3, 1)
    assert drawn(items, None, 0) == drawn(items, 99, 0) == list(range(40))
    twice = [one for each in items for one in (each, replace(each, context=True))]
    both = drawn(twice, 3, 0)
    assert [twice[index] for index in both[::2]] == [items[index] for index in found], "the same, in both prompts"
    assert [index + 1 for index in both[::2]] == both[1::2]


def test_rows_are_run_once_and_the_reference_for_every_attacked_item():
    suspects = [suspect("a"), suspect("a", model=6, system="y"), suspect(*USERS, model=7)]
    rows = rows_to_run(suspects, ITEMS, ["published"], reference_count=0, seed=0)
    attacked = [0, 1, 3, 4, 5]
    assert rows == [(index, model) for model in (0, 5, 6) for index in attacked]
    more = rows_to_run(suspects, ITEMS, ["published", "held-out"], reference_count=2, seed=0)
    assert len(more) == len(set(more))
    # The one that is made of everyone is attacked by what its users kept away.
    assert {index for index, model in more if model == 7} == {0, 1, 2, 3, 4}
    owners = {number + 1: name for number, name in enumerate(USERS)}
    assert not [index for index, model in more if owners.get(model) == ITEMS[index].user_id]


def test_a_suspect_can_be_replaced_by_the_base():
    base = dataclasses.replace(suspect("a"), model=0, kind="base")
    assert members_of(base, ITEMS, "published") == members_of(suspect("a"), ITEMS, "published")
