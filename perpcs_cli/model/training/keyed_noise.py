"""Random numbers that nobody without the secret can foretell, the same on every device.

torch's generators are no such source: the CPU's keeps 32 bits of its seed, which can be tried one by one, and is
linear. Here SHAKE-256, keyed with 256 secret bits, gives the bits.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


class SecretStream:
    """Independent draws, one after the other; equal keys give equal streams. `key`: secret, and for one use only."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._drawn = 0

    def uniform(self, count: int) -> Array:
        """[count] numbers from [0, 1), multiples of 2⁻⁵³."""
        counter = self._drawn.to_bytes(8, "big")
        self._drawn += 1
        bits = np.frombuffer(hashlib.shake_256(self._key + counter).digest(8 * count), dtype="<u8")
        return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def normal(self, count: int) -> Array:
        """[count] standard normal numbers, by Box and Muller's transform."""
        half = (count + 1) // 2
        # 1 - u is never 0, so that its logarithm is finite.
        radius = np.sqrt(-2 * np.log(1 - self.uniform(half)))
        angle = 2 * np.pi * self.uniform(half)
        return np.concatenate((radius * np.cos(angle), radius * np.sin(angle)))[:count]
