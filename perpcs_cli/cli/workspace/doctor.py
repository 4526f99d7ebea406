"""`perpcs doctor`: what this installation and this machine are like, and whether they compute what they should."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from perpcs_cli.cli import flags
from perpcs_cli.cli.command import command
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.tables import Column, Row, Styled, Table, render
from perpcs_cli.errors import PerpcsError
from perpcs_cli.steps.inspect.step_state import spoken_bytes

if TYPE_CHECKING:
    from perpcs_cli.experiments.checks.self_test import SelfTest
    from perpcs_cli.steps.inspect.doctor import Device, Findings

OK, ODD, BAD = "ok", "note", "failed"
STYLES = {OK: "green", ODD: "yellow", BAD: "red"}


@command
def doctor(
    console: Console,
    here: flags.PlaceFlags,
    device: flags.DeviceOption = None,
    form: flags.FormatOption = None,
    test: Annotated[
        bool, typer.Option("--self-test/--no-self-test", help="Whether to train and answer with a tiny model.")
    ] = True,
) -> None:
    """Say what this installation and this machine are like, and try them.

    Versions against those that perpcs needs, devices and how fast number types are on them, extras, caches, the hub,
    variables that are in force, the workspace; then the whole path with a tiny random model in some seconds, compared
    with merged weights, on --device. It can be pasted into an issue: nothing secret is in it. The exit status is 1 if
    the self-test fails.
    """
    from perpcs_cli.experiments.checks.self_test import self_test
    from perpcs_cli.steps.inspect.doctor import examine

    shape = flags.form_of(form, console)
    found = examine(here.places)
    tested = self_test(device or "auto", console) if test else None
    columns = [Column("about"), Column("state"), Column("what")]
    sections = [list(part) for part in _sections(found, tested)]
    value = {**msgspec.to_builtins(found), "self_test": tested}
    console.result(value, render(Table(columns, sections), shape))
    if tested and not tested.ok:
        raise PerpcsError(f"the self-test failed at {tested.checks[-1].name}", hint=tested.checks[-1].said)


def _sections(found: Findings, tested: SelfTest | None) -> Iterator[Iterator[Row]]:
    yield _environment(found)
    yield (_row(f"extra {one.name}", *_extra(one.missing, one.install)) for one in found.extras)
    yield (row for one in found.devices for row in _device(one))
    yield _surroundings(found)
    if found.variables:
        yield (_row(name, *_variable(value)) for name, value in found.variables.items())
    if tested:
        yield (_row(f"test: {one.name}", OK if one.ok else BAD, one.said) for one in tested.checks)
        whole = f"{tested.seconds:.1f} s on {tested.device}"
        yield iter([_row("self-test", OK if tested.ok else BAD, whole)])


def _row(about: str, state: str, what: str) -> Row:
    return about, Styled(state, STYLES.get(state, "")), what


def _environment(found: Findings) -> Iterator[Row]:
    yield _row("perpcs", "", found.perpcs)
    yield _row("Python", "", f"{found.python}, {found.platform}")
    for one in found.packages:
        needs = f", needs {one.needs}" if one.needs else ""
        yield _row(one.name, OK if one.fits else BAD, f"{one.installed or 'not installed'}{needs}")


def _extra(missing: list[str], install: str) -> tuple[str, str]:
    return (ODD, f"no {', '.join(missing)}: {install}") if missing else (OK, "installed")


def _device(one: Device) -> Iterator[Row]:
    cores = "" if one.cores is None else f", cores {one.cores}, threads {one.threads}"
    memory = f", {spoken_bytes(one.free)} of {spoken_bytes(one.memory)} free" if one.memory else ""
    yield _row(one.kind, OK if one.seconds else BAD, f"{one.name}{cores}{memory}")
    if one.seconds:
        speeds = ", ".join(f"{name} {one.seconds['float32'] / taken:.2g} ×" for name, taken in one.seconds.items())
        trains = "" if one.auto == one.auto_trains else f", {one.auto_trains} to train"
        yield _row(f"{one.kind} number types", "", f"{speeds}; auto: {one.auto}{trains}")


def _surroundings(found: Findings) -> Iterator[Row]:
    parts = ", ".join(f"{name} {spoken_bytes(size)}" for name, size in found.cache.parts.items())
    yield _row("cache", "", f"{found.cache.path}: {parts or 'empty'}")
    yield _row("models fetched", "", ", ".join(found.cache.models) or "none")
    hub = (
        "answers"
        if found.hub.answers
        else f"{'offline' if found.hub.offline else 'cannot be reached'}: {found.hub.why}"
    )
    yield _row("model hub", OK if found.hub.answers else ODD, hub)
    here = found.workspace
    if here is None:
        yield _row("workspace", "", "none here")
    elif here.problem:
        yield _row("workspace", BAD, f"{here.path}: {here.problem}")
    else:
        yield _row("workspace", OK, f"{here.path}: {here.task}, {here.model}")


def _variable(value: str) -> tuple[str, str]:
    from perpcs_cli.steps.inspect.doctor import UNKNOWN

    return ODD if value == UNKNOWN else "", value
