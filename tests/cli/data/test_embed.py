"""`perpcs embed` and `perpcs similar`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from embedded_workspace import EMBED
from shell import DATA, USAGE, Shell, named, refused

from perpcs_cli.artifacts.embeddings import read_embeddings
from perpcs_cli.artifacts.users import read_users, write_users
from perpcs_cli.model.encoder import Encoder, load_encoder
from perpcs_cli.model.loading.identity import identify
from perpcs_cli.steps import shards

FILE = "embeddings.safetensors"


def test_everyone_is_embedded(shell: Shell) -> None:
    done = shell(named(shell, f"{EMBED} --json"))
    assert json.loads(done.stdout) == {"path": FILE, "users": 8, "embedded": 8, "to_do": 0, "dimensions": 64}
    found = read_embeddings(shell.root / FILE)
    user, *_ = read_users(shell.root / "users.jsonl").values()
    texts = [f"Article: {item['text']} Headline: {item['title']}" for item in user.history]
    encoder = load_encoder(identify(str(shell.model), device="cpu", dtype="float32"), 512)
    assert found.vector(user.user_id).tolist() == encoder.embed(texts).tolist()
    assert not any(str(item["title"]) in str(found.card) for item in user.history)


def test_users_who_are_there_are_skipped_and_changed_ones_made_again(shell: Shell) -> None:
    shell(named(shell, EMBED))
    content = (shell.root / FILE).read_bytes()
    again = shell(named(shell, EMBED))
    assert "8 of 8 users are finished already" in again.stderr
    assert (shell.root / FILE).read_bytes() == content
    before = read_embeddings(shell.root / FILE)
    users = list(read_users(shell.root / "users.jsonl").values())
    users[0] = msgspec.structs.replace(users[0], history=users[0].history[:-1])
    write_users(shell.root / "users.jsonl", users)
    assert "7 of 8" in shell(named(shell, EMBED)).stderr
    after = read_embeddings(shell.root / FILE)
    same = [user.user_id for user in users if (after.vector(user.user_id) == before.vector(user.user_id)).all()]
    assert same == [user.user_id for user in users[1:]]


def test_a_run_over_changed_histories_that_was_stopped(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    shell(named(shell, EMBED))
    users = [msgspec.structs.replace(u, history=u.history[1:]) for u in read_users(shell.root / "users.jsonl").values()]
    write_users(shell.root / "users.jsonl", users)
    honest, done = Encoder.embed, []

    def dying(encoder: Encoder, texts, who):
        if done:
            raise KeyboardInterrupt
        done.append(texts)
        return honest(encoder, texts, who)

    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "embed", dying)
        shell(named(shell, EMBED))
    assert list(read_embeddings(shell.root / FILE).card.users) == [users[0].user_id]


def test_a_stopped_run_goes_on(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    honest, done = Encoder.embed, []

    def dying(encoder: Encoder, texts, who):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(texts)
        return honest(encoder, texts, who)

    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "embed", dying)
        shell(named(shell, EMBED))
    assert len(read_embeddings(shell.root / FILE).card.users) == 3
    assert "3 of 8 users are finished already" in shell(named(shell, EMBED)).stderr
    resumed = (shell.root / FILE).read_bytes()
    (shell.root / FILE).unlink()
    shell(named(shell, EMBED))
    assert (shell.root / FILE).read_bytes() == resumed


def test_some_users_first_and_the_others_later(shell: Shell) -> None:
    shell(named(shell, f"{EMBED} --user TARGET"))
    assert list(read_embeddings(shell.root / FILE).card.users) == shell.ids("target")[:1]
    assert "1 of 8" in shell(named(shell, EMBED)).stderr
    assert len(read_embeddings(shell.root / FILE).card.users) == 8


def test_what_another_run_wrote_while_this_one_waited_is_kept(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = shell.ids("target")
    honest = shards.locked

    @contextlib.contextmanager
    def late(place: Path, waiting: Callable[[str], None]) -> Iterator[None]:
        monkeypatch.setattr(shards, "locked", honest)
        assert shell(named(shell, f"{EMBED} --user {second}")).exit_code == 0
        with honest(place, waiting):
            yield

    monkeypatch.setattr(shards, "locked", late)
    assert shell(named(shell, f"{EMBED} --user {first}")).exit_code == 0
    assert sorted(read_embeddings(shell.root / FILE).card.users) == sorted([first, second])


def test_users_without_a_history(shell: Shell) -> None:
    users = list(read_users(shell.root / "users.jsonl").values())
    write_users(shell.root / "users.jsonl", [msgspec.structs.replace(users[0], history=[]), *users[1:]])
    done = shell(named(shell, EMBED))
    assert f"warning: 1 users have no history to embed, {users[0].user_id!r} for example" in done.stderr
    assert len(read_embeddings(shell.root / FILE).card.users) == 7
    assert "no user has a history" in refused(shell(named(shell, f"{EMBED} --user {users[0].user_id}")), DATA)


def test_force_for_one_user_keeps_everyone_elses(shell: Shell) -> None:
    shell(named(shell, EMBED))
    before = (shell.root / FILE).read_bytes()
    done = json.loads(shell(named(shell, f"{EMBED} --user TARGET --force --json")).stdout)
    assert (done["users"], done["embedded"]) == (1, 1)
    assert (shell.root / FILE).read_bytes() == before


def test_other_settings(shell: Shell) -> None:
    shell(named(shell, EMBED))
    message = refused(shell(named(shell, f"{EMBED} --max-length 16")), DATA)
    assert "was made with other settings: max_length 512 -> 16" in message
    message = refused(shell(named(shell, f"{EMBED} --max-length 16 --force --user TARGET")), DATA)
    assert "and 4 more, made with other settings: max_length 512 -> 16" in message
    assert shell(named(shell, f"{EMBED} --max-length 16 --force --quiet")).stderr == ""


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("embed --encoder nowhere/at/all", DATA, "no such model directory"),
        ("embed --user nobody", USAGE, "no such user: 'nobody'"),
        ("similar --user TARGET", DATA, "there are no embeddings"),
        ("similar --pool nothing.json", DATA, "there is no pool"),
    ],
)
def test_errors(line: str, code: int, words: str, walked: Shell) -> None:
    assert words in refused(walked(named(walked, line)), code)


def test_similar_sharers(shell: Shell) -> None:
    shell(named(shell, EMBED))
    target = shell.ids("target")[0]
    found = json.loads(shell(f"similar --user {target} --json").stdout)
    assert sorted(one["user_id"] for one in found[target]) == sorted(shell.ids("candidate"))
    scores = [one["similarity"] for one in found[target]]
    assert scores == sorted(scores, reverse=True)
    table = shell(f"similar --user {target} --similar 2").stdout.splitlines()
    assert table[0].split() == ["user", "rank", "sharer", "similarity"]
    assert [line.split()[:3] for line in table if line.startswith(target)] == [
        [target, str(rank), one["user_id"]] for rank, one in enumerate(found[target][:2], start=1)
    ]


def test_all_targets_by_default_and_a_sharer_is_not_its_own_neighbour(shell: Shell) -> None:
    shell(named(shell, EMBED))
    assert list(json.loads(shell("similar --json").stdout)) == shell.ids("target")
    sharer = shell.ids("candidate")[0]
    found = json.loads(shell(f"similar --user {sharer} --json").stdout)[sharer]
    assert sorted(one["user_id"] for one in found) == sorted(shell.ids("candidate")[1:])


def test_an_embedding_of_an_older_history(shell: Shell) -> None:
    shell(named(shell, EMBED))
    users = read_users(shell.root / "users.jsonl")
    target = users[shell.ids("target")[0]]
    users[target.user_id] = msgspec.structs.replace(target, history=target.history[1:])
    write_users(shell.root / "users.jsonl", list(users.values()))
    assert "has changed since it was embedded" in refused(shell(named(shell, "similar --user TARGET")), DATA)
