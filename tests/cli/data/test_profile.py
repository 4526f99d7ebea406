"""`perpcs profile`: what it asks and writes, resuming, and how other commands find the profiles."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from shell import DATA, USAGE, Shell, named, refused
from transformers import AutoModelForCausalLM, AutoTokenizer

from perpcs_cli.artifacts.embeddings import read_embeddings
from perpcs_cli.artifacts.io import hashing
from perpcs_cli.artifacts.io.journal import Journal
from perpcs_cli.artifacts.profiles import Profile, read_info, read_profiles, write_profiles
from perpcs_cli.artifacts.settings import ProfileSettings
from perpcs_cli.artifacts.users import User, read_users, write_users
from perpcs_cli.model.encoder import load_encoder
from perpcs_cli.model.loading.identity import identify
from perpcs_cli.steps import shards
from perpcs_cli.steps.workspace import Who, open_workspace
from perpcs_cli.tasks.profile_prompts import profile_lines, profile_prompt
from perpcs_cli.tasks.spec import get_task

FILE = "profiles.jsonl"
LINE = "profile --max-new-tokens 6 --recent 1"


@pytest.fixture
def brief(shell: Shell) -> Shell:
    """A workspace in which the question and one item fit into the tiny model's context."""
    users = [
        msgspec.structs.replace(
            user, history=[{**item, "text": " ".join(str(item["text"]).split()[:4])} for item in user.history]
        )
        for user in users_of(shell).values()
    ]
    write_users(shell.root / "users.jsonl", users)
    return shell


def users_of(shell: Shell) -> dict[str, User]:
    return read_users(shell.root / "users.jsonl")


