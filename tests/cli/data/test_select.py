"""`perpcs select`: planted clusters, what it writes and says, and whom it refuses."""

from __future__ import annotations

import json

import msgspec
import pytest
import torch
from embedded_workspace import EMBED
from shell import DATA, USAGE, Shell, named, refused

from perpcs_cli.artifacts.embeddings import What, write_embeddings
from perpcs_cli.artifacts.io import hashing
from perpcs_cli.artifacts.io.provenance import Provenance
from perpcs_cli.artifacts.profiles import Profile, write_profiles
from perpcs_cli.artifacts.selection import read_selection
from perpcs_cli.artifacts.users import read_users, write_users
from perpcs_cli.steps.similar_sharers import embedded_texts
from perpcs_cli.tasks.spec import get_task

ITEMS = [2, 4, 4, 1]
"""History items of the four candidates, in the order of their ids."""


def plant(shell: Shell, groups: list[int], what: What = "history", items: list[int] = ITEMS) -> list[str]:
    """Give the candidates histories of these lengths and embeddings in these groups; their ids."""
    names = sorted(shell.ids("candidate"))
    users = read_users(shell.root / "users.jsonl")
    for name, count in zip(names, items, strict=True):
        users[name] = msgspec.structs.replace(users[name], history=users[name].history[:count], profile=f"is {name}")
    write_users(shell.root / "users.jsonl", list(users.values()))
    digests = {
        name: hashing.digest_value(embedded_texts(get_task("news_headline"), users[name], what)) for name in names
    }
    vectors = {name: torch.eye(5)[group] + 0.01 * i for i, (name, group) in enumerate(zip(names, groups, strict=True))}
    file = {"history": "embeddings.safetensors", "profile": "profile-embeddings.safetensors"}[what]
    origin = Provenance(command="embed", settings={}, seed=0)
    write_embeddings(shell.root / file, vectors, digests, "planted", origin, what)
    return names


def sharers(shell: Shell) -> list[str]:
    return (shell.root / "splits" / "sharer.txt").read_text().splitlines()


def test_k_means_seed_is_a_setting(shell: Shell) -> None:
    plant(shell, [0, 0, 1, 2])
    assert shell("select --clusters 3 --min-items 2 --kmeans-seed 0").exit_code == 0
    path = shell.root / "splits" / "selection.json"
    first = path.read_bytes()
    assert json.loads(first)["provenance"]["settings"]["kmeans_seed"] == 0
    settings = shell.root / "perpcs.toml"
    settings.write_text(f"{settings.read_text()}\n[select]\nkmeans_seed = 0\n".replace("[select]\n\n", ""))
    assert "finished already" in shell("select --clusters 3 --min-items 2").stderr
    assert path.read_bytes() == first
    assert "--kmeans-seed" in refused(shell("select --kmeans-seed -1"), USAGE)


def test_the_most_active_user_of_each_cluster(shell: Shell) -> None:
    a, b, c, d = plant(shell, [0, 0, 1, 2])
    done = shell("select --clusters 3 --min-items 2")
    assert done.stdout.splitlines()[0].split() == ["sharer", "items", "reason"]
    assert [line.split(maxsplit=2) for line in done.stdout.splitlines()[2:]] == [
        [b, "4", "most active of 2 users of cluster 0"],
        [c, "4", "only user of cluster 1"],
    ]
    assert done.stderr == (
        "1 clusters give no sharer: their most active users have under 2 items\n"
        "wrote splits: 2 sharers of 4 candidates\n"
    )
    assert sharers(shell) == [b, c]
    found = read_selection(shell.root / "splits" / "selection.json")
    assert (found.strategy, found.candidates) == ("history-cluster", 4)
    assert [(one.cluster, one.cluster_size, one.items) for one in found.chosen] == [(0, 2, 4), (1, 1, 4)]
    assert [(one.cluster, one.user_id, one.items) for one in found.skipped] == [(2, d, 1)]
    assert found.provenance.settings == {
        "task": "news_headline",
        "strategy": "history-cluster",
        "min_items": 2,
        "clusters": 3,
        "kmeans_seed": None,
    }
    assert a not in sharers(shell)


