"""From cells to command lines."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from perpcs_cli.artifacts.sweep import Experiment, Method, Sweep, read_sweep
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.inprocess import Shell
from perpcs_cli.errors import UsageError
from perpcs_cli.experiments.sweeps.grid import Cell, cells
from perpcs_cli.experiments.sweeps.pipeline import Kit, Step, as_settings, pipeline
from perpcs_cli.tasks.published_settings import published_settings

COMMANDS = Shell(Console(quiet=True))
KIT = Kit(Path("o"), ("d",), "digest", published_settings("news_headline", "per-pcs"), {"model": "m"}, COMMANDS.flags())
STEPS = {
    "adapt": {"plain": True},
    "train-sharer": {"plain": True},
    "gate": {"plain": True},
    "assemble": {"plain": True},
}


def cell(method: Method, steps: dict[str, Any] | None = None, seed: int = 0, **settings: Any) -> Cell:
    experiment = Experiment(name="x", methods=(method,))
    merged = {**STEPS, **(steps or {})}
    return cells(
        Sweep(
            task="news_headline", model="m", seeds=(seed,), settings=settings, steps=merged, experiments=(experiment,)
        )
    )[0]


def steps(method: Method, given: dict[str, Any] | None = None, **more: Any) -> dict[str, Step]:
    return {step.name: step for step in pipeline(cell(method, given, **more), KIT)}


def short(step: Step) -> str:
    """The command line with digests left out."""
    return re.sub(r"-?[0-9a-f]{12}", "", str(step)).replace("-w o/settings/ ", "")


USERS = "--users-file o/steps/import/users.jsonl"
TARGETS = f"{USERS} --users @o/steps/split/splits/target.txt"
WRITES = "--task-adapter none --seed 0 --out o/steps/profile/profiles.jsonl"
ADAPTED = "--task-adapter o/steps/adapt/task-adapter"
SHARED = [
    "perpcs import d --out o/steps/import/users.jsonl",
    f"perpcs split {USERS} --seed 0 --out o/steps/split/splits",
    f"perpcs adapt {USERS} --users @o/steps/split/splits/base.txt --no-record --plain --seed 0 "
    "--out o/steps/adapt/task-adapter",
]
TRAIN = (
    f"perpcs train-sharer {USERS} --users @o/steps/split/splits/candidate.txt {ADAPTED} --plain --seed 0 "
    "--out o/steps/train-sharer/sharers"
)


def test_the_base_is_asked_without_task_adapter() -> None:
    assert [short(step) for step in pipeline(cell("base"), KIT)] == [
        *SHARED[:2],
        f"perpcs predict {TARGETS} --base --task-adapter none --name base --seed 0 --out o/steps/predict/base.jsonl",
    ]


def test_per_pcs() -> None:
    pool = "o/steps/gate/pool.json"
    assert [short(step) for step in pipeline(cell("per-pcs", {"pool": {"share-ratio": 0.5}}), KIT)] == [
        *SHARED,
        TRAIN,
        f"perpcs gate {USERS} --users @o/steps/split/splits/candidate.txt {ADAPTED} "
        "--sharers o/steps/train-sharer/sharers --plain --seed 0 --out o/steps/gate/sharers",
        "perpcs pool build --sharers o/steps/gate/sharers --users @o/steps/split/splits/candidate.txt "
        f"--share-ratio 0.5 --seed 0 --out {pool}",
        f"perpcs assemble {TARGETS} --pool {pool} {ADAPTED} --plain --seed 0 --out o/steps/assemble/recipes",
        f"perpcs predict {TARGETS} --recipes o/steps/assemble/recipes --pool {pool} {ADAPTED} --name per-pcs --seed 0 "
        "--out o/steps/predict/per-pcs.jsonl",
    ]


@pytest.mark.parametrize("more", [{"given": {"assemble": {"similar": 2}}}, {"assemble": {"similar": 2}}])
def test_per_pcs_of_similar_sharers_needs_embeddings(more: dict[str, Any]) -> None:
    found = steps("per-pcs", **more)
    assert "embed" not in steps("per-pcs")
    assert "--embeddings o/steps/embed/embeddings.safetensors" in short(found["assemble"])
    # Pool and gates are those of all sharers.
    assert found["pool"].digest == steps("per-pcs")["pool"].digest
    assert found["assemble"].digest != steps("per-pcs")["assemble"].digest


def test_a_contrast_names_the_base_users() -> None:
    """By the list of the split, as a step's workspace has none."""
    found = steps("per-pcs", given={"assemble": {"contrast": 8}})["assemble"]
    assert "--base-users @o/steps/split/splits/base.txt" in short(found) and "--contrast 8" in short(found)
    assert "--base-users" not in short(steps("per-pcs")["assemble"])


