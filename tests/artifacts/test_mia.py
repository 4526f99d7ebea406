"""Summaries of membership attacks: round trips, what is checked on reading, and runs that were stopped."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from helpers import provenance

from perpcs_cli.artifacts.io import typed_files
from perpcs_cli.artifacts.io.journal import Header, Journal, open_journal, partial_path
from perpcs_cli.artifacts.metrics import Interval
from perpcs_cli.artifacts.mia import (
    AttackLeakage,
    Leakage,
    Observation,
    ProtocolLeakage,
    RocPoint,
    ScoredExample,
    SystemLeakage,
    read_leakage,
    read_roc,
    read_scores,
    roc_path,
    scores_path,
    source,
    write_leakage,
    write_roc,
)
from perpcs_cli.errors import DataError

ROW = ScoredExample(
    system="per-pcs",
    target="u1",
    user_id="u2",
    item=3,
    published=True,
    tokens=4,
    logprob=-1.5,
    reference=-2.5,
    scores={"loss": -0.375},
)


def summary(path, strongest="loss"):
    typed_files.write_jsonl(scores_path(path), [ROW])
    write_roc(roc_path(path), [RocPoint(system="s", protocol="held-out", attack="x", threshold=0.5, fpr=0.0, tpr=1.0)])
    attack = AttackLeakage(auc=0.75, interval=Interval(low=0.6, high=0.9), balanced_accuracy=0.7, targets={"u1": 0.75})
    found = ProtocolLeakage(
        targets=1, members=5, non_members=7, users=2, strongest=strongest, attacks={"loss": attack}, left_out={"why": 2}
    )
    return Leakage(
        task="movie_tagging",
        systems={"per-pcs": SystemLeakage(kind="recipes", protocols={"published": found})},
        duplicates=0,
        scores=source(scores_path(path)),
        roc=source(roc_path(path)),
        resampling=None,
        provenance=provenance(),
    )


def test_a_summary_and_its_scores_come_back(tmp_path):
    path = tmp_path / "per-pcs.json"
    leakage = summary(path)
    write_leakage(path, leakage)
    assert read_leakage(path) == leakage
    assert read_scores(path) == [ROW]
    assert (ROW.member("published"), ROW.member("held-out")) == (True, None)
    assert roc_path(path).read_text() == "system,protocol,attack,threshold,fpr,tpr\ns,held-out,x,0.5,0.0,1.0\n"
    assert '"format": "perpcs.mia/1"' in path.read_text()


def test_scores_that_have_changed_are_refused(tmp_path):
    path = tmp_path / "per-pcs.json"
    write_leakage(path, summary(path))
    typed_files.write_jsonl(scores_path(path), [ROW, ROW])
    with pytest.raises(DataError, match="has changed since the summary was written"):
        read_scores(path)


def test_roc_curves_come_back(tmp_path):
    path = tmp_path / "a.json"
    leakage = summary(path)
    point = RocPoint(system="s", protocol="held-out", attack="x", threshold=0.5, fpr=0.0, tpr=1.0)
    assert read_roc(roc_path(path), leakage) == [point]
    roc_path(path).write_text(roc_path(path).read_text().replace("0.5", "0.6"))
    with pytest.raises(DataError, match="has changed since the summary was written"):
        read_roc(roc_path(path), leakage)


@pytest.mark.parametrize(
    ("content", "where"),
    [
        ("a,b\n", ""),
        ("system,protocol,attack,threshold,fpr,tpr\ns,held-out,x,0.5,0\n", ", line 2"),
        ("system,protocol,attack,threshold,fpr,tpr\ns,held-out,x,0.5,0,1\ns,held-out,x,half,0,1\n", ", line 3"),
        ("system,protocol,attack,threshold,fpr,tpr\ns,other,x,0.5,0,1\n", ", line 2"),
    ],
)
def test_broken_roc_curves_are_refused(tmp_path, content, where):
    path = tmp_path / "a.json"
    leakage = summary(path)
    roc_path(path).write_text(content)
    with pytest.raises(DataError) as raised:
        read_roc(roc_path(path), msgspec.structs.replace(leakage, roc=source(roc_path(path))))
    assert raised.value.where == f"{roc_path(path)}{where}"


@pytest.mark.parametrize("strongest", ["", "magic"])
def test_a_summary_without_its_strongest_attack_is_refused(tmp_path, strongest):
    path = tmp_path / "per-pcs.json"
    write_leakage(path, summary(path, strongest))
    with pytest.raises(DataError, match="'per-pcs', protocol 'published', are incomplete"):
        read_leakage(path)


def test_another_version_is_refused(tmp_path):
    path = tmp_path / "per-pcs.json"
    write_leakage(path, summary(path))
    path.write_text(path.read_text().replace("perpcs.mia/1", "perpcs.mia/9"))
    with pytest.raises(DataError, match=r"expected the format 'perpcs\.mia/1' and found 'perpcs\.mia/9'"):
        read_leakage(path)


HEADER = Header(of="perpcs.mia/1", provenance=provenance())
SEEN = Observation(item=0, model=1, logprobs=(-0.1,), means=(-1.0,), deviations=(0.1 + 0.2,))


def opened(path: Path, seed: int = 0) -> Journal[Observation]:
    return open_journal(path, msgspec.structs.replace(HEADER, provenance=provenance(seed=seed)), Observation)


def test_a_stopped_run_goes_on_with_the_same_numbers(tmp_path):
    path = partial_path(tmp_path / "x.json")
    journal = opened(path)
    assert journal.rows == []
    journal.add([SEEN])
    with path.open("ab") as file:
        file.write(b'{"item": 0, "mo')
    assert opened(path).rows == [SEEN]


def test_another_runs_observations_are_refused(tmp_path):
    path = partial_path(tmp_path / "x.json")
    opened(path).add([SEEN])
    with pytest.raises(DataError, match="seed 0 -> 1"):
        opened(path, seed=1)


@pytest.mark.parametrize("content", [b"\n", b"{}\n", msgspec.json.encode(SEEN) + b"\n"])
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    path = partial_path(tmp_path / "x.json")
    path.write_bytes(content)
    with pytest.raises(DataError, match="line 1: not a Header: "):
        opened(path)


def test_an_auc_below_one_half_is_an_advantage_too():
    found = [AttackLeakage(auc=auc, balanced_accuracy=0.5).advantage for auc in (0.5, 0.75, 0.25)]
    assert found == [0.0, 0.25, 0.25]