def test_json_is_the_artifact(shell: Shell) -> None:
    plant(shell, [0, 0, 1, 2])
    done = shell("select --clusters 3 --min-items 1 --json --quiet")
    assert json.loads(done.stdout) == json.loads((shell.root / "splits" / "selection.json").read_text())
    assert done.stderr == ""


def test_the_same_again_is_left_and_others_are_refused(shell: Shell) -> None:
    plant(shell, [0, 0, 1, 2])
    first = shell("select --clusters 2 --min-items 1")
    before = shell.walk()
    again = shell("select --clusters 2 --min-items 1")
    assert (again.exit_code, again.stdout) == (0, first.stdout)
    assert "splits/selection.json is finished already" in again.stderr
    assert shell.walk() == before
    assert "clusters 2 -> 3" in refused(shell("select --clusters 3 --min-items 1"), DATA)
    assert shell("select --clusters 3 --min-items 1 --force --seed 4").exit_code == 0
    assert len(sharers(shell)) == 3


def test_a_list_written_by_hand_is_not_replaced(shell: Shell) -> None:
    plant(shell, [0, 0, 1, 2])
    path = shell.root / "splits" / "sharer.txt"
    path.write_text("mine\n")
    message = refused(shell("select --clusters 2 --min-items 1"), USAGE)
    assert message.startswith("splits/sharer.txt: already exists")
    assert path.read_text() == "mine\n"
    assert shell("select --clusters 2 --min-items 1 --out elsewhere").exit_code == 0
    assert sorted(file.name for file in (shell.root / "elsewhere").iterdir()) == ["selection.json", "sharer.txt"]


def test_a_dry_run_writes_nothing(shell: Shell) -> None:
    plant(shell, [0, 0, 1, 2])
    before = shell.walk()
    dry = shell("select --clusters 3 --min-items 2 --dry-run")
    assert shell.walk() == before
    assert "splits/selection.json: to do\n" in dry.stderr
    done = shell("select --clusters 3 --min-items 2")
    assert done.stdout == dry.stdout
    assert "to do" not in done.stderr


def test_more_clusters_than_users(shell: Shell) -> None:
    names = plant(shell, [0, 0, 1, 2])
    done = shell("select --min-items 1")
    assert done.stderr.startswith("4 clusters instead of 50: 4 users have 4 different embeddings\n")
    assert sharers(shell) == names


def test_clusters_of_profiles(shell: Shell) -> None:
    a, _, c, _ = plant(shell, [0, 1, 1, 0], "profile", [2, 3, 4, 1])
    shell("select --strategy profile-cluster --clusters 2 --min-items 1")
    assert sharers(shell) == [a, c]
    write_profiles(shell.root / "profiles.jsonl", {c: Profile(user_id=c, profile="is another")})
    message = refused(shell("select --strategy profile-cluster --clusters 2 --min-items 1"), DATA)
    assert f"the profile of {c!r} has changed since it was embedded" in message
    assert "perpcs embed --what profile" in message


def test_profiles_from_the_first_to_the_last_step(shell: Shell) -> None:
    for line in (
        "profile --max-new-tokens 6 --recent 1",
        "embed --what profile --encoder MODEL",
        "select --strategy profile-cluster --clusters 2 --min-items 1",
    ):
        assert shell(named(shell, line)).exit_code == 0
    assert len(sharers(shell)) == 2
    assert set(sharers(shell)) < set(shell.ids("candidate"))


def test_the_most_active_users(shell: Shell) -> None:
    a, b, c, _ = plant(shell, [0, 0, 0, 0])
    done = shell("select --strategy most-active --count 2 --min-items 1")
    assert sharers(shell) == [b, c]
    assert "rank 1 of 4 by history items" in done.stdout
    done = shell("select --strategy most-active --min-items 2 --force")
    assert done.stderr.startswith("3 sharers instead of 50: all users with at least 2 items\n")
    assert sharers(shell) == [b, c, a]
    shell("select --strategy most-active --clusters 1 --min-items 2 --force")
    assert sharers(shell) == [b]


