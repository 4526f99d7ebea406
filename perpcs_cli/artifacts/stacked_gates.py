"""`pool.gates.safetensors`: the gates of all sharers of a pool, one tensor [sharers, n] per linear layer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from perpcs_cli.artifacts.io import tensors
from perpcs_cli.artifacts.piece_digests import stored_digest, tensors_digest
from perpcs_cli.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Gates:
    """The stacked gates of a pool, memory-mapped. Those of a linear layer are checked when they are first read."""

    file: tensors.TensorFile
    digests: dict[str, str]
    """{linear layer: digest}, of those that are not checked yet."""

    def read(self, module: str) -> Tensor:
        """[sharers, n]. Raises DataError where they are not what the manifest recorded."""
        gates = self.file.read(module)
        if module in self.digests:
            self._compare(module, tensors_digest(gates))
            del self.digests[module]
        return gates

    def check(self) -> None:
        """Raise DataError where any of them are not what the manifest recorded."""
        for module in self.digests:
            self._compare(module, stored_digest(self.file, module))

    def _compare(self, module: str, digest: str) -> None:
        if digest != self.digests[module]:
            raise changed_gates(self.file.path)


def changed_gates(path: Path) -> DataError:
    """What is raised where a pool's gates are not the ones that it was built with."""
    return DataError("the pool's gates are missing or have changed", where=path, hint="Build the pool again.")
