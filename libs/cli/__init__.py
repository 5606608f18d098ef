"""The command `driveflow`: one module for each family of commands.

A module is imported when one of its commands is run, and none for the list of them: together they
take a second of CPU.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from libs.failures import Failure

# By module, each with an `app` that has these commands, and what the list says of them.
COMMANDS = {
    "database": {
        "bootstrap": "Make the database, roles, schemas and extensions, or put right what has"
        " drifted.",
        "migrate": "Apply the migrations of every service that are pending.",
    },
    "token": {
        "token": "Print a token, signed with the local issuer's key.",
        "keys": "Make the keys of an issuer and of the services, and their public halves.",
    },
    "doctor": {
        "doctor": "Check versions, database, roles, migrations, partitions, services, token and"
        " clock.",
    },
    "booking": {
        "schedule": "Show a day of the school: its lessons by time, on the school's own clock.",
    },
    "tracking": {
        "import-gpx": "Import recorded drives, keeping their times. Needs the scope"
        " tracking:import.",
        "replay-fleet": "Play a recorded fleet into one stream, all vehicles interleaved.",
        "simulate": "Stream synthetic driving lessons of several cars, one trip each.",
        "trip": "Show a trip: its summary, its driving events, and the route coloured by speed.",
    },
    "outbox": {
        "outbox": "Events: how far they are, and those whose effect fails.",
    },
    "payments": {
        "revenue": "Show what came in and went back, on the school's own clock.",
        "reconcile": "Our books against Stripe's.",
    },
    "health": {
        "health": "Check the database and the services.",
    },
    "alerts": {
        "alerts": "Alerts: what has fired, and who looks after it.",
    },
    "queries": {
        "queries": "Statements: slow and frequent ones, and their plans.",
    },
    "locks": {
        "locks": "Show the sessions that wait for locks below those that hold them, and long"
        " transactions.",
    },
    "indexes": {
        "indexes": "Show indexes that are invalid, missing, covered by others, unused, and the"
        " largest.",
    },
    "partitions": {
        "partitions": "Show each partition, and until when they lie side by side.",
    },
}


class Commands(TyperGroup):
    """All commands by name; the one that is run comes from its module."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [name for names in COMMANDS.values() for name in names]

    def get_command(self, ctx: Any, cmd_name: str) -> TyperCommand | None:
        for names in COMMANDS.values():
            if cmd_name in names:
                return TyperCommand(cmd_name, help=names[cmd_name])
        return None

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, None if command is None else load(str(command.name)), rest


app = typer.Typer(
    cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False
)


@app.callback()
def driveflow() -> None:
    """DriveFlow: prepare, inspect and use the platform."""


def load(name: str) -> Any:
    """The command of a name, from its module."""
    (module,) = (module for module, names in COMMANDS.items() if name in names)
    return typer.main.get_group(import_module(f"libs.cli.{module}").app).commands[name]


def main() -> None:
    """Run the command that the arguments name."""
    try:
        app()
    except Failure as error:
        sys.exit(f"driveflow: {error}")
