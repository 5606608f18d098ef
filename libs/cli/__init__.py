"""The command `driveflow`: one module for each family of commands."""

from __future__ import annotations

import sys
from importlib import import_module

import typer

from libs.bootstrap import BootstrapFailed
from libs.issuer import KeyUnusable
from libs.migrations import MigrationFailed

# Each has an `app` whose commands stand beside the others'.
MODULES = (
    "database",
    "token",
    "doctor",
    "booking",
    "tracking",
    "outbox",
    "payments",
    "health",
    "locks",
    "indexes",
)


def commands() -> typer.Typer:
    """The command with everything below it."""
    app = typer.Typer(
        help="DriveFlow: prepare, inspect and use the platform.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
    )
    for name in MODULES:
        app.add_typer(import_module(f"libs.cli.{name}").app)
    return app


def main() -> None:
    """Run the command that the arguments name."""
    try:
        commands()()
    except (BootstrapFailed, MigrationFailed, KeyUnusable) as error:
        sys.exit(f"driveflow: {error}")
