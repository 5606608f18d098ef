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
        uuid.UUID | None, typer.Option(help="The school; the demo school unless --ops.")
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
            org_id=org if ops or org else issuer.DEMO_ORG,
            issuer=os.environ.get("DRIVEFLOW_TOKEN_ISSUER", issuer.ISSUER),
            audience=os.environ.get("DRIVEFLOW_TOKEN_AUDIENCE", issuer.AUDIENCE),
        )
    )


@app.command()
def keys(
    folder: Annotated[Path, typer.Argument(help="Gets token_key.pem (secret) and jwks.json.")],
) -> None:
    """Make an issuer's key and its public half; a key that is there stays."""
    folder.mkdir(parents=True, exist_ok=True)
    private = folder / "token_key.pem"
    if not private.exists():
        issuer.write_private(private, issuer.new_key())
    (folder / "jwks.json").write_text(issuer.jwks(private.read_text()))
    typer.echo(folder / "jwks.json")
