"""From what models say of items to attack scores, and from scores to what they leak."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from perpcs_cli.artifacts.mia import AttackLeakage, Protocol, ProtocolLeakage, RocPoint, ScoredExample, SystemLeakage
from perpcs_cli.methods.membership.attacks import ATTACKS, COMPARING, RMIA, Case, Observed, likelihood_ratio, rmia
from perpcs_cli.methods.membership.protocols import (
    Item,
    Suspect,
    decided,
    members_of,
    reference_order,
    references,
    rmia_population,
    why_left_out,
)
from perpcs_cli.methods.membership.roc import Curve, auc, auc_interval, balanced_accuracy, compare, roc, tpr_at

Seen = Mapping[tuple[int, int], Observed]
"""(item, model) → what the model says of the item's answer. Model 0 is the reference, base with task adapter."""
ENOUGH = {0.01: 100, 0.001: 1000}
"""A false positive rate → the non-members that it takes to speak of it."""


def score_suspect(
    suspect: Suspect,
    items: Sequence[Item],
    compressed: Sequence[int],
    seen: Seen,
    *,
    protocols: Sequence[Protocol],
    attacks: Collection[str],
    reference_count: int,
    seed: int,
) -> list[tuple[ScoredExample, dict[str, float]]]:
    """(scores of each attacked item under one suspect, the same attacks' scores without the recipe).

    `compressed`: each item's answer under zlib, in bytes. Items of no protocol have no line.
    """
    sides = {protocol: decided(suspect, items, protocol) for protocol in protocols}
    ratios: dict[int, float] = {}
    z: list[int] = []
    if RMIA in attacks and reference_count and any(sides.values()):
        z = rmia_population(suspect, items, seed)
        order = reference_order(suspect, seed)
        for index in sorted({*z, *(index for found in sides.values() for index in found)}):
            names = references(order, items[index], reference_count)
            if names:
                outs = np.array([seen[index, suspect.singles[name]].logprobs.mean() for name in names])
                ratios[index] = likelihood_ratio(seen[index, suspect.model].logprobs, outs)
    found = []
    for index in sorted({index for some in sides.values() for index in some}):
        item = items[index]
        case = Case(seen[index, suspect.model], seen[index, 0], compressed[index])
        scores = {name: attack(case) for name, attack in ATTACKS.items() if name in attacks}
        others = np.array([ratios[other] for other in z if other in ratios and other != index])
        if index in ratios and len(others):
            scores[RMIA] = rmia(ratios[index], others)
        row = ScoredExample(
            system=suspect.system,
            target=suspect.target,
            user_id=item.user_id,
            item=item.place,
            context=item.context,
            published=sides.get("published", {}).get(index),
            held_out=sides.get("held-out", {}).get(index),
            tokens=len(case.observed.logprobs),
            logprob=float(case.observed.logprobs.sum()),
            reference=float(case.reference.logprobs.sum()),
            scores=scores,
        )
        base = case.without()
        without = {name: ATTACKS[name](base) for name in scores if name not in COMPARING}
        found.append((row, without))
    return found


def summarize(
    suspects: Sequence[Suspect],
    items: Sequence[Item],
    rows: Sequence[tuple[ScoredExample, dict[str, float]]],
    *,
    protocols: Sequence[Protocol],
    attacks: Sequence[str],
    resamples: int,
    seed: int,
) -> tuple[dict[str, SystemLeakage], list[RocPoint]]:
    """(what each system leaks under each protocol, the ROC curves). `rows`: of all suspects."""
    systems: dict[str, SystemLeakage] = {}
    points: list[RocPoint] = []
    for name in dict.fromkeys(suspect.system for suspect in suspects):
        group = [suspect for suspect in suspects if suspect.system == name]
        mine = [row for row in rows if row[0].system == name]
        found: dict[Protocol, ProtocolLeakage] = {}
        for protocol in protocols:
            left_out: dict[str, int] = {}
            for suspect in group:
                if reason := why_left_out(suspect, members_of(suspect, items, protocol).values(), protocol):
                    left_out[reason] = left_out.get(reason, 0) + 1
            part = [row for row in mine if row[0].member(protocol) is not None]
            found[protocol], curves = _protocol(part, protocol, attacks, left_out, resamples, seed)
            points += [point for attack, curve in curves.items() for point in _points(name, protocol, attack, curve)]
        systems[name] = SystemLeakage(kind=group[0].kind, protocols=found)
    return systems, points