def greedy(directory: Path, text: str, count: int) -> str:
    """What transformers itself says after `text`."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory)
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    said = model.generate(input_ids=ids, max_new_tokens=count, do_sample=False)[0, ids.shape[1] :]
    return str(tokenizer.decode(said, skip_special_tokens=True)).strip()


def asked(user: User) -> str:
    task = get_task("news_headline")
    return profile_prompt(task, user.user_id, profile_lines(task, user, ProfileSettings(recent=1))).text


def test_random_items_and_drawn_profiles(brief: Shell) -> None:
    """As the published code writes them, and by seed."""
    how = "--random-items 1 --decode-temperature 0.6 --decode-top-p 0.9 --decode-top-k 10"
    found = []
    for more in (how, how, "", f"{how} --seed 4"):
        assert brief(f"profile --max-new-tokens 6 --recent 1 --force {more}").exit_code == 0
        found.append((brief.root / FILE).read_bytes())
    assert found[0] == found[1]
    assert len(set(found)) == 3
    settings = read_info(brief.root / FILE).provenance.settings["profile"]
    assert {"random_items": 1, "temperature": 0.6, "top_p": 0.9, "top_k": 10}.items() <= settings.items()


def test_everyone_gets_the_base_models_greedy_answer(brief: Shell) -> None:
    done = brief(f"{LINE} --json")
    assert json.loads(done.stdout) == {"path": FILE, "profiles": 8, "written": 8, "to_do": 0}
    assert re.fullmatch(r"base: \S+, float32 on cpu\n", done.stderr)
    found = read_profiles(brief.root / FILE)
    users = users_of(brief)
    assert list(found) == sorted(users)
    name, user = next(iter(users.items()))
    # The workspace has a task adapter, which is not used.
    assert found[name].profile == greedy(brief.model, asked(user), 6)
    assert found[name].source == hashing.digest_value(asked(user))
    info = read_info(brief.root / FILE)
    assert (info.task, info.sha256) == ("news_headline", hashing.digest_file(brief.root / FILE))
    settings = info.provenance.settings
    assert {"recent": 1, "random_items": None, "max_new_tokens": 6}.items() <= settings["profile"].items()
    assert settings["profile"]["chat"] is False


def test_a_task_adapter_on_request(brief: Shell) -> None:
    brief(f"{LINE} --out plain.jsonl")
    brief(f"{LINE} --out adapted.jsonl --task-adapter task-adapter")
    assert (
        read_info(brief.root / "plain.jsonl").provenance.base != read_info(brief.root / "adapted.jsonl").provenance.base
    )
    name, user = next(iter(users_of(brief).items()))
    adapted = read_profiles(brief.root / "adapted.jsonl")
    assert adapted[name].profile == greedy(brief.root / "merged", asked(user), 6)


def test_some_users_first_then_all_and_changed_ones_again(brief: Shell) -> None:
    first = brief.ids("target")[0]
    assert brief(f"{LINE} --user {first}").stdout == f"{FILE}\t1 profiles\t1 written\n"
    done = brief(LINE)
    assert done.stdout == f"{FILE}\t8 profiles\t7 written\n"
    assert "1 of 8 users are finished already" in done.stderr
    content = (brief.root / FILE).read_bytes()
    assert brief(LINE).stdout == f"{FILE}\t8 profiles\t0 written\n"
    assert (brief.root / FILE).read_bytes() == content
    before = read_profiles(brief.root / FILE)
    users = users_of(brief)
    users[first] = msgspec.structs.replace(users[first], history=users[first].history[:-1])
    write_users(brief.root / "users.jsonl", list(users.values()))
    assert brief(LINE).stdout == f"{FILE}\t8 profiles\t1 written\n"
    after = read_profiles(brief.root / FILE)
    assert [name for name in users if after[name].source != before[name].source] == [first]


def test_a_killed_run_goes_on_where_it_was(brief: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    brief(f"{LINE} --out whole.jsonl")
    settings = brief.root / "perpcs.toml"
    settings.write_text(settings.read_text().replace("batch_rows = 256", "batch_rows = 1"))
    append, written = Journal.append, []

    def killed(self: Journal, rows: Any) -> None:
        if len(written) == 3:
            with self.path.open("ab") as file:
                file.write(b'{"user_id":"u')
            raise KeyboardInterrupt
        written.extend(rows)
        append(self, rows)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", killed)
        assert brief(LINE).exit_code != 0
    partial = brief.root / "profiles.partial.jsonl"
    assert json.loads(partial.read_text().splitlines()[0])["of"] == "perpcs.profiles/2"
    assert not (brief.root / FILE).exists()
    assert "3 of 8 users have a profile already" in brief(LINE).stderr
    assert not partial.exists()
    assert (brief.root / FILE).read_bytes() == (brief.root / "whole.jsonl").read_bytes()


def test_force_for_one_user_keeps_everyone_elses(brief: Shell) -> None:
    brief(LINE)
    before = (brief.root / FILE).read_bytes()
    done = json.loads(brief(named(brief, f"{LINE} --user TARGET --force --json")).stdout)
    assert (done["profiles"], done["written"]) == (1, 1)
    assert (brief.root / FILE).read_bytes() == before


def test_other_settings_and_other_files_are_not_replaced(shell: Shell) -> None:
    shell(LINE)
    message = refused(shell("profile --max-new-tokens 5 --recent 1"), DATA)
    assert "was made with other settings: profile.max_new_tokens 6 -> 5" in message
    line = "profile --max-new-tokens 5 --recent 1 --force"
    message = refused(shell(named(shell, f"{line} --user TARGET")), DATA)
    assert re.search(r"and 4 more, made with other settings: profile.max_new_tokens 6 -> 5", message)
    assert shell(line).exit_code == 0
    assert read_info(shell.root / FILE).provenance.settings["profile"]["max_new_tokens"] == 5
    assert len(read_profiles(shell.root / FILE)) == 8
    (shell.root / "profiles.meta.json").unlink()
    assert "already exists" in refused(shell(LINE), USAGE)


def test_a_chat_template_is_used_unless_told_not_to(brief: Shell, tmp_path: Path) -> None:
    chatty = tmp_path / "chatty"
    shutil.copytree(brief.model, chatty)
    (chatty / "chat_template.jinja").write_text("<u>{{ messages[0].content }}</u>")
    user = users_of(brief)[brief.ids("target")[0]]
    line = f"{LINE} --model {chatty} --user {user.user_id}"
    for flag, chat in (("", True), ("--chat", True), ("--no-chat", False)):
        brief(f"{line} {flag} --force")
        text = f"<u>{asked(user)}</u>" if chat else asked(user)
        assert read_profiles(brief.root / FILE)[user.user_id].profile == greedy(chatty, text, 6)
        assert read_info(brief.root / FILE).provenance.settings["profile"]["chat"] is chat
    assert "has no chat template" in refused(brief(f"{LINE} --chat --force"), USAGE)


def test_items_that_do_not_fit_are_left_out(shell: Shell) -> None:
    done = shell("profile --max-new-tokens 6")
    assert re.search(
        r"warning: \d of 8 histories are longer than the context; their oldest items were left out", done.stderr
    )
    assert len(read_profiles(shell.root / FILE)) == 8


def test_users_without_a_history(shell: Shell) -> None:
    users = list(users_of(shell).values())
    write_users(shell.root / "users.jsonl", [msgspec.structs.replace(users[0], history=[]), *users[1:]])
    done = shell(LINE)
    assert f"warning: 1 users have no history to describe, {users[0].user_id!r} for example" in done.stderr
    assert len(read_profiles(shell.root / FILE)) == 7
    assert "no user has a history" in refused(shell(f"{LINE} --user {users[0].user_id}"), DATA)


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("profile --max-length 40", DATA, "needs"),
        ("profile --model nowhere/at/all", DATA, "no such model directory"),
        ("profile --user nobody", USAGE, "no such user: 'nobody'"),
    ],
)
def test_errors(line: str, code: int, words: str, walked: Shell) -> None:
    assert words in refused(walked(line), code)


def test_a_run_that_failed_is_in_nobodys_way(brief: Shell) -> None:
    before = brief.walk()
    assert "needs" in refused(brief(f"{LINE} --max-length 40"), DATA)
    assert brief.walk() == before
    assert brief(LINE).exit_code == 0


def test_what_another_run_wrote_while_this_one_waited_is_kept(brief: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = brief.ids("target")
    honest = shards.locked

    @contextlib.contextmanager
    def late(place: Path, waiting: Callable[[str], None]) -> Iterator[None]:
        monkeypatch.setattr(shards, "locked", honest)
        assert brief(f"{LINE} --user {second}").exit_code == 0
        with honest(place, waiting):
            yield

    monkeypatch.setattr(shards, "locked", late)
    assert brief(f"{LINE} --user {first}").exit_code == 0
    assert list(read_profiles(brief.root / FILE)) == sorted([first, second])


def test_every_command_sees_the_profiles(shell: Shell) -> None:
    name, other = shell.ids("target")
    users = users_of(shell)
    write_users(shell.root / "users.jsonl", [msgspec.structs.replace(u, profile="old") for u in users.values()])
    write_profiles(shell.root / FILE, {name: Profile(user_id=name, profile="likes rain")})
    workspace = open_workspace(shell.root)
    everyone = Who().everyone(workspace)
    chosen = Who().select(workspace, "sharer", "target")
    assert {user.user_id: user.profile for user in chosen} == {name: "likes rain", other: "old"}
    assert everyone[name].profile == "likes rain"
    shown = shell(f"prompt --user {name} --with-profile")
    assert "### User Profile:\nlikes rain\n" in shown.stdout
    (shell.root / FILE).write_text("{")
    assert "profiles.jsonl, line 1" in refused(shell("predict --base --name other"), DATA)


def test_profiles_are_embedded_into_a_file_of_their_own(shell: Shell) -> None:
    name, other = shell.ids("target")
    write_profiles(shell.root / FILE, {name: Profile(user_id=name, profile="likes rain")})
    done = shell(named(shell, "embed --what profile --encoder MODEL --json"))
    assert "warning: 7 users have no profile to embed" in done.stderr
    assert json.loads(done.stdout)["path"] == "profile-embeddings.safetensors"
    found = read_embeddings(shell.root / "profile-embeddings.safetensors", "profile")
    encoder = load_encoder(identify(str(shell.model), device="cpu", dtype="float32"), 512)
    assert found.vector(name).tolist() == encoder.embed(["likes rain"]).tolist()
    assert "likes rain" not in str(found.card)
    only = f"embed --what profile --encoder MODEL --user {other}"
    assert "no user has a profile to embed" in (message := refused(shell(named(shell, only)), DATA))
    assert "perpcs profile" in message
    mixed = "embed --encoder MODEL --out profile-embeddings.safetensors"
    assert "holds embeddings of each user's profile, not history" in refused(shell(named(shell, mixed)), DATA)


def test_a_writer_needs_no_layers_for_pieces(brief: Shell, model_dir: Callable[[str], Path]) -> None:
    gpt2 = model_dir("gpt2")
    name, user = next(iter(users_of(brief).items()))
    assert brief(f"{LINE} --model {gpt2} --user {name}").exit_code == 0
    assert read_profiles(brief.root / FILE)[name].profile == greedy(gpt2, asked(user), 6)
