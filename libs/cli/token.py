"""`driveflow token` and `driveflow keys`: tokens of the local issuer."""

from __future__ import annotations

import os
import re
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from libs import issuer
from libs.bootstrap import SERVICES

app = typer.Typer()

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def duration(text: str) -> timedelta:
    """`30s`, `5m`, `12h` or `30d`."""
    parts = re.fullmatch(r"(\d+)([smhd])", text)
    if parts is None:
        raise typer.BadParameter(f"{text!r} is not like 30s, 5m, 12h or 30d")
    return timedelta(**{UNITS[parts[2]]: int(parts[1])})


@app.command()
def token(
    key: Annotated[
        Path,
        typer.Option(
            envvar="DRIVEFLOW_TOKEN_KEY",
            exists=True,
            dir_okay=False,
            help="PEM of the private key.",
        ),
    ],
    org: Annotated[
        uuid.UUID | None,
        typer.Option(help="The school; that of DRIVEFLOW_ORG_ID (./dev env) unless --ops."),
    ] = None,
    subject: Annotated[str, typer.Option(help="Who the token is for.")] = "demo",
    scope: Annotated[
        list[str] | None, typer.Option(help="May be given several times; default: all.")
    ] = None,
    ops: Annotated[bool, typer.Option("--ops", help="An operator's: monitor:read, ops:write.")] = (
        False
    ),
    ttl: Annotated[str, typer.Option(metavar="30s|5m|12h|30d", help="Lifetime.")] = "12h",
) -> None:
    """Print a token, signed with the local issuer's key."""
    typer.echo(
        issuer.sign(
            key.read_text(),
            subject=subject,
            scopes=scope or (issuer.OPS_SCOPES if ops else issuer.TENANT_SCOPES),
            ttl=duration(ttl),
            org_id=org if ops or org else _school(),
            issuer=os.environ.get("DRIVEFLOW_TOKEN_ISSUER", issuer.ISSUER),
            audience=os.environ.get("DRIVEFLOW_TOKEN_AUDIENCE", issuer.AUDIENCE),
        )
    )


def _school() -> uuid.UUID:
    """The school of the environment."""
    text = os.environ.get("DRIVEFLOW_ORG_ID")
    if not text:
        raise typer.BadParameter("name a school by --org or DRIVEFLOW_ORG_ID, or give --ops")
    try:
        return uuid.UUID(text)
    except ValueError:
        raise typer.BadParameter(f"DRIVEFLOW_ORG_ID is no UUID: {text!r}") from None


@app.command()
def keys(
    folder: Annotated[
        Path, typer.Argument(help="Gets token_key.pem and <service>_key.pem (secret), jwks.json.")
    ],
) -> None:
    """Make the keys of an issuer and of the services, and their public halves.

    A key that is there stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    issuer.make_keys(folder, SERVICES)
    typer.echo(folder / "jwks.json")