def test_prime_with_selected_sharers() -> None:
    pool, embed = "o/steps/train-sharer/pool.json", "o/steps/embed/embeddings.safetensors"
    assert [short(step) for step in pipeline(cell("prime", {"select": {"clusters": 4}}), KIT)] == [
        *SHARED,
        f"perpcs embed {USERS} --out {embed}",
        f"perpcs select {USERS} --users @o/steps/split/splits/candidate.txt --embeddings {embed} --clusters 4 --seed 0 "
        "--out o/steps/select/splits",
        TRAIN.replace("split/splits/candidate", "select/splits/sharer"),
        "perpcs pool build --sharers o/steps/train-sharer/sharers --users @o/steps/select/splits/sharer.txt --no-gates "
        f"--seed 0 --out {pool}",
        f"perpcs prime {TARGETS} --pool {pool} --embeddings {embed} {ADAPTED} --seed 0 --traces o/steps/prime/traces "
        "--out o/steps/prime/recipes",
        f"perpcs predict {TARGETS} --recipes o/steps/prime/recipes --pool {pool} {ADAPTED} --name prime --seed 0 "
        "--out o/steps/predict/prime.jsonl",
    ]


def test_oppu_has_the_flags_of_train_sharer_unless_it_has_its_own() -> None:
    found = steps("oppu", {"train-sharer": {"plain": True, "recent": 8}, "oppu": {"recent": 9}})
    assert short(found["oppu"]) == (
        f"perpcs train-sharer {TARGETS} {ADAPTED} --plain --recent 9 --seed 0 --out o/steps/oppu/sharers"
    )


@pytest.mark.parametrize("method", ["base", "adapted", "retrieval", "per-pcs", "prime", "oppu"])
def test_the_commands_take_every_line(method: Method) -> None:
    given = {"select": {"strategy": "profile-cluster"}, "predict": {"with-profile": True, "retrieve": 1}}
    for step in pipeline(cell(method, given), KIT):
        COMMANDS.check(step.line)


def test_a_value_that_no_command_takes_is_an_error() -> None:
    found = steps("base", {"split": {"targets": "many"}})
    with pytest.raises(UsageError, match=r"Invalid value for '--targets'"):
        COMMANDS.check(found["split"].line)


def digests(method: Method, *arguments: Any, **settings: Any) -> dict[str, str]:
    return {name: step.digest for name, step in steps(method, *arguments, **settings).items()}


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


def test_a_step_changes_with_what_it_reads_and_with_what_comes_before_it() -> None:
    before = digests("per-pcs")
    late = {"predict"}
    assert changed(before, digests("per-pcs", {"predict": {"retrieve": 1}})) == late
    late |= {"assemble"}
    assert changed(before, digests("per-pcs", assemble={"recent": 8})) == late
    assert changed(before, digests("per-pcs", {"assemble": {"plain": True, "top-k": 2}})) == late
    late |= {"pool"}
    assert changed(before, digests("per-pcs", {"pool": {"share-ratio": 0.5}})) == late
    late |= {"gate"}
    assert changed(before, digests("per-pcs", gate={"lr": 1e-4})) == late
    late |= {"train-sharer"}
    assert changed(before, digests("per-pcs", train={"lr": 1e-4})) == late
    late |= {"adapt"}
    assert changed(before, digests("per-pcs", max_length=64)) == late
    assert changed(before, digests("per-pcs", seed=1)) == {*late, "split"}
    assert changed(before, digests("per-pcs", prime={"budget": 3})) == set()


@pytest.mark.parametrize(
    "same",
    [
        {"predict": {"retrieve": 0, "with-profile": False, "max-new-tokens": 48}},
        {"assemble": {"plain": True, "top-k": 1, "aggregate": "attention"}},
        {"pool": {"share-ratio": 1.0}},
        {"train-sharer": {"plain": True, "lr": 2e-5, "rank": 8}},
        {"split": {"targets": 100}},
    ],
)
def test_a_flag_that_says_what_holds_without_it_changes_nothing(same: dict[str, Any]) -> None:
    assert digests("per-pcs", same) == digests("per-pcs")


def test_a_flag_is_the_same_as_its_setting() -> None:
    flagged = {"train-sharer": {"plain": True, "lr": 1e-4, "epochs": 2, "lora-alpha": 16}}
    stored = {"train": {"lr": 1e-4, "epochs": 2}, "lora": {"alpha": 16}}
    # The adapter's shape is read by adapt too, whose flags do not say 16.
    assert (
        steps("oppu", {**flagged, "adapt": {"plain": True, "lora-alpha": 16}})["oppu"].digest
        == steps("oppu", **stored)["oppu"].digest
    )


