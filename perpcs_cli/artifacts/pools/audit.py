"""What a pool gives away: who shares what, under which guarantee, what attacks found out, what should not be there."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from perpcs_cli.artifacts.adapter import CARD, CONFIG, WEIGHTS, Card
from perpcs_cli.artifacts.gate import FILE as GATE_FILE
from perpcs_cli.artifacts.gate import GateCard, read_gate_card
from perpcs_cli.artifacts.io import tensors, typed_files
from perpcs_cli.artifacts.io.tensors import META
from perpcs_cli.artifacts.mia import Leakage, Protocol, read_leakage
from perpcs_cli.artifacts.packed_recipes import each_recipe
from perpcs_cli.artifacts.pool import OpenPool, embeddings_path, gates_path, pieces_path
from perpcs_cli.artifacts.pools.pseudonyms import MARK, copies_root
from perpcs_cli.artifacts.pools.text_leaks import files_below, find_names, find_words, odd_content
from perpcs_cli.artifacts.pools.verify import verify_changed
from perpcs_cli.artifacts.privacy import RELATION, Guarantee
from perpcs_cli.artifacts.training_log import FILE as LOG_FILE
from perpcs_cli.artifacts.users import User
from perpcs_cli.errors import DataError

METADATA = {WEIGHTS: {"format"}, GATE_FILE: {META}}
"""The keys of metadata that perpcs writes into a sharer's tensor files."""


class SharerAudit(msgspec.Struct, frozen=True, kw_only=True):
    """What one sharer gives."""

    user_id: str
    pieces: int
    gates: bool
    bytes: int
    """Of the pieces that are given, as they are stored."""
    privacy: Guarantee | None
    auc: float | None
    """Of the strongest attack on this sharer's own adapter, if one was measured."""


class Attacked(msgspec.Struct, frozen=True, kw_only=True):
    """The strongest attack on one system under one protocol."""

    file: str
    system: str
    protocol: Protocol
    attack: str
    auc: float
    low: float | None
    high: float | None
    targets: int
    same_pool: bool | None
    """Whether it was this pool, as it is now, that was attacked; None where the summary does not say."""


class Audit(msgspec.Struct, frozen=True, kw_only=True, tag_field="format", tag="perpcs.audit/1"):
    """The report. It holds no text of a user."""

    pool: str
    digest: str
    modules: int
    rank: int
    share_ratio: float
    pseudonyms: bool
    embeddings: bool
    """Whether the pool carries its sharers' embeddings."""
    sharers: list[SharerAudit]
    recipes: int
    other_recipes: int
    """Recipes of other pools in the same directories, which were looked through too."""
    attacks: list[Attacked]
    files: int
    """Files that were looked through."""
    names: int
    """Ids behind pseudonyms that were looked for in them; 0 where the secret is not here."""
    users: int | None
    """Users whose texts were looked for; None where there were none to compare with."""
    data_digests: list[str]
    """Files with digests of the users' data, by which a guess of the data can be confirmed."""
    logs: list[str]
    """Training logs, with the loss of each step."""
    problems: list[str]


def audit_pool(
    pool: OpenPool,
    *,
    recipes: Sequence[Path],
    summaries: Sequence[Path],
    users: Iterable[User] | None,
    ids: Collection[str],
    known: Collection[str],
) -> Audit:
    """Look through a pool, the files of recipes over it and the attacks' summaries.

    `users`: whose texts must not be found. `ids`: what must not be named in a pool of pseudonyms. `known`: texts
    that are nobody's own.
    """
    manifest = pool.manifest
    attacked = {path: read_leakage(path) for path in summaries}
    # Another pool may have sharers with the same ids.
    mine = [leakage for leakage in attacked.values() if leakage.provenance.inputs.get("pool") == pool.digest]
    own = pool_files(pool)
    files = [*own, *recipes]
    odd, digests, logs = _look_through(pool, own)
    problems = [*verify_changed(pool), *odd]
    usual = {*known, RELATION}
    for path in files:
        problems += odd_content(path, usual)
    count = 0

    def counted() -> Iterator[User]:
        nonlocal count
        for count, user in enumerate(users or (), start=1):  # noqa: B007
            yield user

    for leak in find_words(files, counted(), known):
        problems.append(f"{leak.file}: holds words of user {leak.user_id!r} ({leak.field})")
    if manifest.pseudonyms:
        problems += [f"{place}: names {name!r}" for place, name in find_names(own, ids)]
        problems += [f"{place}: holds a digest of a user's data" for place in digests]
        odd = [sharer.user_id for sharer in manifest.sharers if not sharer.user_id.startswith(MARK)]
        problems += [f"{pool.path}: {name!r} is not a pseudonym" for name in odd]
    counts = {True: 0, False: 0}
    for path in recipes:
        try:
            for recipe in each_recipe(path):
                counts[recipe.pool == pool.digest] += 1
        except DataError as error:
            problems.append(str(error))
    return Audit(
        pool=str(pool.path),
        digest=pool.digest,
        modules=len(manifest.modules),
        rank=manifest.rank,
        share_ratio=manifest.share_ratio,
        pseudonyms=manifest.pseudonyms,
        embeddings=bool(manifest.embeddings),
        sharers=[_sharer(pool, index, mine) for index in range(len(pool.ids))],
        recipes=counts[True],
        other_recipes=counts[False],
        attacks=[one for path, leakage in attacked.items() for one in _attacks(path, leakage, pool)],
        files=len(files),
        names=len(ids),
        users=None if users is None else count,
        data_digests=[str(path) for path in digests],
        logs=[str(path) for path in logs],
        problems=list(dict.fromkeys(problems)),
    )


