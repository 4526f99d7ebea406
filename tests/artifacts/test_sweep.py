"""Reading and checking a sweep's config."""

from __future__ import annotations

from pathlib import Path

import pytest

from perpcs_cli.artifacts.sweep import Experiment, Sweep, read_sweep
from perpcs_cli.errors import DataError, PerpcsError, UsageError

TOP = 'format = "perpcs.sweep/1"\ntask = "movie_tagging"\nmodel = "m"\n'
ONE = '[[experiment]]\nname = "main"\nmethod = "base"\n'


def read(tmp_path: Path, text: str) -> Sweep:
    (tmp_path / "c.toml").write_text(text)
    return read_sweep(tmp_path / "c.toml")


def test_a_config_becomes_axes(tmp_path: Path) -> None:
    text = """
    data = ["a", "/b"]
    seeds = [3, 4]
    paper = "prime"
    preset = "published-code"
    [settings]
    train = { lr = 1e-3 }
    [steps]
    split = { targets = 8, min-history = 6 }
    profile = {}
    [[experiment]]
    name = "main"
    method = ["base", "per-pcs"]
    predict = { retrieve = [0, 1], with-profile = true }
    settings = { gate.lr = [1e-5, 1e-4], "assemble.recent" = 8 }
    """
    assert read(tmp_path, TOP + text) == Sweep(
        task="movie_tagging",
        model="m",
        paper="prime",
        preset="published-code",
        data=(str(tmp_path / "a"), "/b"),
        seeds=(3, 4),
        settings={"train": {"lr": 1e-3}},
        steps={"split": {"targets": 8, "min-history": 6}, "profile": {}},
        experiments=(
            Experiment(
                name="main",
                methods=("base", "per-pcs"),
                axes={
                    "predict.retrieve": (0, 1),
                    "predict.with-profile": (True,),
                    "settings.gate.lr": (1e-5, 1e-4),
                    "settings.assemble.recent": (8,),
                },
            ),
        ),
    )


def test_endless_grids_are_refused(tmp_path: Path) -> None:
    text = ONE + "".join(f"predict.a{n} = {list(range(10))}\n" for n in range(6))
    with pytest.raises(UsageError, match="has more than 100000 combinations"):
        read(tmp_path, TOP + text)


@pytest.mark.parametrize("value", ["nan", "inf", "1979-05-27"])
def test_what_is_no_value(tmp_path: Path, value: str) -> None:
    with pytest.raises(UsageError, match="must be a number, text, true or false"):
        read(tmp_path, TOP + ONE + f"predict.a = {value}\n")


def test_one_seed_and_no_data_are_the_default(tmp_path: Path) -> None:
    sweep = read(tmp_path, TOP + ONE)
    assert (sweep.seeds, sweep.data, sweep.steps) == ((0,), (), {})
    assert (sweep.paper, sweep.preset) == ("per-pcs", "perpcs")
    assert read(tmp_path, TOP + "seed = 7\n" + ONE).seeds == (7,)


WRONG = {
    "no format": ("task = 1", "expected format = 'perpcs.sweep/1' and found None"),
    "another version": ('format = "perpcs.sweep/9"', "found 'perpcs.sweep/9'"),
    "not TOML": ("format = ", "not valid TOML"),
    "unknown key": (TOP + "modle = 3\n" + ONE, "unknown key 'modle'\n  Did you mean 'model'?"),
    "wrong type": (TOP + 'seed = "x"\n' + ONE, "Expected `int | null`, got `str` - at `$.seed`"),
    "both seeds": (TOP + "seed = 1\nseeds = [1]\n" + ONE, "gives both seed and seeds"),
    "a seed twice": (TOP + "seeds = [1, 1]\n" + ONE, "seeds are one or more different numbers from 0, not [1, 1]"),
    "no seeds": (TOP + "seeds = []\n" + ONE, "not []"),
    "no experiment": (TOP, "has no experiment"),
    "no name": (TOP + '[[experiment]]\nmethod = "base"', "experiment 1: an experiment has a name"),
    "no method": (TOP + '[[experiment]]\nname = "x"', "experiment 'x': method is a name or a list of different names"),
    "method twice": (TOP + ONE.replace('"base"', '["base", "base"]'), "method is a name or a list of different names"),
    "unknown method": (TOP + ONE.replace("base", "per-pc"), "unknown method 'per-pc'\n  Did you mean 'per-pcs'?"),
    "name twice": (TOP + ONE + ONE, "two experiments have the name 'main'"),
    "unknown step": (TOP + "[steps]\ntrain-share = {}\n" + ONE, "[steps]: unknown step 'train-share'"),
    "step of an experiment": (
        TOP + ONE + "asemble = { top-k = 1 }",
        "experiment 'main': unknown step or key 'asemble'",
    ),
    "flags are no table": (TOP + "[steps]\nsplit = 3\n" + ONE, "the flags of split are a table"),
    "axes are no table": (TOP + ONE + "split = 3\n", "split is a table"),
    "no values": (TOP + ONE + "split = { targets = [] }", "experiment 'main', split.targets: has no values"),
    "a value twice": (TOP + ONE + "split = { targets = [1, 1] }", "split.targets: has a value twice"),
    "no value": (TOP + ONE + "split = { targets = [[1]] }", "must be a number, text, true or false, and is [1]"),
    "list in steps": (TOP + "[steps]\nsplit = { targets = [1] }\n" + ONE, "split.targets: must be a number"),
    "task among settings": (TOP + '[settings]\ntask = "x"\n' + ONE, "task is not for settings\n  Give task at"),
    "model among axes": (
        TOP + ONE + 'settings = { model = ["a", "b"] }',
        "experiment 'main': model is not for settings",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named(case: str, tmp_path: Path) -> None:
    text, message = WRONG[case]
    with pytest.raises(PerpcsError) as caught:
        read(tmp_path, text)
    assert isinstance(caught.value, UsageError | DataError)
    assert message in str(caught.value)
    assert str(tmp_path / "c.toml") in str(caught.value)


def test_true_and_one_are_different_values(tmp_path: Path) -> None:
    sweep = read(tmp_path, TOP + ONE + "predict = { retrieve = [true, 1] }")
    assert sweep.experiments[0].axes == {"predict.retrieve": (True, 1)}


def test_the_shipped_configs_are_read() -> None:
    for path in sorted((Path(__file__).parents[2] / "examples" / "configs").glob("*.toml")):
        assert read_sweep(path).experiments
