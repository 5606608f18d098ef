"""A streaming replica of the database server of the run."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from libs.local.postgres import EmbeddedPostgres
from tests import postgres
from tests.postgres import PASSWORDS, Database, Server

PATIENCE_S = 20.0


class Replica(EmbeddedPostgres):
    """A server that follows another one; `name` is how the primary knows it."""

    def __init__(self, folder: Path, port: int, primary: Server, name: str) -> None:
        super().__init__(folder, port)
        self.name = name
        self._primary = primary.admin_dsn

    def _create(self) -> None:
        self._make_home()
        self._password_file.write_text(str(conninfo_to_dict(self._primary)["password"]))
        self._own(self._password_file, 0o600)
        followed = make_conninfo(self._primary, dbname="", application_name=self.name)
        self._run(
            "pg_basebackup", "-d", followed, "-D", str(self._cluster),
            "-R", "-c", "fast", "-X", "stream", "--no-sync",
        )  # fmt: skip

    def dsn_of(self, database: Database, role: str) -> str:
        """Connection string of a login role to a database of the primary's."""
        return make_conninfo(self.dsn(), dbname=database.name, user=role, password=PASSWORDS[role])

    def catch_up(self) -> None:
        """Return once it has replayed what the primary has written by now."""
        with psycopg.connect(self._primary, autocommit=True) as primary:
            row = primary.execute("SELECT pg_current_wal_lsn()::text").fetchone()
        give_up = time.monotonic() + PATIENCE_S
        with psycopg.connect(self.dsn(), autocommit=True) as conn:
            behind = "SELECT pg_last_wal_replay_lsn() < %s::pg_lsn"
            while conn.execute(behind, row).fetchone() != (False,):
                assert time.monotonic() < give_up, "the replica does not follow"
                time.sleep(0.01)


@contextmanager
def following(primary: Server, name: str = "replica-1") -> Iterator[Replica]:
    """A replica that has caught up; it is stopped and removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="driveflow-replica-", dir=postgres.in_memory()))
    folder.chmod(0o755)
    replica = Replica(folder / "postgres", postgres.free_port(), primary, name)
    try:
        replica.start()
        replica.catch_up()
        yield replica
    finally:
        replica.stop()
        shutil.rmtree(folder)
