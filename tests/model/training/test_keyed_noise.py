"""The secret stream: normal, reproducible by its key, and not to be foretold from one that is nearly the same."""

import hashlib

import numpy as np
import pytest
from scipy import stats

from perpcs_cli.model.training.keyed_noise import SecretStream

KEY = bytes(range(32))


def test_uniform_numbers_are_shake_256_of_key_and_counter():
    stream = SecretStream(KEY)
    for counter, count in enumerate((3, 5)):
        digest = hashlib.shake_256(KEY + counter.to_bytes(8, "big")).digest(8 * count)
        words = [int.from_bytes(digest[8 * i : 8 * i + 8], "little") for i in range(count)]
        assert stream.uniform(count).tolist() == [(word >> 11) / 2**53 for word in words]


def test_equal_keys_give_equal_streams_and_others_do_not():
    draws = [SecretStream(key).normal(1000) for key in (KEY, KEY, KEY[:-1] + b"\x00")]
    assert np.array_equal(draws[0], draws[1])
    assert abs(np.corrcoef(draws[0], draws[2])[0, 1]) < 0.15


def test_draws_follow_each_other_without_repeats():
    stream = SecretStream(KEY)
    assert len({*stream.normal(500), *stream.normal(500), *stream.uniform(500)}) == 1500


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_any_count(count):
    assert SecretStream(KEY).normal(count).shape == (count,)


def test_it_is_the_standard_normal_distribution():
    drawn = SecretStream(KEY).normal(200_001)
    assert stats.kstest(drawn, "norm").pvalue > 0.01
    # The sine and the cosine halves share their radii, and must be uncorrelated all the same.
    assert abs(np.corrcoef(drawn[:100_000], drawn[100_001:])[0, 1]) < 0.01
    assert np.isfinite(drawn).all()


def test_torch_s_generator_is_no_replacement():
    """The reason for all this: torch's CPU generator forgets all but 32 bits of its seed."""
    import torch

    one, other = (torch.randn(3, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1 + 2**32))
    assert torch.equal(one, other)