def _protocol(
    rows: Sequence[tuple[ScoredExample, dict[str, float]]],
    protocol: Protocol,
    attacks: Sequence[str],
    left_out: dict[str, int],
    resamples: int,
    seed: int,
) -> tuple[ProtocolLeakage, dict[str, Curve]]:
    keys = [((row.user_id, row.item), row.member(protocol)) for row, _ in rows]
    others = {key for key, side in keys if not side}
    found: dict[str, AttackLeakage] = {}
    curves: dict[str, Curve] = {}
    for attack in attacks:
        scored = [(row, without) for row, without in rows if attack in row.scores]
        if result := _attack(scored, protocol, attack, resamples, seed):
            found[attack], curves[attack] = result
    leakage = ProtocolLeakage(
        targets=len({row.target for row, _ in rows}) if found else 0,
        left_out=left_out,
        members=len({key for key, side in keys if side}),
        non_members=len(others),
        users=len({user_id for (user_id, _), _ in keys}),
        strongest=max(found, key=lambda attack: found[attack].advantage, default=""),
        attacks=found,
    )
    return leakage, curves


def _attack(
    rows: Sequence[tuple[ScoredExample, dict[str, float]]], protocol: Protocol, attack: str, resamples: int, seed: int
) -> tuple[AttackLeakage, Curve] | None:
    """One attack on all targets; None where no target has members and non-members with a score."""
    place = {name: number for number, name in enumerate(sorted({row.user_id for row, _ in rows}))}
    aucs: dict[str, float] = {}
    without: list[float] = []
    wins = []
    used = []
    by_target: dict[str, list[tuple[ScoredExample, dict[str, float]]]] = {}
    for pair in rows:
        by_target.setdefault(pair[0].target, []).append(pair)
    for target, some in by_target.items():
        members = np.array([bool(row.member(protocol)) for row, _ in some])
        if members.all() or not members.any():
            continue
        scores = np.array([row.scores[attack] for row, _ in some])
        aucs[target] = auc(scores, members)
        wins.append(compare(scores, members, np.array([place[row.user_id] for row, _ in some]), len(place)))
        if attack not in COMPARING:
            without.append(auc(np.array([base[attack] for _, base in some]), members))
        used += [row for row, _ in some]
    if not aucs:
        return None
    curve = roc(np.array([row.scores[attack] for row in used]), np.array([bool(row.member(protocol)) for row in used]))
    others = len({(row.user_id, row.item) for row in used if not row.member(protocol)})
    rates = {rate: tpr_at(curve, rate) if others >= enough else None for rate, enough in ENOUGH.items()}
    leakage = AttackLeakage(
        auc=float(np.mean(list(aucs.values()))),
        interval=auc_interval(wins, resamples=resamples, seed=seed),
        without=float(np.mean(without)) if without else None,
        tpr_at_1=rates[0.01],
        tpr_at_01=rates[0.001],
        balanced_accuracy=balanced_accuracy(curve),
        targets=aucs,
    )
    return leakage, curve


def _points(system: str, protocol: Protocol, attack: str, curve: Curve) -> Iterator[RocPoint]:
    for threshold, fpr, tpr in zip(*(values.tolist() for values in curve), strict=True):
        yield RocPoint(system=system, protocol=protocol, attack=attack, threshold=threshold, fpr=fpr, tpr=tpr)
