"""The whole path through the commands: what they write and say, resuming, reproducibility and precedence."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from shell import STEPS, MakeShell, Shell
from transformers import AutoModelForCausalLM

from perpcs_cli.artifacts.adapter import CARD, Card
from perpcs_cli.artifacts.io import atomic, typed_files
from perpcs_cli.artifacts.io.journal import Header, LongJournal, partial_path
from perpcs_cli.artifacts.predictions import Prediction, info_path, read_info, read_predictions
from perpcs_cli.artifacts.settings import FILE, read_settings

SAYS = {
    "init": r"perpcs\.toml\tnews_headline\t\S+\tpaper per-pcs\tpreset perpcs\n",
    "synth": r"users\.jsonl\t8 users\t4 history items and 2 queries each\n",
    "split": r"splits/split\.json\t2 base users\t2 targets\t4 candidates\n",
    "adapt": r"task-adapter\tloss \d+\.\d{3} -> \d+\.\d{3}\t\d+ examples\n",
    "train-sharer": r"([\w-]+\tsharers/[\w-]+\t\d+\.\d{4}\t\d+\.\d{4}\t2\n){4}",
    "gate": r"([\w-]+\tsharers/[\w-]+/gate\.safetensors\t\d+\.\d{4}\t\d+\.\d{4}\n){4}",
    "pool build": r"pool\.json\t4 sharers, rank 8, 8 linear layers\n",
    "assemble": r"([\w-]+\trecipes/[\w-]+\.json\t\d sharers\t\d+ bytes\t(\d\.\d\d [\w-]+(, )?)+( and 1 more)?\n){2}",
    "oppu": r"([\w-]+\toppu/[\w-]+\t\d+\.\d{4}\t\d+\.\d{4}\t2\n){2}",
    "predict base": r"predictions/base\.jsonl\t4 predictions\n",
    "predict recipes": r"predictions/per-pcs\.jsonl\t4 predictions\n",
    "predict sharer": r"predictions/sharer\.jsonl\t4 predictions\n",
    "predict own": r"predictions/oppu\.jsonl\t4 predictions\n",
    "eval": r"news_headline: 4 queries of 2 users; (.*\n)+",
}
"""What each step writes to stdout."""


@pytest.mark.parametrize("step", STEPS)
def test_stdout_is_data_and_stderr_is_talk(step: str, walked: Shell) -> None:
    result = walked.results[step]
    assert re.fullmatch(SAYS[step], result.stdout), result.stdout
    talk = r"wrote |base: |adapting on |no intervals|\d+ targets|[\w./-]+ now names |[\w-]+: loss "
    assert all(re.match(talk, line) for line in result.stderr.splitlines()), result.stderr


def test_the_files_are_there(walked: Shell) -> None:
    files = set(walked.walk())
    sharers = walked.ids("candidate")
    adapter = ["adapter_config.json", "adapter_model.safetensors", "sharer.json", "train.jsonl"]
    assert len(sharers) == 4
    assert files >= {f"sharers/{name}/{file}" for name in sharers for file in [*adapter, "gate.safetensors"]}
    assert files >= {f"task-adapter/{file}" for file in adapter}
    assert files >= {
        f"{place}" for name in walked.ids("target") for place in (f"recipes/{name}.json", f"oppu/{name}/{CARD}")
    }
    assert files >= {f"predictions/{name}.{kind}" for name in ("base", "per-pcs") for kind in ("jsonl", "meta.json")}
    assert files >= {"perpcs.toml", "users.jsonl", "pool.json", "pool.gates.safetensors", "metrics/eval.json"}
    assert not [name for name in files if ".tmp" in name or "partial" in name]


def test_personal_models_say_other_things_than_the_base(walked: Shell) -> None:
    answers = {path.stem: path.read_bytes() for path in (walked.root / "predictions").glob("*.jsonl")}
    assert len(answers) == 4
    assert len(set(answers.values())) == 4


def test_no_history_text_is_in_what_is_shared(walked: Shell) -> None:
    texts = [
        item["text"]
        for line in (walked.root / "users.jsonl").read_text().splitlines()
        for item in json.loads(line)["history"]
    ]
    shared = [data for name, data in walked.walk().items() if re.match(r"sharers|pool|recipes|task-adapter", name)]
    assert len(texts) == 32
    assert not [text for text in texts for data in shared if text[:30].encode() in data]


@pytest.mark.parametrize(
    "step", ["train-sharer", "gate", "assemble", "oppu", "predict base", "predict recipes", "predict own"]
)
def test_a_finished_step_is_skipped(step: str, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: object) -> None:
        raise AssertionError("a finished step writes nothing")

    monkeypatch.setattr(atomic, "replacing", write)
    monkeypatch.setattr(atomic, "replacing_directory", write)
    before = shell.walk()
    again = shell.step(step)
    assert (again.exit_code, again.stdout) == (0, shell.results[step].stdout)
    assert "already" in again.stderr
    assert shell.walk() == before


def test_only_what_is_missing_is_made(shell: Shell) -> None:
    before = shell.walk()
    name = shell.ids("candidate")[2]
    for path in (shell.root / "sharers" / name).iterdir():
        path.unlink()
    for step in ("train-sharer", "gate"):
        result = shell.step(step)
        assert "3 of 4" in result.stderr
        assert re.findall(r"([\w-]+): loss", result.stderr) == [name]
    assert shell.walk() == before


def test_a_killed_predict_goes_on_where_it_was(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    line = "predict --base --max-new-tokens 8 --batch-rows 1 --out out/base.jsonl"
    append = LongJournal.append
    written: list[Prediction] = []

    def killed(self: LongJournal, rows: Any) -> list[int]:
        written.extend(rows)
        if len(written) == 3:
            with self.path.open("ab") as file:
                file.write(b'{"user_id":"w')
            raise KeyboardInterrupt
        return append(self, written[-1:])

    with monkeypatch.context() as patch:
        patch.setattr(LongJournal, "append", killed)
        assert shell(line).exit_code != 0
    partial = shell.root / "out" / "base.partial.jsonl"
    # The header, two answers, and what was cut off.
    assert len(partial.read_bytes().splitlines()) == 4
    assert not (shell.root / "out" / "base.jsonl").exists()

    assert "base.partial.jsonl: was made with other settings" in shell(line.replace("8", "9")).stderr
    resumed = shell(line)
    assert (resumed.exit_code, resumed.stdout) == (0, "out/base.jsonl\t4 predictions\n")
    assert "2 of 4 queries are answered already" in resumed.stderr
    names = ["base.jsonl", "base.meta.json"]
    stopped = [(shell.root / "out" / name).read_bytes() for name in names]
    assert sorted(path.name for path in partial.parent.iterdir()) == names

    assert shell(f"{line} --force").exit_code == 0
    assert [(shell.root / "out" / name).read_bytes() for name in names] == stopped


def test_a_predict_killed_before_its_sidecar_is_finished(shell: Shell) -> None:
    before = shell.walk()
    path = shell.root / "predictions/base.jsonl"
    info = read_info(path, len(read_predictions(path)))
    assert info is not None
    header = Header(of="perpcs.predictions/2", provenance=info.provenance)
    typed_files.write_jsonl(partial_path(path), [header, *read_predictions(path)])
    info_path(path).unlink()
    done = shell.step("predict base")
    assert (done.exit_code, done.stdout) == (0, shell.results["predict base"].stdout)
    assert "4 of 4 queries are answered already" in done.stderr
    assert shell.walk() == before


def test_the_same_seed_gives_the_same_bytes(walked: Shell, make_path: MakeShell) -> None:
    again = make_path(0)
    for step, result in walked.results.items():
        assert again.results[step].stdout == result.stdout
    assert again.walk() == walked.walk()


def test_another_seed_gives_others(walked: Shell, make_path: MakeShell) -> None:
    other = make_path(1).walk()
    for name in ("users.jsonl", "splits/candidate.txt", "task-adapter/adapter_model.safetensors", "pool.json"):
        assert other[name] != walked.walk()[name], name


def test_adapt_names_the_adapter_and_saves_the_adapted_model(walked: Shell, tiny_dir: Path) -> None:
    assert read_settings(walked.root / FILE)["task_adapter"] == "task-adapter"
    assert walked.results["adapt"].stderr.count("now names task-adapter") == 1
    ids = torch.arange(2, 40)[None]
    base = AutoModelForCausalLM.from_pretrained(tiny_dir)
    plain = base(ids).logits
    adapted = PeftModel.from_pretrained(base, walked.root / "task-adapter")(ids).logits
    merged = AutoModelForCausalLM.from_pretrained(walked.root / "merged")(ids).logits
    assert (adapted - plain).abs().max() > 1e-3
    torch.testing.assert_close(merged, adapted, atol=1e-5, rtol=0)


JSON = {
    "init other --task LaMP_4 --json": {"path", "state"},
    "synth --out other.jsonl --json": {"path", "state"},
    "split --targets 2 --force --json": {"path", "state", "base", "target", "candidate", "left_out"},
    "adapt --plain --steps 2 --out other --json": {"path", "state", "first_loss", "last_loss", "digest"},
    STEPS["train-sharer"] + " --json": {"user_id", "path", "state", "first_loss", "last_loss", "digest"},
    STEPS["train-sharer"] + " --json --dry-run": {"user_id", "path", "state", "examples"},
    STEPS["gate"] + " --json": {"user_id", "path", "state", "adapter", "first_loss", "last_loss"},
    "pool build --force --json": {"path", "state", "base", "modules", "rank", "sharers"},
    "pool list --json": {"user_id", "path", "adapter", "gate"},
    "pool verify --json": {"ok", "problems"},
    STEPS["assemble"] + " --json": {"user_id", "path", "state", "sharers", "weights", "bytes"},
    STEPS["assemble"] + " --json --force": {"user_id", "path", "state", "sharers", "weights", "bytes"},
    STEPS["predict base"] + " --json": {"path", "state", "count"},
    "eval predictions/base.jsonl --resamples 0 --json": {"metrics", "count", "systems"},
}


@pytest.mark.parametrize("line", JSON)
def test_json(line: str, shell: Shell) -> None:
    result = shell(line)
    assert result.exit_code == 0, result.stderr
    value = json.loads(result.stdout)
    first = value[0] if isinstance(value, list) else value
    assert first.keys() >= JSON[line]
    if "state" in JSON[line]:
        assert (shell.root / first["path"]).exists()
        assert first["state"] == ("made" if "--force" in line or "other" in line else "finished")


@pytest.mark.parametrize("step", list(STEPS)[1:])
def test_quiet(step: str, shell: Shell) -> None:
    result = shell.step(step, "--quiet --force")
    assert (result.exit_code, result.stderr) == (0, "")
    assert re.fullmatch(SAYS[step], result.stdout)


def test_dry_run(shell: Shell) -> None:
    first, second = shell.ids("candidate")[:2]
    shutil.rmtree(shell.root / "sharers" / second)
    before = shell.walk()
    result = shell(f"{STEPS['train-sharer']} --users {first},{second} --dry-run")
    assert (result.exit_code, result.stderr) == (0, "1 of 2 users are finished already\n")
    assert re.fullmatch(
        rf"{first}\tsharers/{first}\t\d+\.\d{{4}}\t\d+\.\d{{4}}\t2\n{second}\tsharers/{second}\tto do\n", result.stdout
    )
    assert shell.walk() == before


PUBLISHED = {"task": "news_headline", "seed": 0, "lr": 2e-5}
PRECEDENCE = [
    ("", {}, "", PUBLISHED),
    ("seed = 3\n[train]\nlr = 1e-3\nbatch_size = 2", {}, "", {"seed": 3, "lr": 1e-3}),
    ("seed = 3", {"PERPCS_SEED": "4", "PERPCS_TASK": "LaMP_2M"}, "", {"seed": 4, "task": "movie_tagging"}),
    ("seed = 3", {"PERPCS_SEED": "4"}, "--seed 5", {"seed": 5}),
    ("", {"PERPCS_TASK": "LaMP_5"}, "--task LaMP_2M", {"task": "movie_tagging"}),
    ("[train]\nlr = 1e-3\nbatch_size = 2", {}, "--lr 3e-3", {"lr": 3e-3}),
    ("[train]\nlr = 1e-3\nbatch_size = 2", {"PERPCS_TRAIN_LR": "2e-3"}, "", {"lr": 2e-3}),
    ("", {"PERPCS_TRAIN_LR": "2e-3", "PERPCS_GATE_LR": "5e-3"}, "--lr 3e-3", {"lr": 3e-3}),
]
"""(perpcs.toml beyond task and model, environment, flags, settings other than the published ones)."""


@pytest.mark.parametrize(("stored", "environment", "flags", "expected"), PRECEDENCE)
def test_flag_before_environment_before_file_before_published(
    stored: str, environment: dict[str, str], flags: str, expected: dict[str, Any], tiny_dir: Path, tmp_path: Path
) -> None:
    item = {"text": "rain fell", "title": "Rain", "description": "a film on rain", "tag": "classic"}
    (tmp_path / "users.jsonl").write_text(json.dumps({"user_id": "u", "history": [item]}))
    head = f'format = "perpcs.workspace/3"\ntask = "news_headline"\nmodel = "{tiny_dir}"\n'
    (tmp_path / FILE).write_text(head + stored)
    result = Shell(tmp_path, tiny_dir)(f"train-sharer --steps 1 --device cpu {flags}", **environment)
    assert result.exit_code == 0, result.stderr
    origin = typed_files.read_json(tmp_path / "sharers" / "u" / CARD, Card).provenance
    found = {"task": origin.settings["task"], "seed": origin.seed, "lr": origin.settings["train"]["lr"]}
    assert found == {**PUBLISHED, **expected}


def test_epochs_on_the_command_line_replace_the_stored_steps(shell: Shell) -> None:
    name = shell.ids("candidate")[0]
    result = shell(f"gate --user {name} --plain --epochs 3 --batch-size 2 --force --json")
    assert json.loads(result.stdout)[0]["steps"] == 6
