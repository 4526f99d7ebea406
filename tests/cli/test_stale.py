"""What was made from something else, or for somebody else, is not taken for what is asked for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import pytest
from shell import DATA, USAGE, Shell, named, refused

from perpcs_cli.artifacts.io.journal import partial_path
from perpcs_cli.artifacts.pool import open_pool
from perpcs_cli.artifacts.predictions import Prediction
from perpcs_cli.artifacts.recipe import read_recipe
from perpcs_cli.steps.evaluate import predict
from perpcs_cli.steps.share import train_loras


def test_targets_never_adapt_the_base(shell: Shell) -> None:
    line = "adapt --plain --steps 1 --out other"
    (shell.root / "splits" / "split.json").unlink()
    shutil.copyfile(shell.root / "splits" / "target.txt", shell.root / "splits" / "base.txt")
    assert "stands in base.txt, too" in refused(shell(line), DATA)
    (shell.root / "splits" / "base.txt").write_text("")
    assert "no base users are known" in refused(shell(line), USAGE)
    (shell.root / "splits" / "base.txt").unlink()
    assert "no base users are known" in refused(shell(line), USAGE)
    assert shell(f"{line} --user {shell.ids('candidate')[0]}").exit_code == 0


def test_who_is_a_target_now_is_left_out_of_the_pool(shell: Shell) -> None:
    sharers = shell.ids("candidate")
    for seed in range(1, 9):
        assert shell(f"split --targets 2 --seed {seed} --force").exit_code == 0
        if set(sharers) & set(shell.ids("target")) and set(sharers) & set(shell.ids("candidate")):
            break
    gone = sorted(set(sharers) - set(shell.ids("candidate")))
    done = shell("pool build --out new.json")
    assert done.exit_code == 0, done.stderr
    assert open_pool(shell.root / "new.json").ids == sorted(set(sharers) & set(shell.ids("candidate")))
    assert f"{gone[0]}" in done.stderr
    assert "left out" in done.stderr
    # By name, on purpose.
    assert shell(f"pool build --out named.json --users {gone[0]}").exit_code == 0


@pytest.mark.parametrize("build", ["", "--pseudonymize"])
def test_nobody_is_offered_the_own_pieces(shell: Shell, build: str) -> None:
    sharer = shell.ids("candidate")[0]
    assert shell(f"pool build --out new.json {build}").exit_code == 0
    pool = open_pool(shell.root / "new.json")
    line = f"assemble --pool new.json --plain --top-k 4 --user {sharer} --out r"
    done = shell(line)
    assert done.exit_code == 0, done.stderr
    found = read_recipe(shell.root / "r" / f"{sharer}.json", pool=pool.digest)
    assert len(found.sharers) == len(pool.ids) - 1
    target = shell.ids("target")[0]
    assert shell(line.replace(sharer, target)).exit_code == 0
    assert len(read_recipe(shell.root / "r" / f"{target}.json", pool=pool.digest).sharers) == len(pool.ids)


def test_a_recipe_of_somebody_else(shell: Shell) -> None:
    one, other = (shell.root / "recipes" / f"{name}.json" for name in shell.ids("target"))
    shutil.copyfile(one, other)
    message = refused(shell("predict --name new --max-new-tokens 2"), DATA)
    assert f"is the recipe of {one.stem!r}, and not of {other.stem!r}" in message
    assert shell(f"predict --recipes recipes/{one.name} --name new --max-new-tokens 2").exit_code == 0


def test_answers_of_nobody(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    line = "predict --base --name new --max-new-tokens 2"

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(predict, "write_predictions", killed)
        assert shell(line).exit_code != 0
    journal = partial_path(shell.root / "predictions" / "new.jsonl")
    stranger = Prediction(user_id="nobody", id="q1", output="x")
    journal.write_bytes(journal.read_bytes() + msgspec.json.encode(stranger) + b"\n")
    assert "answers 'q1' of 'nobody', which was not asked" in refused(shell(line), DATA)
    assert shell(f"{line} --force").exit_code == 0


def test_other_commands_miss_an_adapter_that_was_not_written(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between perpcs.toml and the adapter, nothing runs unadapted without a word."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    line = "adapt --plain --steps 1 --out other"
    with monkeypatch.context() as patch:
        patch.setattr(train_loras, "write_adapter", killed)
        assert shell(line).exit_code != 0
    message = refused(shell("predict --base --name new --max-new-tokens 2"), DATA)
    assert "other: holds no adapter_model.safetensors" in message
    assert shell(line).exit_code == 0
    assert shell("predict --base --name new --max-new-tokens 2").exit_code == 0


def test_a_merged_model_of_another_adapter(shell: Shell) -> None:
    line = "adapt --plain --steps 1 --save-merged new --out other"
    assert shell(line).exit_code == 0
    again = shell(line)
    assert "2 of 2 outputs are finished already" in again.stderr
    assert "adapt.steps 1 -> 3" in refused(shell("adapt --plain --steps 3 --save-merged new --out third"), DATA)
    shutil.rmtree(shell.root / "new")
    assert shell(line).exit_code == 0
    assert json.loads((shell.root / "new" / "merged.json").read_text())["format"] == "perpcs.merged/1"


def test_a_trace_holds_no_times(near: Shell) -> None:
    line = named(near, "prime --budget 3 --similar 2 --popsize 3 --alpha 0.5 --user TARGET")
    written = []
    for name in ("one", "two"):
        assert near(f"{line} --out {name} --traces traces-{name}").exit_code == 0
        written += [path.read_bytes() for path in Path(near.root / f"traces-{name}").glob("*.jsonl")]
    assert written[0] == written[1]
