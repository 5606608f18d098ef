"""The database server of a test run, and a database of its own for each test.

DRIVEFLOW_TEST_DSN names a server to use (a superuser's; it is for tests alone, their roles and
passwords are set on it). Without it a container runs if an engine answers, else the embedded
server. DRIVEFLOW_TEST_BACKEND=docker insists on the container.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import yaml
from psycopg import sql
from psycopg.conninfo import make_conninfo

from libs import migrations
from libs.bootstrap import LOGINS, bootstrap
from libs.local.paths import ROOT
from libs.local.postgres import CONFIGURATION, EmbeddedPostgres

PASSWORDS = {role: f"{role}-test" for role in LOGINS}


@dataclass(frozen=True)
class Server:
    """A running PostgreSQL; `embedded` where it is one that a test may crash."""

    admin_dsn: str
    embedded: EmbeddedPostgres | None = None
    in_memory: bool = False
    """Whether its files are."""


@dataclass(frozen=True)
class Database:
    """A bootstrapped and migrated database."""

    server: Server
    name: str

    @property
    def admin_dsn(self) -> str:
        """Connection string of the superuser."""
        return make_conninfo(self.server.admin_dsn, dbname=self.name)

    def dsn(self, role: str) -> str:
        """Connection string of a login role."""
        return make_conninfo(self.admin_dsn, user=role, password=PASSWORDS[role])


def backend() -> str:
    """Which server this run uses: dsn, docker or embedded."""
    if "DRIVEFLOW_TEST_DSN" in os.environ:
        return "dsn"
    return os.environ.get("DRIVEFLOW_TEST_BACKEND") or ("docker" if _engine() else "embedded")


MEMORY_FREE_MIN = 4 * 1024**3


@contextmanager
def running_server() -> Iterator[Server]:
    """The server that `backend` chose; stopped afterwards unless it was there before."""
    match backend():
        case "dsn":
            yield Server(os.environ["DRIVEFLOW_TEST_DSN"])
        case "docker":
            with _container() as server:
                yield server
        case "embedded":
            with embedded_server(in_memory()) as server:
                yield server
        case other:
            raise ValueError(f"DRIVEFLOW_TEST_BACKEND is {other!r}, not docker or embedded")


@contextmanager
def embedded_server(folder_of: Path | None = None) -> Iterator[Server]:
    """A server of its own, which a test may kill and start again; below `folder_of` or on disk."""
    folder = Path(tempfile.mkdtemp(prefix="driveflow-test-", dir=folder_of))
    folder.chmod(0o755)
    embedded = EmbeddedPostgres(folder / "postgres", free_port())
    try:
        embedded.start()
        yield Server(embedded.dsn(), embedded, in_memory=folder_of is not None)
    finally:
        embedded.stop()
        shutil.rmtree(folder)


def in_memory() -> Path | None:
    """A file system in memory with room to spare: what is written there is safe at once.

    Durability is on all the same, and tests that kill the server kill no machine.
    """
    folder = Path("/dev/shm")  # noqa: S108 (a folder of our own is made in it)
    roomy = folder.is_dir() and shutil.disk_usage(folder).free > MEMORY_FREE_MIN
    return folder if roomy and os.access(folder, os.W_OK) else None


def make_template(server: Server) -> Database:
    """A database with everything in place, for others to be copied from."""
    template = Database(server, f"driveflow_template_{uuid.uuid4().hex[:12]}")
    bootstrap(server.admin_dsn, PASSWORDS, template.name)
    list(migrations.migrate(template.dsn("migrator")))
    return template


@contextmanager
def copied(template: Database) -> Iterator[Database]:
    """A copy of `template`, dropped afterwards with whoever is still connected.

    In memory its files are copied, between two checkpoints: 20 ms of CPU rather than the 120 of a
    copy through the log, which is the quicker one where a checkpoint waits for a disk.
    """
    strategy = "file_copy" if template.server.in_memory else "wal_log"
    database = Database(template.server, f"driveflow_test_{uuid.uuid4().hex[:12]}")
    _administer(
        template.server,
        f"CREATE DATABASE {{}} TEMPLATE {{}} STRATEGY {strategy}",
        database.name,
        template.name,
    )
    try:
        # What belongs to a database and not to its contents is not copied.
        _administer(database.server, "ALTER DATABASE {} SET timezone = 'UTC'", database.name)
        yield database
    finally:
        drop(database)


def drop(database: Database) -> None:
    """Remove it, whoever is connected."""
    _administer(database.server, "DROP DATABASE IF EXISTS {} WITH (FORCE)", database.name)


def free_port(more: Iterable[int] = ()) -> int:
    """A TCP port that nobody listens on, nor on those that lie `more` above it.

    Below the range from which the system gives ports to clients, so that it stays free.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        if all(_is_free(port + offset) for offset in (0, *more)):
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _administer(server: Server, statement: str, *names: str) -> None:
    with psycopg.connect(server.admin_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


def _engine() -> bool:
    """Whether a container engine answers."""
    if "DOCKER_HOST" not in os.environ and not Path("/var/run/docker.sock").exists():
        return False
    import docker  # noqa: PLC0415

    try:
        return bool(docker.from_env().ping())
    except docker.errors.DockerException:
        return False


@contextmanager
def _container() -> Iterator[Server]:
    from testcontainers.postgres import PostgresContainer  # noqa: PLC0415

    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    container = (
        PostgresContainer(compose["services"]["postgres"]["image"], username="postgres")
        .with_volume_mapping(str(CONFIGURATION), "/etc/postgresql/postgresql.conf", "ro")
        .with_command("-c config_file=/etc/postgresql/postgresql.conf -c listen_addresses=*")
    )
    with container:
        yield Server(container.get_connection_url(driver=None))
