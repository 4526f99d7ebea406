"""What the commands share that run the model."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
from shell import Shell

from perpcs_cli.cli.console import Console
from perpcs_cli.steps.base import kept_base, open_base
from perpcs_cli.steps.workspace import Context, open_context

QUIET = Console(quiet=True)


def opened(shell: Shell) -> Context:
    return open_context(shell.root)


def with_settings(context: Context, **changes: object) -> Context:
    return dataclasses.replace(context, settings=msgspec.structs.replace(context.settings, **changes))


def test_outside_of_a_block_every_base_is_loaded(walked: Shell) -> None:
    context = opened(walked)
    assert open_base(context, QUIET) is not open_base(context, QUIET)


def test_the_last_base_is_kept_in_a_block(walked: Shell) -> None:
    context = opened(walked)
    with kept_base():
        base = open_base(context, QUIET)
        assert open_base(context, QUIET) is base
        # The adapter's content counts, not its name.
        moved = Path(str(context.settings.task_adapter) + "/../task-adapter")
        assert open_base(with_settings(context, task_adapter=str(moved)), QUIET) is base
        plain = open_base(context, QUIET, adapted=False)
        assert plain.fingerprint != base.fingerprint
        assert open_base(with_settings(context, task_adapter=""), QUIET) is plain
        again = open_base(context, QUIET)
        assert again is not base
        assert again.fingerprint == base.fingerprint
    assert open_base(context, QUIET) is not again


def test_everything_that_is_loaded_counts(walked: Shell) -> None:
    context = opened(walked)
    lora = msgspec.structs.replace(context.settings.lora, targets=("q_proj",))
    with kept_base():
        base = open_base(context, QUIET)
        assert len(open_base(with_settings(context, lora=lora), QUIET).targets) == 2
        assert open_base(context, QUIET) is not base
        assert open_base(context, QUIET, pieces=False).targets == {}
        assert open_base(with_settings(context, dtype="bfloat16"), QUIET).describe()["dtype"] == "bfloat16"


def test_a_base_that_will_be_changed_is_nobody_elses(walked: Shell) -> None:
    context = opened(walked)
    with kept_base():
        base = open_base(context, QUIET)
        changed = open_base(context, QUIET, changed=True)
        assert changed is not base
        assert open_base(context, QUIET) is base
