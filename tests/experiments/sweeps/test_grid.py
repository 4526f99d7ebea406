"""The cells of a sweep."""

from __future__ import annotations

import pytest

from perpcs_cli.artifacts.sweep import Experiment, Method, Sweep, Value
from perpcs_cli.errors import UsageError
from perpcs_cli.experiments.sweeps.grid import READS, STEPS_OF, Cell, Flag, cells, check_flags, concerns


def sweep(*experiments: Experiment, seeds: tuple[int, ...] = (0,)) -> Sweep:
    return Sweep(
        task="movie_tagging",
        model="m",
        seeds=seeds,
        settings={"train": {"lr": 1e-3}, "max_length": 64},
        steps={"predict": {"batch-rows": 4}},
        experiments=experiments,
    )


def experiment(*methods: Method, **axes: tuple[Value, ...]) -> Experiment:
    return Experiment(
        name="x", methods=methods, axes={k.replace("__", ".").replace("_", "-"): v for k, v in axes.items()}
    )


def test_the_grid_is_the_product_and_the_last_axis_runs_fastest() -> None:
    found = cells(sweep(experiment("per-pcs", assemble__top_k=(1, 2), predict__retrieve=(0, 1))))
    assert [cell.settings for cell in found] == [
        {"assemble.top-k": 1, "predict.retrieve": 0},
        {"assemble.top-k": 1, "predict.retrieve": 1},
        {"assemble.top-k": 2, "predict.retrieve": 0},
        {"assemble.top-k": 2, "predict.retrieve": 1},
    ]
    assert found[3].flags == {"predict": {"batch-rows": 4, "retrieve": 1}, "assemble": {"top-k": 2}}
    assert str(found[3]) == "x per-pcs seed=0 assemble.top-k=2 predict.retrieve=1"


def test_an_axis_counts_for_the_methods_that_it_concerns() -> None:
    axes = {"assemble__top_k": (1, 2), "prime__alpha": (0.5,), "predict__retrieve": (0,)}
    found = cells(sweep(experiment("base", "per-pcs", "prime", **axes)))  # type: ignore[arg-type]
    assert [(cell.method, cell.settings) for cell in found] == [
        ("base", {"predict.retrieve": 0}),
        ("per-pcs", {"assemble.top-k": 1, "predict.retrieve": 0}),
        ("per-pcs", {"assemble.top-k": 2, "predict.retrieve": 0}),
        ("prime", {"prime.alpha": 0.5, "predict.retrieve": 0}),
    ]


def test_what_the_sweep_sets_for_all_cells_that_concerns_this_one() -> None:
    one = experiment("per-pcs", "base", settings__train__lr=(1e-2,))
    first, second = cells(sweep(one))
    assert first.common == {"predict.batch-rows": 4, "settings.max_length": 64}
    # The base has no training, and no axis of it.
    assert (second.common, second.settings) == (first.common, {})
    (other,) = cells(sweep(experiment("oppu")))
    assert other.common == {**first.common, "settings.train.lr": 1e-3}


def test_all_of_the_grid_is_repeated_for_each_seed() -> None:
    found = cells(sweep(experiment("base"), Experiment(name="y", methods=("oppu",)), seeds=(5, 6)))
    assert [(c.seed, c.experiment, c.method) for c in found] == [
        (5, "x", "base"),
        (5, "y", "oppu"),
        (6, "x", "base"),
        (6, "y", "oppu"),
    ]


def test_settings_are_a_layer_over_the_sweeps() -> None:
    one = Experiment(name="x", methods=("oppu",), axes={"settings.train.epochs": (3,), "settings.max_length": (32,)})
    (cell,) = cells(sweep(one))
    assert cell.layer == {"train": {"lr": 1e-3, "epochs": 3}, "max_length": 32}
    assert sweep(one).settings == {"train": {"lr": 1e-3}, "max_length": 64}


CONCERNS: dict[tuple[str, Method], bool] = {
    ("settings.gate.lr", "per-pcs"): True,
    ("settings.gate.lr", "prime"): False,
    ("settings.prime.similar", "retrieval"): True,
    ("settings.prime.budget", "retrieval"): False,
    ("settings.lora.rank", "adapted"): True,
    ("settings.lora.rank", "base"): False,
    ("settings.lora.targets", "base"): True,
    ("settings.max_length", "base"): True,
    ("train-sharer.recent", "oppu"): True,
    ("oppu.recent", "per-pcs"): False,
    ("select.clusters", "oppu"): False,
}


@pytest.mark.parametrize("case", CONCERNS, ids=str)
def test_what_concerns_a_method(case: tuple[str, Method]) -> None:
    assert concerns(*case) is CONCERNS[case]


def test_an_axis_that_concerns_nothing_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"experiment 'x', gate\.steps: no step of base, prime reads it"):
        cells(sweep(experiment("base", "prime", gate__steps=(1,))))


def test_every_step_has_its_settings() -> None:
    assert {step for steps in STEPS_OF.values() for step in steps} == set(READS)


KNOWN = {
    step: {name: Flag(name, None, False) for name in ("top-k", "out", "sharers", "model", "batch-rows", "base")}
    for step in READS
}


def given(step: str, flag: str) -> Sweep:
    return sweep(Experiment(name="x", methods=("prime",), axes={f"{step}.{flag}": (1,)}))


def test_flags_that_commands_have_are_fine() -> None:
    check_flags(given("prime", "sharers"), KNOWN, "c.toml")
    check_flags(given("profile", "model"), KNOWN, "c.toml")
    check_flags(given("split", "base"), KNOWN, "c.toml")
    check_flags(given("settings", "gate.lr"), KNOWN, "c.toml")


@pytest.mark.parametrize(
    ("step", "flag", "message"),
    [
        (
            "assemble",
            "topk",
            "c.toml, experiment 'x', assemble.topk: unknown flag of assemble: 'topk'\n  Did you mean 'top-k'?",
        ),
        ("assemble", "out", "c.toml, experiment 'x', assemble.out: the sweep gives this flag itself"),
        ("gate", "sharers", "gate.sharers: the sweep gives this flag itself"),
        ("predict", "base", "predict.base: the sweep gives this flag itself"),
        ("predict", "model", "predict.model: the sweep gives this flag itself"),
    ],
)
def test_other_flags_are_refused(step: str, flag: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_flags(given(step, flag), KNOWN, "c.toml")
    assert message in str(caught.value)


def test_a_cell_is_named_as_in_toml() -> None:
    cell = Cell("x", "base", 1, {"predict.with-profile": True, "predict.retrieve": 0}, {}, {})
    assert str(cell) == "x base seed=1 predict.with-profile=true predict.retrieve=0"


def test_an_axis_within_a_section_that_is_no_table() -> None:
    with pytest.raises(UsageError, match=r"\[settings\]: max_length is a table, as { x = 1 }, not 64"):
        cells(sweep(Experiment(name="x", methods=("base",), axes={"settings.max_length.x": (1,)})))
