"""A process that would lose data or mix schools up does not start, and says what to mend."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from libs import issuer, server
from libs.bootstrap import bootstrap
from libs.local.paths import ROOT
from libs.settings import load
from services.tracking.__main__ import Settings, main
from tests import postgres
from tests.postgres import Database, Server

START_TIMEOUT_S = 40.0
# Nothing of these is connected to: what they say is refused before.
NO_DATABASE = "postgresql://tracking:x@127.0.0.1:1/driveflow"


@dataclass(frozen=True)
class Ended:
    """How a process that was to serve ended."""

    code: int
    stderr: str


async def start(environ: Mapping[str, str], *, service: str = "tracking") -> Ended:
    """Run the service as its container does; it is ended should it serve."""
    bare = {name: text for name, text in os.environ.items() if not name.startswith("DRIVEFLOW_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", f"services.{service}"),
        env={**bare, **environ},
        cwd=ROOT,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            _, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return Ended(process.returncode or 0, err.decode())


async def refused(environ: Mapping[str, str], *words: str) -> str:
    """Start; the process must end with 2 and a message with these words. Returns the message."""
    ended = await start(environ)
    assert ended.code == 2, ended.stderr
    assert "Traceback" not in ended.stderr, ended.stderr
    message = ended.stderr.partition("tracking can't start:\n")[2]
    for word in words:
        assert word in message
    return message


async def refused_within(
    monkeypatch: pytest.MonkeyPatch, environ: Mapping[str, str], *words: str
) -> None:
    """The same in this process, which costs a second less."""
    for name, text in environ.items():
        monkeypatch.setenv(name, text)
    with pytest.raises(server.WrongStart) as caught:
        async with asyncio.timeout(START_TIMEOUT_S):
            await main(load(Settings))
    for word in words:
        assert word in str(caught.value)


Environment = Callable[..., dict[str, str]]


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """The environment of a service that could start, with changes; None takes a name away."""
    (tmp_path / "jwks.json").write_text(issuer.jwks(issuer.new_key()))

    def make(database: Database | None = None, **changes: str | None) -> dict[str, str]:
        def dsn(role: str) -> str:
            return NO_DATABASE if database is None else database.dsn(role)

        good: dict[str, str | None] = {
            "DRIVEFLOW_LISTEN": "127.0.0.1:0",
            "DRIVEFLOW_DSN": dsn("tracking"),
            "DRIVEFLOW_INGEST_DSN": dsn("tracking_ingest"),
            "DRIVEFLOW_MAINTENANCE_DSN": dsn("tracking_maintenance"),
            "DRIVEFLOW_JWKS": str(tmp_path / "jwks.json"),
            "DRIVEFLOW_PAGE_TOKEN_KEY": "test" * 16,
            "DRIVEFLOW_START_TIMEOUT_S": "2",
        }
        chosen = good | {f"DRIVEFLOW_{name}": text for name, text in changes.items()}
        return {name: text for name, text in chosen.items() if text is not None}

    return make


# --- settings ----------------------------------------------------------------------------------


async def test_all_missing_names_are_said_at_once() -> None:
    names = ("LISTEN", "DSN", "JWKS", "PAGE_TOKEN_KEY", "INGEST_DSN", "MAINTENANCE_DSN")
    await refused({}, *(f"DRIVEFLOW_{name}: Field required" for name in names))


async def test_values_that_cannot_be_are_said_at_once(environment: Environment) -> None:
    wrong = environment(PAGE_TOKEN_KEY="short", POOL_MAX_SIZE="0", LOG_LEVEL="loud", DRAIN_S="x")
    message = await refused(
        wrong,
        "DRIVEFLOW_PAGE_TOKEN_KEY: too short: 32 characters or more",
        "DRIVEFLOW_POOL_MAX_SIZE",
        "DRIVEFLOW_LOG_LEVEL: no level",
        "DRIVEFLOW_DRAIN_S",
    )
    assert "short\n" not in message
    assert "127.0.0.1:1" not in message


async def test_a_metrics_port_that_is_taken_is_named(environment: Environment) -> None:
    with taken_port() as port:
        taken = environment(METRICS_LISTEN=f"127.0.0.1:{port}")
        await refused(taken, "DRIVEFLOW_METRICS_LISTEN", f"127.0.0.1:{port}")


@contextmanager
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield int(listener.getsockname()[1])


# --- the database ------------------------------------------------------------------------------


async def test_a_database_that_is_not_there_is_waited_for_and_then_said(
    environment: Environment,
) -> None:
    down = environment(START_TIMEOUT_S="1")
    await refused(down, "no connection as tracking within 1 s", "is PostgreSQL up", "DRIVEFLOW_DSN")


@pytest.mark.parametrize("dsn", ["nonsense", "postgresql://[broken", "host=127.0.0.1 port=x"])
async def test_a_connection_string_that_is_none_is_said(
    monkeypatch: pytest.MonkeyPatch, environment: Environment, dsn: str
) -> None:
    await refused_within(monkeypatch, environment(DSN=dsn, START_TIMEOUT_S="1"), "DRIVEFLOW_DSN")


@pytest.mark.parametrize("role", ["postgres", "migrator", "tracking_ingest"])
async def test_a_role_that_passes_row_level_security_is_refused(
    monkeypatch: pytest.MonkeyPatch, environment: Environment, database: Database, role: str
) -> None:
    dsn = database.admin_dsn if role == "postgres" else database.dsn(role)
    await refused_within(
        monkeypatch, environment(database, DSN=dsn), "a superuser or a role with BYPASSRLS"
    )


async def test_a_table_without_row_level_security_is_named(
    monkeypatch: pytest.MonkeyPatch, environment: Environment, database: Database
) -> None:
    with psycopg.connect(database.admin_dsn, autocommit=True) as admin:
        admin.execute('ALTER TABLE tracking."Trip" NO FORCE ROW LEVEL SECURITY')
        admin.execute('ALTER TABLE tracking."GpsUpload" DISABLE ROW LEVEL SECURITY')
    await refused_within(
        monkeypatch, environment(database), "no forced row-level security on GpsUpload, Trip"
    )


async def test_a_partition_without_row_level_security_is_named(
    monkeypatch: pytest.MonkeyPatch, environment: Environment, database: Database
) -> None:
    with psycopg.connect(database.admin_dsn, autocommit=True) as admin:
        row = admin.execute("SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r'")
        (name,) = row.fetchone() or ("",)
        table = sql.Identifier("tracking", name)
        admin.execute(sql.SQL("ALTER TABLE {} DISABLE ROW LEVEL SECURITY").format(table))
    await refused_within(
        monkeypatch, environment(database), f"no forced row-level security on {name}"
    )


async def test_a_database_without_migrations_says_what_to_run(
    monkeypatch: pytest.MonkeyPatch, environment: Environment, postgres_server: Server
) -> None:
    empty = Database(postgres_server, "driveflow_test_empty")
    bootstrap(postgres_server.admin_dsn, postgres.PASSWORDS, empty.name)
    try:
        await refused_within(
            monkeypatch, environment(empty), "schema tracking has no tables", "driveflow migrate"
        )
    finally:
        postgres.drop(empty)


async def test_a_server_that_would_lose_data_in_a_power_cut_is_refused(
    monkeypatch: pytest.MonkeyPatch, environment: Environment, crashable_database: Database
) -> None:
    with psycopg.connect(crashable_database.admin_dsn, autocommit=True) as admin:
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):
            admin.execute(f"ALTER SYSTEM SET {setting} = off".encode())
        admin.execute("SELECT pg_reload_conf()")
    await refused_within(
        monkeypatch,
        environment(crashable_database),
        "fsync is off",
        "full_page_writes is off",
        "synchronous_commit is off",
    )


# --- the network -------------------------------------------------------------------------------


async def test_a_second_process_on_the_port_is_refused(
    environment: Environment, database: Database
) -> None:
    with taken_port() as port:
        listen = f"127.0.0.1:{port}"
        await refused(environment(database, LISTEN=listen), f"can't listen on {listen}")


async def test_plaintext_beyond_loopback_is_refused(
    monkeypatch: pytest.MonkeyPatch, environment: Environment, database: Database
) -> None:
    everywhere = environment(database, LISTEN="0.0.0.0:0")
    await refused_within(
        monkeypatch,
        everywhere,
        "not a loopback address",
        "DRIVEFLOW_TLS_CERT",
        "DRIVEFLOW_PLAINTEXT",
    )


async def test_half_of_a_certificate_is_refused(
    monkeypatch: pytest.MonkeyPatch, environment: Environment, database: Database
) -> None:
    await refused_within(monkeypatch, environment(database, TLS_CERT="a.pem"), "DRIVEFLOW_TLS_KEY")


async def test_a_certificate_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, environment: Environment, database: Database
) -> None:
    lost = environment(database, TLS_CERT="/lost.pem", TLS_KEY="/lost.key")
    await refused_within(monkeypatch, lost, "can't read /lost.key")


@pytest.mark.parametrize("content", [None, "no JSON", '{"keys": [{"kty": "EC"}]}'])
async def test_public_keys_that_cannot_be_read_are_said(
    monkeypatch: pytest.MonkeyPatch,
    environment: Environment,
    database: Database,
    tmp_path: Path,
    content: str | None,
) -> None:
    path = tmp_path / "other.json"
    if content is not None:
        path.write_text(content)
    await refused_within(
        monkeypatch,
        environment(database, JWKS=str(path)),
        "can't read public keys",
        "DRIVEFLOW_JWKS",
    )
