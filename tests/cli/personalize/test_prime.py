"""`perpcs prime`: recipes and traces, resuming, and every way in which files and flags do not fit."""

from __future__ import annotations

import json
import shutil
import sys

import msgspec
import pytest
from embedded_workspace import PRIME
from shell import DATA, RUNTIME, USAGE, Shell, named, refused

from perpcs_cli.artifacts.io.hashing import digest_value
from perpcs_cli.artifacts.io.typed_files import read_json, write_jsonl
from perpcs_cli.artifacts.recipe import Recipe
from perpcs_cli.artifacts.trace import Pareto, Trace, read_trace
from perpcs_cli.artifacts.users import read_users, write_users
from perpcs_cli.methods.prime import engine
from perpcs_cli.model.engine import piece_cache
from perpcs_cli.steps.personalize import in_flight

ONE = f"{PRIME} --user TARGET"


def recipe(shell: Shell, directory: str = "recipes-prime") -> Recipe:
    return read_json(shell.root / directory / f"{shell.ids('target')[0]}.json", Recipe)


def test_recipes_and_traces_for_all_targets(near: Shell) -> None:
    done = near(f"{PRIME} --json")
    found = json.loads(done.stdout)
    assert [one["user_id"] for one in found] == near.ids("target")
    for one in found:
        made = read_json(near.root / one["path"], Recipe)
        assert (made.method, one["path"]) == ("prime", f"recipes-prime/{one['user_id']}.json")
        header, rows = read_trace(near.root / "traces" / f"{one['user_id']}.jsonl")
        assert (header.weights, header.items, len(rows)) == (2, 3, 1 + 2 + 5)
        rewards = {row.weights: row.utility - 0.5 * sum(row.similarity) / 2 for row in rows}
        base = rewards.pop((0.0, 0.0))
        candidates = [rewards[row.weights] for row in rows[3:]]
        assert one["base_reward"] == pytest.approx(base)
        assert one["reward"] == pytest.approx(max(base, *candidates))
        ((mix,),) = made.weights.values()
        applied = {made.sharers[index]: weight for index, weight in mix}
        weights = tuple(applied.get(sharer, 0.0) for sharer in header.sharers)
        assert one["base"] == (not applied)
        assert {**rewards, (0.0, 0.0): base}[weights] == pytest.approx(one["reward"])


def test_the_recipe_predicts(near: Shell) -> None:
    near(named(near, ONE))
    assert near(named(near, "predict --user TARGET --recipes recipes-prime --name prime")).exit_code == 0


def test_several_alphas_need_a_directory_with_a_name(near: Shell) -> None:
    line = named(near, f"{ONE} --out .").replace("--alpha 0.5", "--alpha 0,1")
    assert refused(near(line), USAGE).startswith("--out: names no directory")


def test_several_alphas_share_a_trace_and_have_directories_of_their_own(near: Shell) -> None:
    line = named(near, ONE).replace("--alpha 0.5", "--alpha 0,0.2,1.0,1e-05")
    found = json.loads(near(f"{line} --json --pareto front.json").stdout)
    target = near.ids("target")[0]
    assert [one["path"].partition("/")[0] for one in found] == [
        "recipes-prime-0",
        "recipes-prime-0.2",
        "recipes-prime-1",
        "recipes-prime-1e-05",
    ]
    front = read_json(near.root / "front.json", Pareto).users[target]
    header, rows = read_trace(near.root / "traces" / f"{target}.jsonl")
    assert front.sharers == header.sharers
    assert front.points[0].utility == max(row.utility for row in rows)
    before = near.walk()
    again = near(f"{line} --pareto front.json")
    assert (again.exit_code, again.stdout) == (0, near(line).stdout)
    assert near.walk() == before
    several = named(near, PRIME).replace("--alpha 0.5", "--alpha 0,0.2,1.0,1e-05")
    assert "already exists" in refused(near(f"{several} --pareto front.json"), USAGE)
    other = refused(near(f"{line.replace('1e-05', '2')} --pareto front.json"), DATA)
    assert "front.json: was made with other settings" in other
    (near.root / "front.json").write_text("mine")
    assert "already exists" in refused(near(f"{line} --pareto front.json"), USAGE)
    assert (near.root / "front.json").read_text() == "mine"


