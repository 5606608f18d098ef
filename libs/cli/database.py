"""`driveflow bootstrap` and `driveflow migrate`: the database, before any service starts."""

from __future__ import annotations

import os
from typing import Annotated

import psycopg
import typer

from libs import bootstrap as roles
from libs import migrations

app = typer.Typer()


@app.command()
def bootstrap(
    dsn: Annotated[
        str, typer.Option(envvar="DRIVEFLOW_ADMIN_DSN", help="A superuser's connection string.")
    ],
    database: Annotated[str, typer.Option(help="The database to make.")] = roles.DATABASE,
) -> None:
    """Make the database, roles, schemas and extensions, or put right what has drifted.

    The password of each login role comes from DRIVEFLOW_<ROLE>_PASSWORD.
    """
    try:
        roles.bootstrap(dsn, roles.passwords(os.environ), database)
    except psycopg.OperationalError as error:
        raise roles.BootstrapFailed(f"the database does not answer: {error}") from None
    typer.echo(f"{database}: {len(roles.ROLES)} roles, {len(roles.SCHEMA_OWNERS)} schemas")


@app.command()
def migrate(
    dsn: Annotated[
        str, typer.Option(envvar="DRIVEFLOW_MIGRATOR_DSN", help="Connection string of migrator.")
    ],
    wait_s: Annotated[
        int, typer.Option(help="How long to wait for the database.")
    ] = migrations.WAIT_S,
) -> None:
    """Apply the migrations of every service that are pending."""
    for name in migrations.migrate(dsn, wait_s=wait_s):
        typer.echo(f"applied {name}")
    typer.echo("up to date")