def test_random_users_by_seed(shell: Shell) -> None:
    names = plant(shell, [0, 0, 0, 0])
    draws = []
    for seed in range(6):
        shell(f"select --strategy random --count 2 --min-items 2 --seed {seed} --out s{seed}")
        draws.append((shell.root / f"s{seed}" / "sharer.txt").read_text().split())
    assert len({tuple(draw) for draw in draws}) > 1
    assert all(len(draw) == 2 and set(draw) < set(names[:3]) for draw in draws)
    shell("select --strategy random --count 2 --min-items 2 --seed 3 --out again")
    assert (shell.root / "again" / "selection.json").read_bytes() == (shell.root / "s3" / "selection.json").read_bytes()


def test_among_the_users_that_are_named(shell: Shell) -> None:
    a, b, _, d = plant(shell, [0, 0, 1, 2])
    shell(f"select --clusters 1 --min-items 1 --users {a},{d}")
    assert sharers(shell) == [a]
    shell(f"select --clusters 1 --min-items 1 --users {b},{d} --force")
    assert sharers(shell) == [b]


def test_users_without_a_history_cannot_share(shell: Shell) -> None:
    names = plant(shell, [0, 0, 1, 2], items=[0, 1, 1, 1])
    done = shell("select --clusters 4 --min-items 1")
    assert done.stderr.startswith("1 users have no history, and cannot share\n")
    assert sharers(shell) == names[1:]


def test_a_new_split_drops_the_sharers_of_the_old_one(shell: Shell) -> None:
    plant(shell, [0, 0, 1, 2])
    shell("select --clusters 2 --min-items 1")
    message = refused(shell("split --targets 2 --seed 5"), DATA)
    assert message.startswith("splits/split.json: was made with other settings: seed 0 -> 5")
    assert shell("split --targets 2 --seed 5 --force").exit_code == 0
    assert not [file for file in shell.walk() if "sharer.txt" in file or "selection.json" in file]


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("select --min-items 1", DATA, "there are no embeddings"),
        ("select --min-items 1", DATA, "perpcs embed`"),
        ("select", DATA, "none of 4 users has 11 history items"),
        ("select", DATA, "The most active has 4."),
        ("select --strategy profile-cluster --min-items 1", DATA, "perpcs embed --what profile"),
        ("select --count 3", USAGE, "--count: is not for the strategy history-cluster"),
        ("select --strategy best", USAGE, "best"),
        ("select --user nobody", USAGE, "no such user: 'nobody'"),
    ],
)
def test_errors(line: str, code: int, words: str, walked: Shell) -> None:
    assert words in refused(walked(line), code)


def test_embeddings_that_are_missing_or_of_another_history(shell: Shell) -> None:
    shell(named(shell, f"{EMBED} --user SHARER"))
    message = refused(shell("select --min-items 1"), DATA)
    assert "embeddings.safetensors: has no embedding of" in message
    shell(named(shell, EMBED))
    sharer = shell.ids("candidate")[0]
    users = read_users(shell.root / "users.jsonl")
    users[sharer] = msgspec.structs.replace(users[sharer], history=users[sharer].history[1:])
    write_users(shell.root / "users.jsonl", list(users.values()))
    assert f"the history of {sharer!r} has changed" in refused(shell("select --min-items 1"), DATA)


def test_a_user_without_a_profile(shell: Shell) -> None:
    names = plant(shell, [0, 0, 1, 2], "profile")
    users = read_users(shell.root / "users.jsonl")
    users[names[1]] = msgspec.structs.replace(users[names[1]], profile=None)
    write_users(shell.root / "users.jsonl", list(users.values()))
    message = refused(shell("select --strategy profile-cluster --min-items 1"), DATA)
    assert f"user {names[1]!r} has no profile" in message
    assert f"perpcs profile --user {names[1]}" in message
