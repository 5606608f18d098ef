"""Migrations: plain SQL in services/<name>/migrations, applied in order by dbmate, forward only."""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote, urlencode

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from libs.bootstrap import SERVICES
from libs.failures import Failure

SERVICES_FOLDER = Path(__file__).resolve().parents[2] / "services"
SHARED_TABLES = Path(__file__).with_name("shared_tables.sql")
SHARED_TABLES_NAME = "20260101000000_shared_tables.sql"
SHARED_EVENTS = Path(__file__).with_name("shared_events.sql")
SHARED_EVENTS_NAME = "20260131000000_shared_events.sql"
SHARED_EXPLAIN = Path(__file__).with_name("shared_explain.sql")
SHARED_EXPLAIN_NAME = "20260401000000_shared_explain.sql"
SHARED = {
    SHARED_TABLES_NAME: SHARED_TABLES,
    SHARED_EVENTS_NAME: SHARED_EVENTS,
    SHARED_EXPLAIN_NAME: SHARED_EXPLAIN,
}
"""Migrations that every service has, and the templates they are made from."""
WAIT_S = 60


class MigrationFailed(Failure):
    """A migration was refused or the database not reached; the message names which and why."""


def folder(service: str) -> Path:
    """Where a service's migrations are."""
    return SERVICES_FOLDER / service / "migrations"


def migrate(dsn: str, services: Iterable[str] = SERVICES, wait_s: int = WAIT_S) -> Iterator[str]:
    """Apply what is pending, as the role of `dsn` (migrator); yield the name of each one applied.

    Waits `wait_s` for the database. Several at once wait for each other.
    """
    url = _url(dsn)
    for service in services:
        for name in _dbmate(service, url, wait_s):
            yield f"{service}/{name}"


def pending(connection: psycopg.Connection, services: Iterable[str] = SERVICES) -> Iterator[str]:
    """Names of the migrations that the database lacks."""
    for service in services:
        table = sql.Identifier(service, "schema_migrations")
        with connection.transaction():
            known = connection.execute(
                "SELECT to_regclass(%s)", [table.as_string(connection)]
            ).fetchone()
            applied = set()
            if known != (None,):
                rows = connection.execute(sql.SQL("SELECT version FROM {}").format(table))
                applied = {row[0] for row in rows}
        for path in sorted(folder(service).glob("*.sql")):
            if path.name.partition("_")[0] not in applied:
                yield f"{service}/{path.name}"


def render_shared(name: str, service: str) -> str:
    """The text of a migration that every service has."""
    return SHARED[name].read_text().replace("{service}", service)


def write_shared() -> None:
    """Write the migrations that every service has from their templates."""
    for service in SERVICES:
        folder(service).mkdir(parents=True, exist_ok=True)
        for name in SHARED:
            (folder(service) / name).write_text(render_shared(name, service))


def _dbmate(service: str, url: str, wait_s: int) -> list[str]:
    done = subprocess.run(
        [
            Path(sysconfig.get_path("scripts")) / "dbmate",
            "--env-file", os.devnull,
            "--migrations-dir", str(folder(service)),
            "--migrations-table", f"{service}.schema_migrations",
            "--no-dump-schema",
            "--migration-lock",
            "--wait", "--wait-timeout", f"{wait_s}s", "--wait-interval", "200ms",
            "migrate",
        ],
        # The URL holds a password: in the environment other users can't see it.
        env=os.environ | {"DATABASE_URL": url},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    applied = re.findall(r"^Applied: (\S+)", done.stdout, re.MULTILINE)
    if done.returncode:
        started = re.findall(r"^Applying: (\S+)", done.stdout, re.MULTILINE)
        name = f"{service}/{started[-1]}" if len(started) > len(applied) else service
        reason = done.stderr.replace(url, "the database").removeprefix("Error: ").strip()
        raise MigrationFailed(f"{name}: {reason}")
    return applied


def _url(dsn: str) -> str:
    """A connection string as the URL that dbmate reads; no TLS unless `dsn` names an sslmode."""
    parts = conninfo_to_dict(dsn)
    user, password = (quote(str(parts.pop(key, "")), safe="") for key in ("user", "password"))
    host, port = str(parts.pop("host", "127.0.0.1")), parts.pop("port", 5432)
    database = quote(str(parts.pop("dbname", "")), safe="")
    options = {key: str(value) for key, value in parts.items()}
    options.setdefault("sslmode", "disable")
    if host.startswith("/"):
        options["socket"] = host
        host = ""
    return f"postgres://{user}:{password}@{host}:{port}/{database}?{urlencode(options)}"
