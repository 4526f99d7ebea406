"""The accountant against Opacus's own, composition, and formats of before there were guarantees."""

import json
import subprocess
import sys

import msgspec
import pytest

from perpcs_cli.artifacts.io import typed_files
from perpcs_cli.artifacts.privacy import Guarantee, Mechanism, check_installed, compose, guarantee, noise_multiplier
from perpcs_cli.errors import UsageError

accountants = pytest.importorskip("opacus.accountants")

DELTA = 1e-5
LORA = Mechanism(what="lora", noise_multiplier=1.1, clip=1.0, sample_rate=0.3, steps=12)
GATE = Mechanism(what="gate", noise_multiplier=2.5, clip=0.1, sample_rate=0.2, steps=40)


def opacus_epsilon(mechanisms, delta=DELTA):
    """What Opacus's accountant says when it is told of every step."""
    accountant = accountants.RDPAccountant()
    for one in mechanisms:
        for _ in range(one.steps):
            accountant.step(noise_multiplier=one.noise_multiplier, sample_rate=one.sample_rate)
    return accountant.get_epsilon(delta=delta)


@pytest.mark.parametrize("mechanism", [LORA, GATE, msgspec.structs.replace(LORA, sample_rate=1.0)])
def test_epsilon_is_opacus_own_for_the_same_steps(mechanism):
    found = guarantee([mechanism], DELTA)
    assert found.epsilon == pytest.approx(opacus_epsilon([mechanism]), rel=1e-9)
    assert (found.delta, found.unit, found.accountant, found.mechanisms) == (DELTA, "item", "rdp", (mechanism,))


def test_epsilon_of_full_batches_is_the_gaussian_mechanism_s():
    """Without sampling, T steps at σ have the Rényi divergence T α / 2σ², converted at the best order."""
    import numpy as np

    orders = np.array(accountants.RDPAccountant.DEFAULT_ALPHAS, dtype=float)
    bound = 12 * orders / (2 * 1.1**2)
    bound += np.log((orders - 1) / orders) - (np.log(DELTA) + np.log(orders)) / (orders - 1)
    found = guarantee([msgspec.structs.replace(LORA, sample_rate=1.0)], DELTA)
    assert found.epsilon == pytest.approx(bound.min(), rel=1e-9)


def test_composition_is_opacus_own_for_both_mechanisms():
    lora, gate = guarantee([LORA], DELTA), guarantee([GATE], DELTA)
    both = compose([lora, gate])
    assert both.epsilon == pytest.approx(opacus_epsilon([LORA, GATE]), rel=1e-9)
    assert both.mechanisms == (LORA, GATE)
    # Tighter than the sum of the parts, which is valid too, and never below either.
    assert max(lora.epsilon, gate.epsilon) < both.epsilon < lora.epsilon + gate.epsilon


def test_composition_is_at_the_smallest_delta():
    both = compose([guarantee([LORA], 1e-5), guarantee([GATE], 1e-6)])
    assert both.delta == 1e-6
    assert both.epsilon == pytest.approx(opacus_epsilon([LORA, GATE], 1e-6), rel=1e-9)


def test_one_part_without_a_guarantee_leaves_none():
    private = guarantee([LORA], DELTA)
    assert compose([private, None]) is None
    assert compose([None, private]) is None
    assert compose([None]) is None
    assert compose([]) is None
    assert compose([private]) == private


@pytest.mark.parametrize(("epsilon", "rate", "steps"), [(8.0, 0.3, 12), (1.0, 0.3, 12), (0.5, 1.0, 3)])
def test_the_noise_found_spends_no_more_and_hardly_less(epsilon, rate, steps):
    sigma = noise_multiplier(epsilon, DELTA, rate, steps)
    spent = guarantee([Mechanism(what="lora", noise_multiplier=sigma, clip=1.0, sample_rate=rate, steps=steps)], DELTA)
    assert epsilon - 0.011 <= spent.epsilon <= epsilon


def test_an_epsilon_out_of_reach():
    with pytest.raises(UsageError, match=r"no noise is enough for epsilon 0\.001 at delta 1e-05"):
        noise_multiplier(0.001, DELTA, 0.3, 12)


def test_noise_that_guarantees_nothing():
    with pytest.raises(UsageError, match="guarantees nothing"):
        guarantee([msgspec.structs.replace(LORA, noise_multiplier=1e-160, sample_rate=1.0)], DELTA)


def test_without_opacus(monkeypatch):
    monkeypatch.setitem(sys.modules, "opacus", None)
    for use in (check_installed, lambda: noise_multiplier(8, DELTA, 0.1, 3), lambda: guarantee([LORA], DELTA)):
        with pytest.raises(UsageError, match="needs Opacus") as error:
            use()
        assert error.value.hint == "Install it: pip install 'perpcs[dp]'"


def test_a_guarantee_survives_its_file(tmp_path):
    found = guarantee([LORA, GATE], DELTA)
    typed_files.write_json(tmp_path / "g.json", found)
    assert typed_files.read_json(tmp_path / "g.json", Guarantee) == found
    assert json.loads((tmp_path / "g.json").read_text())["relation"].startswith("one training example")


def test_neither_torch_nor_opacus_is_imported_with_it():
    code = "import sys, perpcs_cli.artifacts.privacy; print({'torch', 'opacus'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
