"""Letting the app answer the shells' completion scripts."""

from __future__ import annotations


def enable() -> None:
    """Let the app answer these scripts. Typer does so by itself only with its --install-completion option."""
    from typer._completion_classes import completion_init

    completion_init()
