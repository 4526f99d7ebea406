"""The rules of a written Snakefile, and running them in order without Snakemake."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path

RULE = re.compile(
    r"^rule (\w+):\n    input:\n((?:        .*\n)*)    output: touch\((.*?)\)\n    log: (.*?)\n    threads: (\d+)\n"
    r"    resources: (.*?)\n    shell: (.*?)\n",
    re.M,
)
SHARD = " --shard {wildcards.shard}/"


@dataclasses.dataclass
class Rule:
    """A rule as it stands there."""

    name: str
    inputs: list[str]
    output: str
    threads: int
    resources: dict[str, int]
    command: str

    @property
    def shards(self) -> int:
        """0 for one that is not divided."""
        return int(self.output.rpartition("-")[2]) if "{shard}" in self.output else 0

    def commands(self) -> list[str]:
        """The shell's line of each of its jobs."""
        whole = self.command.removesuffix(" > {log:q} 2>&1").replace("{{", "{").replace("}}", "}")
        return [whole.replace("{wildcards.shard}", str(number)) for number in range(1, self.shards + 1)] or [whole]

    def ends(self) -> list[str]:
        """What says that its jobs have ended."""
        return [self.output.replace("{shard}", str(number)) for number in range(1, self.shards + 1)] or [self.output]


def read_rules(path: Path) -> list[Rule]:
    """The rules of a Snakefile, in its order, which is checked: no job waits for one further down."""
    rules = [
        Rule(
            name,
            [ast.literal_eval(line.strip().rstrip(",")) for line in inputs.splitlines() if line.strip() != "[],"],
            ast.literal_eval(output),
            int(threads),
            {key: int(value) for key, value in (one.split("=") for one in resources.split(", "))},
            ast.literal_eval(command),
        )
        for name, inputs, output, _, threads, resources, command in RULE.findall(path.read_text())
    ]
    ended: set[str] = set()
    for rule in rules:
        assert {one for one in rule.inputs if "/done/" in one} <= ended, rule.name
        ended.update(rule.ends())
    return rules
