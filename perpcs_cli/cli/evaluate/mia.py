"""`perpcs mia`: what personal models, and the adapters that sharers give, tell about the data they were trained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perpcs_cli.artifacts.mia import Protocol
from perpcs_cli.cli import flags, setting_flags
from perpcs_cli.cli.command import command, panel
from perpcs_cli.cli.console import Console
from perpcs_cli.cli.tables import Cell, Column, Estimate, Table, render

if TYPE_CHECKING:
    from perpcs_cli.artifacts.mia import Leakage
    from perpcs_cli.steps.evaluate.attack_targets import Attacked

ALL = "all"


@dataclass(frozen=True)
@panel("Attacked models")
class TargetFlags:
    """Which models are attacked."""

    plain_base: Annotated[bool, typer.Option("--base", help="The base model (with its task adapter).")] = False
    recipes: flags.RecipesOption = None
    own: flags.OwnOption = None
    target_sharer: Annotated[
        list[str] | None,
        typer.Option("--target-sharer", metavar="<id>", help="Attack a sharer's own adapter; may be repeated."),
    ] = None
    target_sharers: Annotated[
        str | None,
        typer.Option("--target-sharers", metavar="<ids>", help="The same: all, ids separated by commas, or @FILE."),
    ] = None
    no_gates: Annotated[bool, typer.Option("--no-gates", help="Without the sharers' gates.")] = False

    def attacked(self) -> Attacked:
        """What was asked for."""
        from perpcs_cli.steps.evaluate.attack_targets import Attacked

        chosen = self.target_sharer
        if self.target_sharers == ALL:
            chosen = []
        elif self.target_sharers is not None:
            chosen = [*(chosen or []), *flags.named(self.target_sharers, "--target-sharers")]
        return Attacked(self.plain_base, self.recipes or [], self.own or [], chosen, gates=not self.no_gates)


@command
def mia(
    console: Console,
    write: flags.WriteFlags,
    base: flags.BaseFlags,
    who: flags.ShardFlags,
    what: TargetFlags,
    which: setting_flags.MiaFlags,
    how: setting_flags.BatchFlags,
    pool: flags.PoolOption = None,
    protocol: Annotated[Protocol | None, flags.protocol_option("both")] = None,
    attacks: Annotated[
        str | None, typer.Option("--attacks", metavar="<names>", help="Only these attacks.", show_default="all")
    ] = None,
    references: Annotated[
        int, typer.Option("--references", min=0, help="RMIA's reference sharers for each item; 0: no RMIA.")
    ] = 4,
    max_items: Annotated[
        int | None,
        typer.Option("--max-items", min=1, help="At most so many trained and held-out items of each user, by seed."),
    ] = None,
    resamples: flags.ResamplesOption = 1000,
    name: flags.NameOption = None,
    out: Annotated[Path | None, flags.out_option("mia/NAME.json of the workspace", "file")] = None,
) -> None:
    """Attack models by membership inference.

    Asks of history items whether a model's sharers were trained on them. The published protocol takes non-members from
    users who are not in the recipe, so it also finds what tells users apart; the held-out one takes them from the same
    users and needs `train-sharer --hold-out`. The targets are those of splits/target.txt by default, their models the
    recipes of the workspace; --recipes and --own may be repeated. --base, too, is judged on the first recipes' items.
    """
    from perpcs_cli.steps.evaluate.mia import PROTOCOLS
    from perpcs_cli.steps.evaluate.mia import mia as step

    outcome = step(
        base.open(which, how),
        what.attacked(),
        who.who(),
        pool=pool,
        protocols=[protocol] if protocol else list(PROTOCOLS),
        attacks=None if attacks is None else [name.strip() for name in attacks.split(",") if name.strip()],
        references=references,
        max_items=max_items,
        resamples=resamples,
        name=name,
        out=out,
        **write.mode(console),
    )
    if outcome.value is None or isinstance(outcome.value, int):
        value = {"path": str(outcome.path), "state": outcome.state}
        if outcome.value is None:
            console.result(value, f"{outcome.path}\tto do")
        else:
            console.result({**value, "scored": outcome.value}, f"{outcome.path}\t{outcome.value} answers scored")
        return
    if outcome.state == "made":
        console.note(f"wrote {outcome.path}")
    console.result(outcome.value, leakage_table(outcome.value))


def leakage_table(leakage: Leakage) -> str:
    """One section for each system and protocol; the strongest attack has a star."""
    columns = [
        Column("model"),
        Column("protocol"),
        Column("attack"),
        Column("AUC"),
        Column("without recipe"),
        Column("TPR at 1 % FPR"),
        Column("at 0.1 %"),
        Column("balanced accuracy"),
        Column("members"),
        Column("non-members"),
        Column("targets"),
    ]
    sections: list[list[list[Cell]]] = []
    notes = []
    for name, system in leakage.systems.items():
        for protocol, found in system.protocols.items():
            notes += [f"{name}, {protocol}: {count} left out, {why}" for why, count in found.left_out.items()]
            rows: list[list[Cell]] = []
            for attack, one in found.attacks.items():
                auc: Cell = Estimate(one.auc, one.interval.low, one.interval.high) if one.interval else one.auc
                star = " *" if attack == found.strongest else ""
                rates = [one.without, one.tpr_at_1, one.tpr_at_01, one.balanced_accuracy]
                counts = [found.members, found.non_members, found.targets]
                rows.append([name, protocol, attack + star, auc, *rates, *counts])
            sections += [rows] if rows else []
    return "\n".join([render(Table(columns, sections), "table").rstrip("\n"), *notes, leakage.caution])
