"""`mia/NAME.json`: what membership attacks find out; with `NAME.jsonl`, each example's scores, and `NAME.roc.csv`.

Neither holds any text: examples are named by user and place in the history. Their own ids stay out, since they may
name the user behind a pseudonym.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

from perpcs_cli.artifacts.io import hashing, typed_files
from perpcs_cli.artifacts.io.limits import Count, Fraction
from perpcs_cli.artifacts.io.provenance import Provenance
from perpcs_cli.artifacts.metrics import Interval, Resampling, Source
from perpcs_cli.errors import DataError

Protocol = Literal["published", "held-out"]
Kind = Literal["base", "recipes", "own", "sharers"]

CAUTION = (
    "The published protocol takes members and non-members from different users, so that its AUC also shows what tells "
    "the users apart: compare it with the AUC without the recipe, on the same examples. In the held-out protocol both "
    "come from the same users. An AUC below one half tells members apart as well, by the score turned round: weights "
    "below zero make what sharers were trained on less likely."
)


class ScoredExample(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One history item under one target's model. A higher score says: rather a member."""

    system: str
    target: str
    """Whose model it is; `*` for the base, as one model for everyone."""
    user_id: str
    """Whose item it is."""
    item: Count
    """Its place in the history, from 0."""
    context: bool = False
    """Asked after the profile and an earlier item, as in training; else plain."""
    published: bool | None = None
    """Member, non-member, or no part of this protocol."""
    held_out: bool | None = None
    tokens: Count
    """Answer tokens, with end of sequence."""
    logprob: float
    """Summed log-probability of the answer, in nats."""
    reference: float
    """The same without the recipe: base with task adapter."""
    scores: dict[str, float]
    """By attack; `rmia` is missing where there is no reference sharer."""

    def member(self, protocol: Protocol) -> bool | None:
        """Member, non-member, or no part of `protocol`."""
        return self.published if protocol == "published" else self.held_out


class AttackLeakage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What one attack finds out. Rates are of all targets' examples together, under one threshold."""

    auc: Fraction
    """The mean over the targets."""
    interval: Interval | None = None
    """Users were drawn; None where fewer than two can be."""
    without: Fraction | None = None
    """The AUC of the same attack on the same examples without the recipe; None for attacks that compare with it."""
    tpr_at_1: Fraction | None = None
    """True positive rate at a false positive rate of 1 %; None with fewer than 100 non-members."""
    tpr_at_01: Fraction | None = None
    """At 0.1 %; None with fewer than 1000 non-members."""
    balanced_accuracy: Fraction
    """At the best threshold."""
    targets: dict[str, Fraction] = {}
    """Each target's AUC."""

    @property
    def advantage(self) -> float:
        """How far the AUC is from guessing: below ½ an attacker turns the score round."""
        return abs(self.auc - 0.5)


class ProtocolLeakage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One system under one protocol. Without targets there are no attacks, and `left_out` says why."""

    targets: Count
    left_out: dict[str, Count] = {}
    """Reason → targets without members or without non-members."""
    members: Count
    """Different items that are a member for some target."""
    non_members: Count
    users: Count
    """Users whose items these are."""
    strongest: str = ""
    """The attack whose AUC is farthest from one half."""
    attacks: dict[str, AttackLeakage] = {}


class SystemLeakage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A kind of model, attacked for each of its targets."""

    kind: Kind
    protocols: dict[Protocol, ProtocolLeakage]


class Leakage(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="format", tag="perpcs.mia/1"
):
    """The summary: systems side by side, attacked in one run."""

    task: str
    systems: dict[str, SystemLeakage]
    caution: str = CAUTION
    duplicates: Count
    """Pairs of target and item left out because the target's model was trained on the same text from elsewhere."""
    scores: Source
    """The examples' scores, beside this file."""
    roc: Source
    resampling: Resampling | None
    """How the intervals were made; None without."""
    provenance: Provenance


class RocPoint(msgspec.Struct, frozen=True, kw_only=True):
    """Rates of one attack if scores from `threshold` on are called members."""

    system: str
    protocol: Protocol
    attack: str
    threshold: float
    fpr: float
    tpr: float


class Observation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a model says of one item's answer, by the numbers that both have in this run; one value per token."""

    item: Count
    model: Count
    logprobs: tuple[float, ...]
    means: tuple[float, ...]
    deviations: tuple[float, ...]


def scores_path(path: Path) -> Path:
    """Where the examples' scores of the summary `NAME.json` lie."""
    return path.with_suffix(".jsonl")


def roc_path(path: Path) -> Path:
    """Where its ROC curves lie."""
    return path.with_suffix(".roc.csv")


def write_roc(path: Path, points: Iterable[RocPoint]) -> None:
    """Write ROC curves as CSV with a header, atomically."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(RocPoint.__struct_fields__)
    writer.writerows(msgspec.structs.astuple(point) for point in points)
    typed_files.write_text(path, file.getvalue())


def read_roc(path: Path, leakage: Leakage) -> list[RocPoint]:
    """The ROC curves of the summary `leakage`.

    Raises DataError with the line's number where the file is broken, and where it is not the summary's.
    """
    data = typed_files.read_text(path)
    if hashing.digest_file(path) != leakage.roc.sha256:
        raise DataError("has changed since the summary was written", where=path, hint="Run `perpcs mia --force`.")
    points = []
    rows = csv.reader(io.StringIO(data))
    try:
        if next(rows, []) != list(RocPoint.__struct_fields__):
            raise DataError("does not begin with the columns of ROC curves", where=path)
        for row in rows:
            named = dict(zip(RocPoint.__struct_fields__, row, strict=True))
            points.append(msgspec.convert(named, RocPoint, strict=False))
    except (csv.Error, *typed_files.UNREADABLE) as error:
        raise DataError(f"is no point of a ROC curve: {error}", where=f"{path}, line {rows.line_num}") from None
    return points


def source(path: Path) -> Source:
    """A file beside the summary, by name and digest."""
    return Source(file=path.name, sha256=hashing.digest_file(path))


def summaries_in(places: Iterable[Path]) -> list[Path]:
    """Summaries, and those that lie in directories."""
    return sorted(path for place in places for path in (place.glob("*.json") if place.is_dir() else [place]))


def read_leakage(path: Path) -> Leakage:
    """Read a summary. Raises DataError where it is broken or does not have the attack that it calls the strongest."""
    leakage = typed_files.read_json(path, Leakage)
    for name, system in leakage.systems.items():
        for protocol, found in system.protocols.items():
            if bool(found.targets) != bool(found.attacks) or (found.targets and found.strongest not in found.attacks):
                raise DataError(f"the attacks on {name!r}, protocol {protocol!r}, are incomplete", where=path)
    return leakage


def read_scores(path: Path) -> list[ScoredExample]:
    """The examples' scores of the summary at `path`.

    Raises DataError where they are missing, broken or not those that the summary was made from.
    """
    leakage = read_leakage(path)
    beside = scores_path(path)
    if hashing.digest_file(beside) != leakage.scores.sha256:
        raise DataError("has changed since the summary was written", where=beside, hint="Run `perpcs mia --force`.")
    return typed_files.read_jsonl(beside, ScoredExample)


def write_leakage(path: Path, leakage: Leakage) -> None:
    """Write a summary, atomically."""
    typed_files.write_json(path, leakage)