def pool_files(pool: OpenPool) -> list[Path]:
    """Every file of a pool: the manifest, gates and embeddings beside it, and all that lies with the sharers."""
    beside = [pool.path, *(place(pool.path) for place in (gates_path, pieces_path, embeddings_path))]
    places = [pool.directory(index) for index in range(len(pool.ids))]
    below = [*places, *([copies_root(pool.path)] if pool.manifest.pseudonyms else [])]
    return list(dict.fromkeys([path for path in beside if path.exists()] + [f for p in below for f in files_below(p)]))


def _sharer(pool: OpenPool, index: int, leakages: Iterable[Leakage]) -> SharerAudit:
    sharer = pool.manifest.sharers[index]
    given, rank = pool.shares(index), sharer.rank or pool.manifest.rank
    size = sum(rank * (d + n) for module, (d, n) in pool.manifest.modules.items() if module in given)
    found = [
        attack.targets[sharer.user_id]
        for leakage in leakages
        for system in leakage.systems.values()
        if system.kind == "sharers"
        for protocol in system.protocols.values()
        for name, attack in protocol.attacks.items()
        if name == protocol.strongest and sharer.user_id in attack.targets
    ]
    return SharerAudit(
        user_id=sharer.user_id,
        pieces=len(given),
        gates=bool(sharer.gate),
        bytes=4 * size,
        privacy=sharer.privacy,
        auc=max(found, key=lambda auc: abs(auc - 0.5), default=None),
    )


def _attacks(path: Path, leakage: Leakage, pool: OpenPool) -> list[Attacked]:
    digest = leakage.provenance.inputs.get("pool")
    result = []
    for name, system in leakage.systems.items():
        for protocol, found in system.protocols.items():
            if found.targets:
                attack = found.attacks[found.strongest]
                result.append(
                    Attacked(
                        file=str(path),
                        system=name,
                        protocol=protocol,
                        attack=found.strongest,
                        auc=attack.auc,
                        low=attack.interval.low if attack.interval else None,
                        high=attack.interval.high if attack.interval else None,
                        targets=found.targets,
                        same_pool=None if digest is None else digest == pool.digest,
                    )
                )
    return result


def _look_through(pool: OpenPool, files: Sequence[Path]) -> tuple[list[str], list[Path], list[Path]]:
    """What a pool's files are, without their texts: (problems, files with digests of users' data, training logs).

    Problems are files that perpcs does not write there, and metadata that it does not write either.
    """
    expected = {WEIGHTS, CONFIG, CARD, GATE_FILE, *([] if pool.manifest.pseudonyms else [LOG_FILE])}
    places = {pool.directory(index) for index in range(len(pool.ids))}
    embeddings = embeddings_path(pool.path)
    top = {pool.path, gates_path(pool.path), pieces_path(pool.path), embeddings}
    problems, digests = [], []
    for path in files:
        sharers = path.parent in places
        allowed: set[str] = METADATA.get(path.name, set()) if sharers else {META} if path == embeddings else set()
        if not (sharers and path.name in expected) and path not in top:
            problems.append(f"{path}: does not belong to the pool")
        card: Card | GateCard | None = None
        try:
            if path.suffix == ".safetensors":
                file = tensors.open_tensors(path)
                problems += [f"{path}: has unexpected metadata {key!r}" for key in sorted(set(file.metadata) - allowed)]
                card = read_gate_card(file) if path.name == GATE_FILE else None
            elif path.name == CARD:
                card = typed_files.read_json(path, Card)
        except DataError:
            # `verify_changed` tells what is wrong with it.
            continue
        # With a guarantee, the digests are keyed with the workspace's secret.
        if card and not card.privacy and {"user", "examples"} & card.provenance.inputs.keys():
            digests.append(path)
    return problems, digests, [path for path in files if path.name == LOG_FILE]