def test_sharers_are_trained_once_for_all_selections() -> None:
    few, many = (steps("per-pcs", {"select": {"clusters": count}}) for count in (2, 4))
    for name in ("train-sharer", "gate"):
        assert few[name].product == many[name].product
        assert few[name].marker != many[name].marker
    assert few["pool"].product != many["pool"].product
    assert few["pool"].product.parent == many["pool"].product.parent == few["gate"].place


def test_searches_share_a_trace_where_it_does_not_depend_on_them() -> None:
    found = [
        steps("prime", {"prime": flags})["prime"]
        for flags in (
            {"alpha": 0.2},
            {"optimizer": "random"},
            {"budget": 9},
            {"ties": "candidate"},
            {"similar": 2},
            {"prompts": "both"},
        )
    ]
    assert len({step.product for step in found}) == 6
    assert [step.place == found[0].place for step in found] == [True, True, True, True, False, False]


def test_profiles_are_written_for_those_who_need_one() -> None:
    assert "profile" not in steps("adapted", {"predict": {"retrieve": 1}})
    shown = steps("adapted", {"predict": {"with-profile": True}})
    assert short(shown["profile"]) == f"perpcs profile {TARGETS} {WRITES}"
    assert shown["predict"].workspace.profile == shown["profile"]
    assert shown["adapt"].workspace.profile is None
    chosen = steps("per-pcs", {"select": {"strategy": "profile-cluster"}})
    candidates = f"{USERS} --users @o/steps/split/splits/candidate.txt"
    assert short(chosen["profile"]) == f"perpcs profile {candidates} {WRITES}"
    assert chosen["embed"].workspace.profile == chosen["select"].workspace.profile == chosen["profile"]
    assert chosen["profile"].digest != shown["profile"].digest
    published = steps("oppu", {"profile": {}, "adapt": {}})
    assert short(published["profile"]) == f"perpcs profile {USERS} {WRITES}"
    assert published["adapt"].workspace.profile == published["profile"]
    assert published["oppu"].workspace.profile is None
    assert steps("prime", {"profile": {}, "prime": {}})["prime"].workspace.profile is None
    both = steps("prime", {"profile": {}, "prime": {"prompts": "both"}})
    assert both["prime"].workspace.profile == both["profile"]


def test_a_seed_of_its_own() -> None:
    kept = {"split": {"seed": 0}}
    first, second = (steps("base", kept, seed=seed) for seed in (0, 7))
    assert first["split"].digest == second["split"].digest
    assert short(second["split"]) == f"perpcs split {USERS} --seed 0 --out o/steps/split/splits"
    assert "--seed 7" in str(second["predict"])


def test_settings_that_cannot_be_name_the_cell() -> None:
    with pytest.raises(UsageError, match=r"x per-pcs seed=0: settings: assemble.top_k must be at least 1, and is 0"):
        steps("per-pcs", {"assemble": {"top-k": 0}})
    with pytest.raises(UsageError, match="each alpha is a cell of its own"):
        steps("prime", {"prime": {"alpha": "0,1"}})


def test_flags_as_settings() -> None:
    assert as_settings({"alpha": 2, "bounds": "-1,2", "similar": 3, "merge": "factor"}, "prime") == (
        {"prime": {"alpha": [2], "bounds": [-1.0, 2.0], "similar": 3, "merge": "factor"}},
        {},
    )
    assert as_settings({"bounds": 2}, "prime") == ({"prime": {"bounds": [-2.0, 2.0]}}, {})
    assert as_settings({"merge": "factor", "weights": "uniform"}, "retrieve") == (
        {"prime": {"merge": "factor"}},
        {"weights": "uniform"},
    )
    assert as_settings({"epochs": 2, "lora-alpha": 4, "plain": True, "max-length": 64}, "adapt") == (
        {"adapt": {"epochs": 2, "steps": None}, "lora": {"alpha": 4}, "max_length": 64},
        {"plain": True},
    )
    assert as_settings({"max-length": 64}, "embed") == ({"embed": {"max_length": 64}}, {})


def test_prime_settings_that_no_search_can_have() -> None:
    with pytest.raises(UsageError, match=r"settings.prime.alpha: each alpha is a cell of its own"):
        steps("prime", prime={"alpha": [0, 1]})
    with pytest.raises(UsageError, match=r"prime.bounds: not numbers separated by commas: 'a'"):
        steps("prime", {"prime": {"bounds": "a"}})


def test_the_commands_take_every_line_of_the_papers_grid() -> None:
    config = Path(__file__).parents[3] / "examples" / "configs" / "reproduce.toml"
    lines = {step.line for one in cells(read_sweep(config)) for step in pipeline(one, KIT)}
    assert len(lines) > 100
    for line in lines:
        COMMANDS.check(line)
