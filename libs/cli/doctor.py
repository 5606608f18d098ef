"""`driveflow doctor`: whether everything that the platform stands on is as it must be."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from importlib import metadata
from typing import Annotated

import psycopg
import typer
from packaging.requirements import Requirement
from rich.console import Console

from libs import healthcheck, issuer, migrations
from libs.access import Verifier
from libs.bootstrap import POSTGRES_VERSION_MIN, SERVICES, unexpected_powers
from libs.errors import Unauthenticated

app = typer.Typer()

CONNECT_TIMEOUT_S = 5
CLOCK_SKEW_WARN_S = 1.0
CLOCK_SKEW_FAIL_S = 30.0
MONTHS_AHEAD = 3
DURABLE = ("fsync", "full_page_writes", "synchronous_commit")
COLOURS = {"ok": "green", "warn": "yellow", "FAIL": "bold red"}


@dataclass(frozen=True)
class Finding:
    """What a check saw; `next_step` where something is to be done."""

    check: str
    verdict: str
    """ok, warn or FAIL."""
    figure: str
    next_step: str = ""


@app.command()
def doctor(
    dsn: Annotated[
        str | None,
        typer.Option(envvar="DRIVEFLOW_ADMIN_DSN", help="A superuser's connection string."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list.")] = False,
) -> None:
    """Check versions, database, roles, migrations, partitions, services, token and clock.

    Exit code 1 when something FAILs. Addresses and token come from the environment (./dev env).
    """
    findings = list(examine(os.environ, dsn))
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        _print(findings)
    raise typer.Exit(any(finding.verdict == "FAIL" for finding in findings))


def examine(environ: Mapping[str, str], dsn: str | None) -> Iterator[Finding]:
    """Everything that `doctor` checks, in the order in which it is best mended."""
    yield from _packages()
    yield from _database(dsn)
    for service in SERVICES:
        yield _service(service, environ.get(f"DRIVEFLOW_{service.upper()}_ADDR"))
    yield _token(environ)


def _packages() -> Iterator[Finding]:
    yield Finding("python", "ok", platform.python_version())
    for requirement in map(Requirement, metadata.requires("driveflow") or []):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield Finding("package", "FAIL", f"{requirement.name} is missing", "install it")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            yield Finding("package", "FAIL", f"{requirement} is needed, {version} found", "upgrade")


def _database(dsn: str | None) -> Iterator[Finding]:
    if dsn is None:
        yield Finding("database", "warn", "not looked at", "set DRIVEFLOW_ADMIN_DSN (./dev env)")
        return
    try:
        with psycopg.connect(dsn, connect_timeout=CONNECT_TIMEOUT_S) as connection:
            for check in (_version, _durability, _statistics, _roles, _migrations, _months, _clock):
                yield _guarded(check, connection)
    except psycopg.OperationalError as error:
        reason = str(error).strip().splitlines()[0]
        yield Finding("database", "FAIL", reason, "start it (./dev up), or mend the DSN")


def _guarded(
    check: Callable[[psycopg.Connection], Finding], connection: psycopg.Connection
) -> Finding:
    try:
        with connection.transaction():
            return check(connection)
    except psycopg.OperationalError:
        raise
    except psycopg.Error as error:
        name = check.__name__.removeprefix("_")
        return Finding(name, "FAIL", str(error).splitlines()[0], "driveflow bootstrap and migrate")


def _version(connection: psycopg.Connection) -> Finding:
    version = connection.info.server_version
    text = connection.info.parameter_status("server_version") or str(version)
    if version < POSTGRES_VERSION_MIN:
        return Finding("database", "FAIL", f"PostgreSQL {text}", "PostgreSQL 18 is needed")
    return Finding("database", "ok", f"PostgreSQL {text}")


def _durability(connection: psycopg.Connection) -> Finding:
    values = {name: _setting(connection, name) for name in DURABLE}
    off = [name for name, value in values.items() if value in ("off", "local")]
    if off:
        return Finding(
            "durability", "FAIL", f"off: {', '.join(off)}", "turn it on: crashes lose data"
        )
    return Finding(
        "durability", "ok", ", ".join(f"{name} {value}" for name, value in values.items())
    )


def _statistics(connection: psycopg.Connection) -> Finding:
    if "pg_stat_statements" in _setting(connection, "shared_preload_libraries"):
        return Finding("statistics", "ok", "pg_stat_statements is loaded")
    return Finding(
        "statistics",
        "FAIL",
        "pg_stat_statements is not loaded",
        "shared_preload_libraries = 'pg_stat_statements', then restart",
    )


def _roles(connection: psycopg.Connection) -> Finding:
    wrong = list(unexpected_powers(connection))
    if wrong:
        return Finding("roles", "FAIL", "; ".join(wrong), "driveflow bootstrap")
    return Finding("roles", "ok", "no powers beyond the design")


def _migrations(connection: psycopg.Connection) -> Finding:
    pending = list(migrations.pending(connection))
    if pending:
        return Finding(
            "migrations", "FAIL", f"{len(pending)} pending: {pending[0]}", "driveflow migrate"
        )
    return Finding("migrations", "ok", "all applied")


def _months(connection: psycopg.Connection) -> Finding:
    rows = connection.execute(
        "SELECT c.relname FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid"
        " WHERE i.inhparent = to_regclass('tracking.\"TripPoint\"') AND NOT i.inhdetachpending"
    ).fetchall()
    there = {row[0] for row in rows}
    missing = [name for name in _month_names(datetime.now(UTC)) if name not in there]
    next_step = "EnsurePartitions, and look why tracking's maintenance does not make them"
    if not missing:
        return Finding("partitions", "ok", f"{MONTHS_AHEAD} months ahead")
    next_week = f"TripPoint_{datetime.now(UTC) + timedelta(days=7):%Y_%m}"
    verdict = "warn" if next_week in there else "FAIL"
    return Finding("partitions", verdict, f"missing: {', '.join(missing)}", next_step)


def _month_names(now: datetime) -> Iterator[str]:
    for ahead in range(MONTHS_AHEAD + 1):
        year, month = divmod(now.year * 12 + now.month - 1 + ahead, 12)
        yield f"TripPoint_{year}_{month + 1:02}"


def _clock(connection: psycopg.Connection) -> Finding:
    before = time.time()
    row = connection.execute("SELECT extract(epoch FROM clock_timestamp())::float8").fetchone()
    skew = abs((before + time.time()) / 2 - row[0]) if row else float("inf")
    figure = f"{skew:.3f} s between this machine and the database"
    if skew >= CLOCK_SKEW_WARN_S:
        verdict = "FAIL" if skew >= CLOCK_SKEW_FAIL_S else "warn"
        return Finding("clock", verdict, figure, "synchronise both (NTP)")
    return Finding("clock", "ok", figure)


def _service(service: str, address: str | None) -> Finding:
    if address is None:
        variable = f"DRIVEFLOW_{service.upper()}_ADDR"
        return Finding(service, "warn", "not looked at", f"set {variable} (./dev env)")
    found = healthcheck.status(address)
    if found != "SERVING":
        return Finding(service, "FAIL", f"{found} at {address}", f"./dev logs {service}")
    return Finding(service, "ok", f"SERVING at {address}")


def _token(environ: Mapping[str, str]) -> Finding:
    token, jwks = environ.get("DRIVEFLOW_TOKEN"), environ.get("DRIVEFLOW_JWKS")
    if token is None or jwks is None:
        return Finding("token", "warn", "not looked at", "set DRIVEFLOW_TOKEN and DRIVEFLOW_JWKS")
    verifier = Verifier(
        jwks,
        issuer=environ.get("DRIVEFLOW_TOKEN_ISSUER", issuer.ISSUER),
        audience=environ.get("DRIVEFLOW_TOKEN_AUDIENCE", issuer.AUDIENCE),
    )
    try:
        caller = asyncio.run(verifier.verify(token))
    except Unauthenticated as error:
        return Finding("token", "FAIL", str(error), "make a new one: driveflow token")
    left = timedelta(seconds=int(caller.expires_at - time.time()))
    return Finding("token", "ok", f"{caller.subject}, valid for {left}")


def _setting(connection: psycopg.Connection, name: str) -> str:
    row = connection.execute("SELECT current_setting(%s)", [name]).fetchone()
    return str(row[0]) if row else ""


def _print(findings: list[Finding]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for finding in findings:
        verdict = f"[{COLOURS[finding.verdict]}]{finding.verdict:4}[/]"
        console.print(f"{verdict}  {finding.check:11} ", end="")
        console.print(finding.figure, markup=False)
        if finding.next_step:
            console.print(f"      {'':11} next: {finding.next_step}", markup=False)
