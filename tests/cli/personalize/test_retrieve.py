"""`perpcs retrieve`: whole LoRAs by similarity, as recipes that `predict` runs."""

from __future__ import annotations

import json
import math

import pytest
from shell import DATA, USAGE, Shell, named, refused

from perpcs_cli.artifacts.io.typed_files import read_json
from perpcs_cli.artifacts.recipe import Recipe


def weights(shell: Shell, path: str) -> dict[str, float]:
    recipe = read_json(shell.root / path, Recipe)
    assert list(recipe.weights) == ["*"]
    ((mix,),) = recipe.weights.values()
    return {recipe.sharers[index]: weight for index, weight in mix}


def test_the_weights_are_the_softmax_of_the_similarities(near: Shell) -> None:
    done = near("retrieve --similar 3")
    target = near.ids("target")[0]
    assert done.stdout.startswith(f"{target}\trecipes-retrieve/{target}.json\t3 sharers\t")
    found = json.loads(near(f"similar --user {target} --similar 3 --json").stdout)[target]
    total = sum(math.exp(one["similarity"]) for one in found)
    expected = {one["user_id"]: round(math.exp(one["similarity"]) / total, 4) for one in found}
    assert weights(near, f"recipes-retrieve/{target}.json") == expected


def test_uniform_and_single(near: Shell) -> None:
    target = near.ids("target")[0]
    near("retrieve --similar 4 --weights uniform")
    near("retrieve --weights single --merge factor")
    assert set(weights(near, f"recipes-uniform/{target}.json").values()) == {0.25}
    (nearest,) = json.loads(near(f"similar --user {target} --similar 1 --json").stdout)[target]
    assert weights(near, f"recipes-single/{target}.json") == {nearest["user_id"]: 1.0}
    methods = {name: read_json(near.root / f"recipes-{name}/{target}.json", Recipe) for name in ("uniform", "single")}
    assert {name: (one.method, one.merge) for name, one in methods.items()} == {
        "uniform": ("uniform", "product"),
        "single": ("single", "factor"),
    }


def test_a_single_sharer_predicts_as_the_sharer(near: Shell) -> None:
    near(named(near, "retrieve --user TARGET --weights single"))
    (sharer,) = weights(near, f"recipes-single/{near.ids('target')[0]}.json")
    near(named(near, "predict --user TARGET --recipes recipes-single --name single"))
    near(named(near, f"predict --user TARGET --sharer {sharer} --name own"))
    single, own = ((near.root / "predictions" / f"{name}.jsonl").read_text() for name in ("single", "own"))
    assert single == own != ""


def test_a_sharer_gives_only_what_it_shares(near: Shell) -> None:
    near("pool build --share-ratio 0.5 --force")
    near(named(near, "retrieve --user TARGET --similar 2 --weights uniform"))
    recipe = read_json(near.root / f"recipes-uniform/{near.ids('target')[0]}.json", Recipe)
    used = [mix for layers in recipe.weights.values() for mix in layers]
    assert sum(len(mix) for mix in used) == 2 * 4
    assert near(named(near, "predict --user TARGET --recipes recipes-uniform --name half")).exit_code == 0


def test_recipes_that_exist(near: Shell) -> None:
    first = near("retrieve --similar 2")
    again = near("retrieve --similar 2")
    assert (again.stdout, "2 of 2 users are finished already" in again.stderr) == (first.stdout, True)
    assert "was made with other settings: top_k 2 -> 3" in refused(near("retrieve --similar 3"), DATA)
    assert near("retrieve --similar 3 --force").stdout.count("3 sharers") == 2


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("retrieve --similar 30", USAGE, "30 sharers are asked for, and there are"),
        ("retrieve --temperature 0", USAGE, "the temperature must be above 0"),
        ("retrieve --temperature nan", USAGE, "nan is not a finite number"),
        ("retrieve --weights best", USAGE, "'best'"),
        ("retrieve --embeddings none.safetensors", DATA, "there are no embeddings"),
    ],
)
def test_errors(ready: Shell, line: str, code: int, words: str) -> None:
    assert words in refused(ready(line), code)
    assert not (ready.root / "recipes-retrieve").exists()