def test_a_stopped_run_ends_as_one_that_was_not(near: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    near(named(near, ONE))
    whole = (near.root / "recipes-prime").rename(near.root / "whole")
    (near.root / "traces").rename(near.root / "whole-traces")
    honest, calls = engine.generate, []

    def dying(*given, **named):
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return honest(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(engine, "generate", dying)
        near(named(near, ONE))
    assert not (near.root / "recipes-prime").exists()
    resumed = near(named(near, ONE))
    assert "6 candidates are in the trace already" in resumed.stderr
    name = f"{near.ids('target')[0]}.json"
    assert (near.root / "recipes-prime" / name).read_bytes() == (whole / name).read_bytes()


def test_users_whose_generations_are_small_share_passes(near: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, honest = [], engine.generate

    def counted(base, recipes, rows, **named):
        calls.append(len(rows))
        return honest(base, recipes, rows, **named)

    monkeypatch.setattr(engine, "generate", counted)
    assert near(PRIME).exit_code == 0
    together, calls[:] = list(calls), []
    # Generations of three, the first with the base and two sharers, on three items of each of two users.
    assert together == [2 * 6 * 3, 2 * 2 * 3]
    for target in near.ids("target"):
        assert near(f"{PRIME} --user {target} --traces alone --out alone-recipes").exit_code == 0
        name = f"{target}.jsonl"
        assert read_trace(near.root / "alone" / name)[1] == read_trace(near.root / "traces" / name)[1]
    assert calls == [6 * 3, 2 * 3] * 2
    # Where a generation alone is as large, or the pieces have no room together, each user is searched alone.
    for module, setting, value in [(in_flight, "BUSY", 0), (piece_cache, "CACHE_BYTES", 1)]:
        calls.clear()
        with monkeypatch.context() as patch:
            patch.setattr(module, setting, value)
            assert near(f"{PRIME} --traces {setting} --out {setting}-recipes").exit_code == 0
        assert calls == [6 * 3, 2 * 3] * 2


@pytest.mark.parametrize("race", ["", "--race 0.5 --race-items 2 --prompts both"])
def test_a_run_that_was_stopped_between_two_traces(near: Shell, monkeypatch: pytest.MonkeyPatch, race: str) -> None:
    line = f"{PRIME} {race}"
    assert near(line).exit_code == 0
    for name in ("recipes-prime", "traces"):
        (near.root / name).rename(near.root / f"whole-{name}")
    honest, rounds = Trace.append, []

    def dying(self, rows):
        rounds.append(rows)
        if len(rounds) == 4:
            raise KeyboardInterrupt
        return honest(self, rows)

    with monkeypatch.context() as patch:
        patch.setattr(Trace, "append", dying)
        near(line)
    first, second = (read_trace(near.root / "traces" / f"{name}.jsonl")[1] for name in near.ids("target"))
    assert {row.call for row in first} == {0, 1} and {row.call for row in second} == {0}
    assert near(line).exit_code == 0
    for name in ("recipes-prime", "traces"):
        files = [path.name for path in (near.root / name).iterdir()]
        assert len(files) == 2
        for file in files:
            assert (near.root / name / file).read_bytes() == (near.root / f"whole-{name}" / file).read_bytes()


def test_candidates_that_race(near: Shell) -> None:
    target = near.ids("target")[0]
    line = named(near, ONE).replace("--budget 5 ", "--budget 16 ")
    line += " --popsize 8 --alpha 1 --data-fraction 1 --prompts both"
    race = f"{line} --race 0.5 --race-items 2 --traces raced --out raced-recipes"
    (found,) = json.loads(near(f"{race} --json --pareto front.json").stdout)
    header, rows = read_trace(near.root / "raced" / f"{target}.jsonl")
    stopped = [row for row in rows if row.stopped]
    assert len(stopped) == found["stopped"] > 0
    assert all(row.tokens is None or len(row.tokens) == row.items for row in stopped)
    assert {row.items for row in stopped} <= set(range(2, header.items, 2))
    assert (header.provenance.settings["race"], header.provenance.settings["race_items"]) == (0.5, 2)
    made = recipe(near, "raced-recipes")
    assert made.provenance.settings["prime"]["race"] == 0.5
    # Of the base and the candidates, which come after two sharers.
    chosen_from = [row for row in [rows[0], *rows[3:]] if not row.stopped]
    assert found["reward"] == pytest.approx(max(row.utility - sum(row.similarity) / 2 for row in chosen_from))
    front = read_json(near.root / "front.json", Pareto).users[target]
    assert not {point.weights for point in front.points} & {row.weights for row in stopped}
    again = near(f"{race} --json")
    assert json.loads(again.stdout) == [{**found, "state": "finished"}]
    # A race changes scores, and without one nothing tells of it.
    message = refused(near(f"{line} --traces raced"), DATA)
    assert "was made with other settings" in message and "race 0.5 -> None" in message
    assert near(line).exit_code == 0
    whole, _ = read_trace(near.root / "traces" / f"{target}.jsonl")
    assert "race" not in whole.provenance.settings
    assert not {"race", "race_items"} & recipe(near).provenance.settings["prime"].keys()


def test_finished_users_are_skipped(near: Shell) -> None:
    first = near(named(near, ONE))
    before = near.walk()
    again = near(named(near, ONE))
    assert (again.exit_code, again.stdout) == (0, first.stdout)
    assert again.stderr == "1 of 1 recipes are finished already\n"
    assert near.walk() == before


@pytest.mark.parametrize("change", ["gone", "--metric rouge-1"])
def test_a_finished_recipe_needs_no_trace(near: Shell, change: str) -> None:
    near(named(near, ONE))
    if change == "gone":
        shutil.rmtree(near.root / "traces")
    else:
        assert near(named(near, f"{ONE} {change} --out other --force")).exit_code == 0
    before = near.walk()
    again = near(named(near, f"{ONE} --json"))
    (found,) = json.loads(again.stdout)
    assert (found["state"], found["alpha"], found["reward"]) == ("finished", 0.5, None)
    assert near.walk() == before
    # What the trace would have to tell is refused, not made up.
    message = refused(near(named(near, f"{ONE} --pareto front.json")), DATA)
    assert ("no such file" if change == "gone" else "was made with other settings") in message
    assert not (near.root / "front.json").exists()


def test_the_same_command_writes_the_same_recipe(near: Shell) -> None:
    near(named(near, ONE))
    before = recipe(near)
    assert near(named(near, f"{ONE} --force")).exit_code == 0
    assert recipe(near) == before


def test_a_trace_with_tokens_that_the_model_does_not_have(near: Shell) -> None:
    near(named(near, ONE))
    trace = near.root / "traces" / f"{near.ids('target')[0]}.jsonl"
    header, rows = read_trace(trace)
    tokens = tuple((4000,) for _ in range(header.items))
    forged = [
        msgspec.structs.replace(row, tokens=tokens, outputs=digest_value(tokens)) if row.tokens else row for row in rows
    ]
    write_jsonl(trace, [header, *[row for row in forged if row.tokens]])
    message = refused(near(named(near, f"{ONE} --out other").replace("--alpha 0.5", "--alpha 0.7")), DATA)
    assert "holds tokens that the model, which has" in message


def test_another_alpha_goes_on_with_the_trace(near: Shell) -> None:
    near(named(near, ONE))
    trace = near.root / "traces" / f"{near.ids('target')[0]}.jsonl"
    before = trace.read_bytes()
    done = near(named(near, ONE).replace("0.5", "0.75") + " --out other")
    assert done.exit_code == 0
    assert trace.read_bytes().startswith(before)


@pytest.mark.parametrize("change", ["--merge factor", "--metric rouge-1", "--seed 5", "--data-fraction 0.5"])
def test_a_trace_of_other_settings(near: Shell, change: str) -> None:
    near(named(near, ONE))
    shutil.rmtree(near.root / "recipes-prime")
    message = refused(near(named(near, f"{ONE} {change}")), DATA)
    assert "traces/" in message and "was made with other settings" in message
    assert near(named(near, f"{ONE} {change} --force")).exit_code == 0


def test_a_recipe_of_other_settings(near: Shell) -> None:
    near(named(near, ONE))
    assert "recipes-prime/" in refused(near(named(near, f"{ONE} --sigma 0.25")), DATA)
    several = named(near, ONE).replace("0.5", "1,2")
    near(several)
    shutil.rmtree(near.root / "recipes-prime-1")
    assert "recipes-prime-2/" in refused(near(f"{several} --sigma 0.25"), DATA)


def test_no_candidate_beats_the_base(near: Shell) -> None:
    # A start so narrow that all weights are rounded to zero.
    done = near(named(near, f"{ONE} --sigma 1e-9 --alpha 0 --json"))
    assert "no candidate beats the base; the recipe is the base" in done.stderr
    (found,) = json.loads(done.stdout)
    assert found["base"] and found["reward"] == found["base_reward"]
    assert (recipe(near).sharers, recipe(near).weights) == ((), {"*": [[]]})
    near(named(near, "predict --user TARGET --recipes recipes-prime --name zeros"))
    near(named(near, "predict --user TARGET --base --name plain"))
    zeros, plain = ((near.root / "predictions" / f"{name}.jsonl").read_text() for name in ("zeros", "plain"))
    assert zeros == plain


def test_a_weight_per_layer_and_few_items(near: Shell) -> None:
    assert near(named(near, f"{ONE} --granularity layer --recent 1")).exit_code == 0
    header, _ = read_trace(near.root / "traces" / f"{near.ids('target')[0]}.jsonl")
    assert (header.weights, header.items) == (4, 1)


def test_items_plain_and_with_context(near: Shell) -> None:
    target = near.ids("target")[0]
    history = read_users(near.root / "users.jsonl")[target].history
    both = f"{ONE} --prompts both --data-fraction 1"
    near(named(near, both))
    header, rows = read_trace(near.root / "traces" / f"{target}.jsonl")
    # All but the first item have an earlier one to show.
    assert header.items == 2 * len(history) - 1
    # The sharers' own predictions, P(s)'s references, are answers to the same prompts.
    assert {len(row.tokens) for row in rows if row.tokens} == {header.items}
    assert header.provenance.settings["prompts"] == {"retrieve": 1, "random_history": 0, "profile": None}
    assert recipe(near).provenance.settings["prime"]["prompts"] == "both"
    assert "was made with other settings" in refused(near(named(near, ONE)), DATA)
    near(named(near, f"{both} --recent 2 --out newest --force"))
    assert read_trace(near.root / "traces" / f"{target}.jsonl")[0].items == 3


def test_candidates_may_answer_by_sampling(near: Shell) -> None:
    settings = near.root / "perpcs.toml"
    greedy = settings.read_text()
    found = {}
    for name, text in {"greedy": greedy, "drawn": greedy.replace("temperature = 0.0", "temperature = 0.8")}.items():
        settings.write_text(text)
        for directory in (name, f"{name}-again"):
            assert near(named(near, f"{ONE} --traces {directory} --out {directory}/recipes")).exit_code == 0
        trace = near.root / name / f"{near.ids('target')[0]}.jsonl"
        found[name] = read_trace(trace)
        assert trace.read_bytes() == (near.root / f"{name}-again" / trace.name).read_bytes()
    assert found["drawn"][0].provenance.settings["predict"]["temperature"] == 0.8
    assert found["drawn"][1][0].tokens != found["greedy"][1][0].tokens


def test_a_tie_goes_to_whom_the_settings_say(near: Shell) -> None:
    same = f"{ONE} --sigma 1e-4 --alpha 0 --budget 1"
    assert json.loads(near(named(near, f"{same} --json")).stdout)[0]["base"]
    (found,) = json.loads(near(named(near, f"{same} --ties candidate --json --out other")).stdout)
    assert found["reward"] == found["base_reward"] and not found["base"]
    assert recipe(near, "other").sharers


def test_embeddings_of_a_user_are_missing(near: Shell) -> None:
    (near.root / "embeddings.safetensors").unlink()
    assert "there are no embeddings" in refused(near(PRIME), DATA)
    near(f"embed --encoder {near.model} --user {near.ids('target')[0]}")
    assert "has no embedding of" in refused(near(PRIME), DATA)


def test_a_pool_of_another_base(near: Shell) -> None:
    assert "another base model or task adapter" in refused(near(f"{PRIME} --task-adapter none"), DATA)


def test_a_user_without_answers(near: Shell) -> None:
    users = read_users(near.root / "users.jsonl")
    target = users[near.ids("target")[0]]
    users[target.user_id] = msgspec.structs.replace(target, history=[])
    write_users(near.root / "users.jsonl", list(users.values()))
    assert "has no history" in refused(near(PRIME), DATA)


def test_a_metric_that_is_not_finite(near: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    from perpcs_cli.methods.prime import objective

    honest = objective.from_sums
    monkeypatch.setattr(objective, "from_sums", lambda *given: {**honest(*given), "rouge-1": float("inf")})
    assert "rouge-1 of a candidate is inf" in refused(near(PRIME), RUNTIME)


def test_nevergrad_is_missing(near: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nevergrad", None)
    message = refused(near(f"{PRIME} --optimizer tbpsa"), RUNTIME)
    assert "needs nevergrad" in message and "perpcs[nevergrad]" in message


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--optimizer sgd", "'sgd'"),
        ("--similar 30", "30 sharers are asked for"),
        ("--alpha high", "not numbers separated by commas: 'high'"),
        ("--alpha -1", "prime.alpha must be at least 0, and is -1.0"),
        ("--alpha nan", "prime.alpha must be"),
        ("--bounds 1,2", "prime.bounds must be a range around 0"),
        ("--bounds 1,2,3", "bounds"),
        ("--sigma 0", "prime.sigma must be above 0"),
        ("--data-fraction 0", "prime.data_fraction must be above 0 and at most 1"),
        ("--metric accuracy", "no such metric: 'accuracy'"),
        ("--budget 0", "budget"),
        ("--race 0", "prime.race must be above 0 and at most 0.5"),
        ("--race-items 1", "race-items"),
    ],
)
def test_wrong_usage(ready: Shell, flags: str, words: str) -> None:
    assert words in refused(ready(f"{PRIME} {flags}"), USAGE)
    assert not (ready.root / "traces").exists()
