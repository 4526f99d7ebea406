"""Bad input of every kind: one clean message that says what, where and what to do, the exit code, and no data."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from shell import DATA, RUNTIME, USAGE, Shell, named, refused

from perpcs_cli.artifacts.io import atomic, typed_files
from perpcs_cli.model.training import train

Change = Callable[[Shell], object]


def nothing(shell: Shell) -> None:
    """Leave the workspace as it is."""


def remove(name: str) -> Change:
    return lambda shell: (shell.root / named(shell, name)).unlink()


def cut(name: str) -> Change:
    return lambda shell: (shell.root / name).write_bytes((shell.root / name).read_bytes()[:90])


def write(name: str, content: str | bytes) -> Change:
    def change(shell: Shell) -> None:
        path = shell.root / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return change


def append(name: str, content: str | bytes) -> Change:
    more = content if isinstance(content, bytes) else content.encode()
    return lambda shell: (shell.root / name).write_bytes((shell.root / name).read_bytes() + more)


def replace(name: str, old: str, new: str) -> Change:
    """Replace text, which may be `SHARER` or `TARGET`, in a file."""

    def change(shell: Shell) -> None:
        path = shell.root / named(shell, name)
        text = path.read_text()
        assert re.search(named(shell, old), text)
        path.write_text(re.sub(named(shell, old), lambda _: new, text, count=1))

    return change


def commands(*lines: str) -> Change:
    """Other commands before, which succeed."""

    def change(shell: Shell) -> None:
        for line in lines:
            result = shell(named(shell, line))
            assert result.exit_code == 0, result.stderr

    return change


def user(**fields: object) -> str:
    return json.dumps({"user_id": "new", **fields}) + "\n"


ITEM = {"text": "Rain fell.", "title": "Rain"}


class Case(NamedTuple):
    """After `change`, `perpcs LINE` exits with `code`, and its message has each part of `says`, divided by …"""

    change: Change
    line: str
    code: int
    says: str


CASES = {
    # What was asked for
    "no such user": Case(nothing, "assemble --user nobody", USAGE, "users.jsonl: no such user: 'nobody' … 8 users"),
    "no user named": Case(nothing, "assemble --users ,", USAGE, "--users: names no user"),
    "no such list": Case(nothing, "assemble --users @none.txt", DATA, "none.txt: no such file"),
    "list not UTF-8": Case(write("ids.txt", b"\xff\n"), "assemble --users @ids.txt", DATA, "ids.txt: not UTF-8"),
    "no such task": Case(nothing, "assemble --task LaMP_9", USAGE, "no such task: 'LaMP_9' … movie_tagging"),
    "no such paper": Case(nothing, "init new --task LaMP_4 --paper best", USAGE, "'--paper' … 'best' … prime"),
    "no such preset": Case(
        nothing, "init new --task LaMP_4 --preset best", USAGE, "'--preset' … 'best' … published-code"
    ),
    "no such device": Case(nothing, "predict --base --device abacus", USAGE, "--device: the device 'abacus'"),
    "no such model": Case(nothing, "predict --base --model ./none", DATA, "./none: no such model … smollm2-135m"),
    "no such sharer": Case(nothing, "predict --sharer none", DATA, "sharers/none: holds no adapter_model"),
    "sharer elsewhere": Case(nothing, "predict --sharer ../oppu", USAGE, "--sharer: '../oppu' cannot name a file"),
    "name with a slash": Case(nothing, "predict --base --name a/b", USAGE, "--name: 'a/b' … Names are"),
    "two models": Case(nothing, "predict --base --sharer x", USAGE, "--base and --sharer: choose one model"),
    "no workspace": Case(remove("perpcs.toml"), "assemble", USAGE, "perpcs.toml: no task is known … perpcs init"),
    "no model": Case(remove("perpcs.toml"), "assemble --task LaMP_4", USAGE, "no model is known … --model"),
    "top-k too large": Case(
        nothing, "assemble --top-k 9", USAGE, "pool.json: top-k is 9 and the pool has 4 sharers … --top-k"
    ),
    "top-p too large": Case(nothing, "assemble --top-p 2", USAGE, "--top-p: settings: assemble.top_p must be"),
    "rate 0": Case(nothing, "gate --lr 0", USAGE, "--lr: settings: gate.lr must be above 0 and below 1000, and is 0.0"),
    "rate below 0": Case(nothing, "train-sharer --lr -1", USAGE, "--lr: settings: train.lr must be above 0"),
    "rate NaN": Case(nothing, "adapt --lr nan --force", USAGE, "'--lr': nan is not a finite number"),
    "no room for the answer": Case(
        nothing, "predict --base --name n --max-new-tokens 250", DATA, "user TARGET … only 6 fit … --max-length"
    ),
    # perpcs.toml
    "broken TOML": Case(append("perpcs.toml", "[["), "assemble", DATA, "perpcs.toml: not valid TOML"),
    "TOML not UTF-8": Case(append("perpcs.toml", b"\xff"), "assemble", DATA, "perpcs.toml: not UTF-8"),
    "unknown key": Case(append("perpcs.toml", "speed = 1\n"), "assemble", USAGE, "perpcs.toml: settings … `speed`"),
    "wrong type": Case(
        replace("perpcs.toml", "seed = 0", "seed = []"), "split --force", USAGE, "perpcs.toml: settings … seed"
    ),
    "task no text": Case(
        replace("perpcs.toml", "task = .*", "task = 5"), "assemble", USAGE, "perpcs.toml: settings: task"
    ),
    "preset no text": Case(
        replace("perpcs.toml", 'preset = ".*"', "preset = [1]"), "assemble", USAGE, "perpcs.toml: settings: preset"
    ),
    "preset unknown": Case(
        replace("perpcs.toml", 'preset = ".*"', 'preset = "per-pcs"'),
        "assemble",
        USAGE,
        "settings: … 'per-pcs' … preset",
    ),
    "value out of range": Case(
        replace("perpcs.toml", "top_k = 1", "top_k = 0"),
        "assemble",
        USAGE,
        "perpcs.toml: settings: assemble.top_k must be",
    ),
    "TOML of another version": Case(
        replace("perpcs.toml", "workspace/3", "workspace/9"),
        "assemble",
        DATA,
        "perpcs.toml: expected … 'perpcs.workspace/9'",
    ),
    # Users
    "no users file": Case(remove("users.jsonl"), "assemble", DATA, "users.jsonl: no such file"),
    "users not UTF-8": Case(
        append("users.jsonl", b'{"user_id":"\xff"}\n'), "assemble", DATA, "users.jsonl, line 9: not UTF-8"
    ),
    "broken line": Case(append("users.jsonl", '{"user_id":\n'), "assemble", DATA, "users.jsonl, line 9: … JSON object"),
    "no user id": Case(append("users.jsonl", '{"history":[]}\n'), "assemble", DATA, "line 9 … `user_id`"),
    "user id with ..": Case(
        append("users.jsonl", user(user_id="../up")), "assemble", DATA, "users.jsonl: user id '../up' … slash"
    ),
    "user id with a slash": Case(append("users.jsonl", user(user_id="a/b")), "assemble", DATA, "user id 'a/b' cannot"),
    "user twice": Case(append("users.jsonl", user() * 2), "assemble", DATA, "user 'new' occurs twice"),
    "query twice": Case(
        append("users.jsonl", user(queries=[{"id": "q", "input": "?"}] * 2)), "assemble", DATA, "user 'new' … id 'q'"
    ),
    "empty history": Case(
        append("users.jsonl", user()), "train-sharer --user new", DATA, "user 'new' has no history … Choose"
    ),
    "item without text": Case(
        append("users.jsonl", user(history=[{"title": "Rain"}])),
        "train-sharer --user new",
        DATA,
        "no field 'text' … news_headline",
    ),
    "no queries": Case(
        append("users.jsonl", user(history=[ITEM])),
        "predict --base --user new",
        DATA,
        "users.jsonl: the users have no queries",
    ),
    "query of another form": Case(
        append("users.jsonl", user(queries=[{"id": "q", "input": "Well?"}])),
        "predict --base --user new --name n",
        DATA,
        "query 'q' … Expected",
    ),
    # What does not belong together
    "another base, pool": Case(
        nothing, "assemble --task-adapter none", DATA, "pool.json: the pool was built on another base … --task-adapter"
    ),
    "another base, recipes": Case(
        nothing, "predict --task-adapter none --name n", DATA, "pool.json: the pool was built on another base"
    ),
    "another base, adapter": Case(
        nothing,
        "predict --sharer SHARER --task-adapter none",
        DATA,
        "sharers/SHARER: the adapter was trained on another base",
    ),
    "another base, gate": Case(
        nothing, "gate --task-adapter none", DATA, "sharers/SHARER: the adapter was trained on another base"
    ),
    "another base, task adapter": Case(
        nothing,
        "predict --base --name n --task-adapter oppu/TARGET",
        DATA,
        "oppu/TARGET: the task adapter was trained on another base",
    ),
    "sharers of two bases": Case(
        commands(
            "train-sharer --user SHARER --task-adapter none --plain --steps 1 --force",
            "gate --user SHARER --task-adapter none --plain --steps 1",
        ),
        "pool build --force",
        DATA,
        "trained on another base model than",
    ),
    "other target layers": Case(
        replace("perpcs.toml", '"v_proj", "o_proj"', '"up_proj"'),
        "assemble --out r",
        DATA,
        "pool.json: the pool's pieces … lora.targets",
    ),
    "recipe of another pool": Case(
        commands("pool build --share-ratio 0.5 --force"),
        "predict --name n",
        DATA,
        "recipes/TARGET.json: the recipe was made with another pool … perpcs assemble",
    ),
    "recipes of two merges": Case(
        commands("assemble --user TARGET --plain --merge factor --force"),
        "predict --name n",
        DATA,
        "recipes: the recipes differ in their merge",
    ),
    "no recipes": Case(nothing, "predict --recipes none", DATA, "none: there are no recipes … perpcs assemble"),
    "no recipe of a user": Case(
        remove("recipes/TARGET.json"),
        "predict --name n",
        DATA,
        "recipes/TARGET.json: 1 of 2 users … assemble --user TARGET",
    ),
    "recipe with a stranger": Case(
        replace("recipes/TARGET.json", '"sharers":\\["[^"]*"', '"sharers":["../x"'),
        "predict --name n",
        DATA,
        "'../x', who is not in the pool",
    ),
    "recipe with an unknown layer": Case(
        replace("recipes/TARGET.json", "q_proj", "up_proj"),
        "predict --name n",
        DATA,
        "recipes/TARGET.json: the recipe has no weights for",
    ),
    "gates of another adapter": Case(
        commands("train-sharer --user SHARER --plain --steps 3 --force"),
        "pool build --force",
        DATA,
        "has no gates … perpcs gate",
    ),
    # Settings that changed since
    "sharer, other settings": Case(
        nothing,
        "train-sharer --plain --steps 3 --lr 1e-2",
        DATA,
        "sharers/SHARER: was made with other settings: train.steps 2 -> 3\n … --force",
    ),
    "gate, other settings": Case(
        nothing,
        "gate --plain --steps 2 --lr 1e-2",
        DATA,
        "gate.safetensors: was made with other settings: gate.lr 0.1 -> 0.01\n … --force",
    ),
    "recipe, other settings": Case(
        nothing,
        "assemble --plain --top-k 1",
        DATA,
        "recipes/TARGET.json: was made with other settings: assemble.top_k 2 -> 1\n … --force",
    ),
    "predictions, other settings": Case(
        nothing,
        "predict --base --max-new-tokens 9",
        DATA,
        "predictions/base.jsonl: was made with other settings: predict.max_new_tokens 8 -> 9\n … --force",
    ),
    "split, other settings": Case(
        nothing,
        "split",
        DATA,
        "splits/split.json: was made with other settings: targets 2 -> 100\n … --force",
    ),
    "task adapter, other settings": Case(
        nothing,
        "adapt --plain --steps 3 --lr 1e-2",
        DATA,
        "task-adapter: was made with other settings: adapt.steps 2 -> 3\n … --force",
    ),
    "pool, other settings": Case(
        nothing,
        "pool build --share-ratio 0.5",
        DATA,
        "pool.json: was made with other settings: share_ratio 1.0 -> 0.5\n … --force",
    ),
    # What exists
    "workspace exists": Case(nothing, "init . --task LaMP_4", USAGE, "perpcs.toml: already exists … --force"),
    "users exist": Case(nothing, "synth", USAGE, "users.jsonl: already exists … --force"),
    "split by hand exists": Case(
        write("lists/target.txt", "topic-000\n"),
        "split --out lists",
        USAGE,
        "lists/target.txt: already exists … --force",
    ),
    "task adapter of somebody": Case(
        write("mine/notes.txt", "mine"),
        "adapt --plain --steps 1 --out mine",
        USAGE,
        "mine: already exists … --force",
    ),
    "merged model exists": Case(
        remove("merged/merged.json"),
        "adapt --out other --save-merged merged",
        USAGE,
        "merged: already exists … --force",
    ),
    "sharer of somebody": Case(
        remove("sharers/SHARER/sharer.json"),
        "train-sharer --plain --steps 2 --lr 1e-2",
        USAGE,
        "sharers/SHARER: already exists … --force",
    ),
    "pool of others exists": Case(
        nothing, "pool build --users SHARER", USAGE, "pool.json: already exists, of other sharers … --force"
    ),
    "predictions of somebody": Case(
        write("predictions/n.jsonl", "mine"),
        "predict --base --name n",
        USAGE,
        "predictions/n.jsonl: already exists … --force",
    ),
    "metrics exist": Case(
        nothing,
        "eval predictions/base.jsonl --out metrics/eval.json",
        USAGE,
        "metrics/eval.json: already exists … --force",
    ),
    # Manifests and formats
    "no pool": Case(remove("pool.json"), "assemble", DATA, "pool.json: there is no pool … perpcs pool build"),
    "no sharers": Case(
        nothing, "pool build --sharers none --out p.json", DATA, "none: holds no sharers … perpcs train-sharer"
    ),
    "no such sharer for the pool": Case(
        nothing, "pool build --users x --force", USAGE, "sharers: no such sharer: 'x' … train-sharer"
    ),
    "pool above its sharers": Case(
        nothing, "pool build --out deep/pool.json", USAGE, "is not below the pool's directory deep … --out"
    ),
    "path leaves the pool": Case(
        replace("pool.json", '"path": "sharers/', '"path": "../../'),
        "assemble",
        DATA,
        "pool.json: the path '../../ … leaves its directory",
    ),
    "absolute path": Case(
        replace("pool.json", '"path": "sharers/', '"path": "/'),
        "pool list",
        DATA,
        "pool.json: the path '/ … leaves its directory",
    ),
    "sharer id with ..": Case(
        replace("pool.json", '"user_id": "', '"user_id": "../'),
        "pool list",
        DATA,
        "pool.json: sharer '../ … cannot name a file",
    ),
    "shared piece out of range": Case(
        replace("pool.json", '"gate": "[^"]*"', '"gate": "", "shared": [8]'),
        "pool list",
        DATA,
        "pool.json … not in the list of modules",
    ),
    "pool cut off": Case(cut("pool.json"), "assemble", DATA, "pool.json: not valid JSON … truncated"),
    "pool of another version": Case(
        replace("pool.json", "perpcs.pool/4", "perpcs.pool/9"),
        "assemble",
        DATA,
        "pool.json: expected the format 'perpcs.pool/4' and found 'perpcs.pool/9' … version",
    ),
    "recipe of another version": Case(
        replace("recipes/TARGET.json", "recipe/1", "recipe/9"),
        "predict --name n",
        DATA,
        "recipes/TARGET.json: expected the format … 'perpcs.recipe/9'",
    ),
    "sharer of another version": Case(
        replace("sharers/SHARER/sharer.json", "sharer/3", "sharer/9"),
        "gate",
        DATA,
        "sharer.json: expected the format … 'perpcs.sharer/9'",
    ),
    "predictions of another version": Case(
        replace("predictions/base.meta.json", "predictions/2", "predictions/9"),
        "predict --base",
        DATA,
        "base.meta.json: expected the format",
    ),
    "another kind of file": Case(
        nothing,
        "assemble --pool metrics/eval.json",
        DATA,
        "eval.json: expected the format 'perpcs.pool/4' and found 'perpcs.metrics/1'",
    ),
    "unfinished sharer": Case(
        remove("sharers/SHARER/sharer.json"), "pool build --force --no-gates", DATA, "holds no sharer.json"
    ),
    "pool without gates": Case(
        commands("pool build --no-gates --force"),
        "assemble",
        DATA,
        "pool.json: the pool was built without gates … perpcs gate",
    ),
    "gates missing": Case(
        remove("sharers/SHARER/gate.safetensors"),
        "pool build --force",
        DATA,
        "sharers/SHARER/gate.safetensors: the sharer has no gates … perpcs gate",
    ),
    # Where to write
    "below a file, adapt": Case(nothing, "adapt --out perpcs.toml/a", USAGE, "'--out' … 'perpcs.toml' is no directory"),
    "below a file, predictions": Case(
        nothing, "predict --base --out perpcs.toml/deep/p.jsonl", USAGE, "'--out' … 'perpcs.toml' is no directory"
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name: str, shell: Shell) -> None:
    case = CASES[name]
    case.change(shell)
    before = shell.walk()
    message = refused(shell(named(shell, case.line)), case.code)
    for words in named(shell, case.says).split(" … "):
        assert words in message
    kept = shell.walk()
    assert {path: kept.get(path) for path in before} == before


def test_a_long_history_is_cut_with_a_warning(shell: Shell) -> None:
    long = {"text": "word " * 400, "title": "A headline that stays"}
    append("users.jsonl", user(history=[long, ITEM]))(shell)
    result = shell("train-sharer --user new --plain --steps 1 --quiet --json")
    assert result.exit_code == 0
    assert re.fullmatch(
        r"warning: user new: 1 of 2 inputs are longer than the context; their articles were cut from the left, "
        r"\d+ tokens at most\n",
        result.stderr,
    )
    trained = json.loads(result.stdout)[0]["tokens"]
    append("users.jsonl", user(user_id="short", history=[{**long, "text": "word"}, ITEM]))(shell)
    assert trained == json.loads(shell("train-sharer --user short --plain --steps 1 --json").stdout)[0]["tokens"]


OVERWRITE = {
    "pool build": "pool.json",
    "assemble --plain --top-k 2": "recipes/TARGET.json",
    "predict --base --max-new-tokens 8": "predictions/base.jsonl",
    "synth --count 8 --history 4 --queries 2": "users.jsonl",
    "split --targets 2": "splits/split.json",
}


@pytest.mark.parametrize("line", OVERWRITE)
def test_force_replaces(line: str, shell: Shell) -> None:
    path = shell.root / named(shell, OVERWRITE[line])
    whole = path.read_bytes()
    path.write_bytes(b"something else")
    assert shell(line).exit_code in (USAGE, DATA)
    assert path.read_bytes() == b"something else"
    assert shell(f"{line} --force").exit_code == 0
    assert path.read_bytes() == whole


@pytest.mark.parametrize("line", OVERWRITE)
def test_an_interrupted_write_leaves_the_old_file(line: str, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = shell.walk()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        message = refused(shell(f"{line} --force --seed 1"), RUNTIME)
    assert "cannot be written: No space left on device" in message
    assert "free space" in message
    assert shell.walk() == before


def test_an_interrupted_training_leaves_the_old_sharer(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    before = shell.walk()
    line = named(shell, "train-sharer --user SHARER --plain --steps 1 --force")
    for place in ((train, "train"), (typed_files, "write_json"), (atomic, "_exchange")):
        with monkeypatch.context() as patch:
            patch.setattr(*place, interrupted)
            assert shell(line).exit_code != 0
        assert shell.walk() == before


def test_a_diverging_training_leaves_its_log_alone(shell: Shell) -> None:
    before = shell.walk()
    line = named(shell, "train-sharer --user TARGET --plain --steps 9 --lr 900 --lora-alpha 1e12")
    message = refused(shell(line), RUNTIME)
    assert "lower learning rate" in message
    after = shell.walk()
    assert after.pop(named(shell, "sharers/TARGET.failed.jsonl")).startswith(b'{"step":1,')
    assert after == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_without_permission(shell: Shell) -> None:
    (shell.root / "locked").mkdir(mode=0o500)
    message = refused(shell("synth --out locked/users.jsonl"), RUNTIME)
    assert message.startswith("locked/users.jsonl: cannot be written: Permission denied")


def test_the_traceback_is_there_on_request(shell: Shell) -> None:
    result = shell("assemble --user nobody", PERPCS_DEBUG="1")
    assert type(result.exception).__name__ == "UsageError"
