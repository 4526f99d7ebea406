"""From a model to AUCs: an untrained adapter leaks nothing, counts decide on rates, degenerate cases have no AUC."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import MemoryAdapter, random_pieces, random_rows

from perpcs_cli.methods.membership.attacks import NAMES, Observed
from perpcs_cli.methods.membership.auc_summary import score_suspect, summarize
from perpcs_cli.methods.membership.protocols import Item, Suspect, rows_to_run
from perpcs_cli.model.engine.piece_cache import PieceCache
from perpcs_cli.model.engine.recipe_router import RecipeRouter
from perpcs_cli.model.engine.scoring import score

PROTOCOLS = ["published", "held-out"]


def leak(suspects, items, seen, *, references=0, attacks=NAMES, resamples=100):
    rows = [
        row
        for suspect in suspects
        for row in score_suspect(
            suspect,
            items,
            [20] * len(items),
            seen,
            protocols=PROTOCOLS,
            attacks=attacks,
            reference_count=references,
            seed=0,
        )
    ]
    chosen = [name for name in attacks if references or name != "rmia"]
    found, points = summarize(suspects, items, rows, protocols=PROTOCOLS, attacks=chosen, resamples=resamples, seed=0)
    return [row for row, _ in rows], found, points


def divided(users, count, away):
    return [
        Item(user, place, place >= away, frozenset([user] if place >= away else []))
        for user in users
        for place in range(count)
    ]


def test_an_adapter_that_was_trained_on_nothing_leaks_nothing(tiny):
    """Random pieces, and random items of the same kind on both sides: ½ lies in every interval."""
    users = [f"u{number}" for number in range(6)]
    items = divided(users, 16, 8)
    generator = np.random.default_rng(0)
    encoded = random_rows(tiny, [(int(generator.integers(5, 12)), int(generator.integers(2, 7))) for _ in items])
    adapters = [MemoryAdapter(random_pieces(tiny, seed)) for seed in range(6)]
    models = [{}, *({module: [(number, 1.0)] for module in tiny.targets} for number in range(6))]
    singles = {user: number + 1 for number, user in enumerate(users)}
    suspects = [
        Suspect("sharers", "sharers", user, singles[user], frozenset([user]), tuple(users), singles) for user in users
    ]
    rows = rows_to_run(suspects, items, PROTOCOLS, reference_count=2, seed=0)
    bank = PieceCache(tiny, lambda index: adapters[index])
    work = [(encoded[item], model) for item, model in rows]
    scored = score(tiny, RecipeRouter(bank, models), work, batch_tokens=8192, batch_rows=512)
    seen = {
        row: Observed(*(np.array(part) for part in (one.logprobs, one.means, one.deviations)))
        for row, one in zip(rows, (scored[index] for index in range(len(rows))), strict=True)
    }
    _, found, _ = leak(suspects, items, seen, references=2, resamples=300)
    for protocol in PROTOCOLS:
        attacks = found["sharers"].protocols[protocol].attacks
        assert list(attacks) == list(NAMES)
        for name, one in attacks.items():
            assert one.interval.low < 0.5 < one.interval.high, (protocol, name, one)


def planted(items, known, surprise=3.0, spread=0.0):
    """What a model says that knows `known` by heart, and the reference, which finds all items (nearly) alike."""
    say = lambda value: Observed(np.full(4, value), np.full(4, -1.0), np.full(4, 0.5))  # noqa: E731
    found = [-surprise - spread * (7 * (index + 3) % len(items)) for index in range(len(items))]
    seen = {(index, 0): say(value) for index, value in enumerate(found)}
    return seen | {(index, 1): say(-0.1 if index in known else value) for index, value in enumerate(found)}


def one_suspect(users, *trained, model=1):
    return Suspect("s", "recipes", "t", model, frozenset(trained), tuple(users), dict.fromkeys(users, 0))


def test_what_is_known_by_heart_is_found_by_every_attack():
    items = divided("ab", 10, 5)
    known = {index for index, item in enumerate(items) if item.trained and item.user_id == "a"}
    rows, found, points = leak([one_suspect("ab", "a")], items, planted(items, known), attacks=NAMES[:-1])
    for protocol in PROTOCOLS:
        leakage = found["s"].protocols[protocol]
        assert {name: one.auc for name, one in leakage.attacks.items()} == dict.fromkeys(NAMES[:-1], 1.0)
        assert leakage.attacks["loss"].without == 0.5
        assert leakage.attacks["calibrated"].without is None
        assert (leakage.members, leakage.targets) == (5, 1)
    assert found["s"].protocols["published"].non_members == 10
    assert found["s"].protocols["held-out"].non_members == 5
    assert {round(row.logprob, 6) for row in rows} == {-0.4, -12.0} and {row.reference for row in rows} == {-12.0}
    assert points[0].fpr == points[0].tpr == 0


def test_rmia_finds_it_among_a_population():
    """All but at most one of the population lies below what is known, and half of it below what is not."""
    items = divided("ab", 10, 5)
    known = {index for index, item in enumerate(items) if item.trained and item.user_id == "a"}
    seen = planted(items, known, spread=0.02)
    rows, found, _ = leak([one_suspect("ab", "a")], items, seen, references=2, attacks=["rmia"])
    assert {row.scores["rmia"] for row in rows if row.held_out} == {1.0}
    for protocol in PROTOCOLS:
        assert 0.9 <= found["s"].protocols[protocol].attacks["rmia"].auc <= 1
        assert found["s"].protocols[protocol].attacks["rmia"].without is None


@pytest.mark.parametrize(("others", "rates"), [(99, (None, None)), (100, (1.0, None)), (1000, (1.0, 1.0))])
def test_low_false_positive_rates_need_many_non_members(others, rates):
    items = [*divided("a", 5, 0), *divided("b", others, 0)]
    _, found, _ = leak([one_suspect("ab", "a")], items, planted(items, range(5)), attacks=["loss"], resamples=0)
    one = found["s"].protocols["published"].attacks["loss"]
    assert (one.tpr_at_1, one.tpr_at_01) == rates
    assert one.interval is None


def test_the_same_non_members_under_many_targets_count_once():
    items = [*divided("a", 5, 0), *divided("b", 60, 0)]
    seen = planted(items, range(5))
    twice = [one_suspect("ab", "a"), Suspect("s", "recipes", "other", 1, frozenset("a"), ("a", "b"), {})]
    _, found, _ = leak(twice, items, seen, attacks=["loss"], resamples=0)
    leakage = found["s"].protocols["published"]
    assert (leakage.targets, leakage.non_members, leakage.attacks["loss"].tpr_at_1) == (2, 60, None)
    assert set(leakage.attacks["loss"].targets) == {"t", "other"}


def test_equal_scores_tell_nothing_and_suspects_without_two_sides_are_counted():
    items = divided("ab", 4, 2)
    suspects = [one_suspect("ab", "a"), Suspect("s", "recipes", "base", 0, frozenset(), ("a", "b"), {})]
    _, found, _ = leak(suspects, items, planted(items, ()), attacks=["loss", "min-k"])
    leakage = found["s"].protocols["held-out"]
    assert leakage.left_out == {"the recipe is the base": 1} and leakage.targets == 1
    assert {(one.auc, one.balanced_accuracy) for one in leakage.attacks.values()} == {(0.5, 0.5)}
    nobody = [Suspect("s", "recipes", "base", 0, frozenset(), ("a", "b"), {})]
    rows, found, points = leak(nobody, items, {}, attacks=["loss"])
    assert rows == points == [] and found["s"].protocols["published"].strongest == ""


def test_without_reference_sharers_there_is_no_rmia():
    items = divided("ab", 4, 2)
    rows, found, _ = leak([one_suspect("ab", "a")], items, planted(items, {2, 3}), references=0)
    assert not [row for row in rows if "rmia" in row.scores]
    assert "rmia" not in found["s"].protocols["published"].attacks
