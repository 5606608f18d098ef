"""Tracking that tells of its trips and booking that takes them in, as processes of their own.

The effect is booking's real one: a trip.completed becomes a row of "LessonTrip", and its lesson is
added up. Either process may be killed and started again.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import psycopg

from libs import issuer
from libs.healthcheck import status
from libs.local.paths import ROOT
from tests.postgres import Database, free_port

PATIENCE_S = 60.0
STOP_S = 30.0
# Lessons without their bookings, and trips of them: the foreign keys are none of this.
_FURNISH = """
SET session_replication_role = replica;
INSERT INTO booking."Lesson" ("orgId", id, "bookingId", "studentId", "instructorId", "startedAt")
SELECT ('ea000000-0000-7000-8000-' || lpad(to_hex(k % {schools}), 12, '0'))::uuid,
       ('eb000000-0000-7000-8000-' || lpad(to_hex(k), 12, '0'))::uuid,
       gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), now()
  FROM generate_series(0, {lessons} - 1) AS k;
INSERT INTO tracking."Trip" ("orgId", id, "lessonId", "startedAt", version)
SELECT ('ea000000-0000-7000-8000-' || lpad(to_hex(k % {schools}), 12, '0'))::uuid,
       ('ec000000-0000-7000-8000-' || lpad(to_hex(k), 12, '0'))::uuid,
       ('eb000000-0000-7000-8000-' || lpad(to_hex(k), 12, '0'))::uuid, now(), 0
  FROM generate_series(0, {lessons} - 1) AS k;
RESET session_replication_role;
"""


class Process:
    """A service at a fixed address."""

    def __init__(self, name: str, folder: Path, settings: dict[str, str]) -> None:
        self.name = name
        self.address = settings["DRIVEFLOW_LISTEN"]
        self.log = folder / f"{name}.log"
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The number of the running process."""
        assert self._process is not None
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether it has been started and not been ended."""
        return self._process is not None

    async def start(self) -> None:
        """Start it and return once it serves."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220 (returns at once)
                [sys.executable, "-P", "-m", f"services.{self.name}"],
                cwd=ROOT,
                env=os.environ | self._settings,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        await self.serving()

    async def serving(self) -> None:
        """Return once it serves."""
        give_up = time.monotonic() + PATIENCE_S
        while await asyncio.to_thread(status, self.address) != "SERVING":
            ended = self._process is None or self._process.poll() is not None
            if ended or time.monotonic() > give_up:
                raise RuntimeError(f"{self.name} does not serve:\n{self.log.read_text()[-4000:]}")
            await asyncio.sleep(0.05)

    async def kill9(self) -> None:
        """Kill it, if it runs; it gets no chance to say anything."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        """Ask it to stop, and wait until it has."""
        await self._end(signal.SIGTERM)

    async def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            await asyncio.to_thread(self._process.wait, STOP_S)
            self._process = None


@dataclass(frozen=True)
class Pair:
    """The two, on one database."""

    database: Database
    key: str
    tracking: Process
    booking: Process

    def token(self, subject: str, org_id: uuid.UUID | None, *scopes: str) -> str:
        """A token that both take."""
        ttl = timedelta(hours=2)
        return issuer.sign(self.key, subject=subject, scopes=scopes, org_id=org_id, ttl=ttl)

    def admin(self) -> psycopg.Connection:
        """A superuser's connection, autocommit."""
        return psycopg.connect(self.database.admin_dsn, autocommit=True)


@asynccontextmanager
async def pair(database: Database, folder: Path) -> AsyncIterator[Pair]:
    """Both, not yet started; none of them runs after the block."""
    key = issuer.new_key()
    (folder / "jwks.json").write_text(issuer.jwks(key))
    (folder / "key.pem").write_text(key)
    addresses = {name: f"127.0.0.1:{free_port()}" for name in ("tracking", "booking")}
    made = {
        name: Process(name, folder, _settings(name, database, folder, addresses))
        for name in addresses
    }
    try:
        yield Pair(database, key, **made)
    finally:
        for process in made.values():
            await process.kill9()


def _settings(
    name: str, database: Database, folder: Path, addresses: dict[str, str]
) -> dict[str, str]:
    settings = {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos'}",
        "DRIVEFLOW_LISTEN": addresses[name],
        "DRIVEFLOW_METRICS_LISTEN": f"127.0.0.1:{free_port()}",
        "DRIVEFLOW_DSN": database.dsn(name),
        "DRIVEFLOW_JWKS": str(folder / "jwks.json"),
        "DRIVEFLOW_PAGE_TOKEN_KEY": "events" * 16,
        "DRIVEFLOW_SERVICE_KEY": str(folder / "key.pem"),
    }
    if name == "tracking":
        settings["DRIVEFLOW_INGEST_DSN"] = database.dsn("tracking_ingest")
        settings["DRIVEFLOW_MAINTENANCE_DSN"] = database.dsn("tracking_maintenance")
        settings["DRIVEFLOW_EVENT_CONSUMERS"] = "booking"
    else:
        settings["DRIVEFLOW_EVENT_SOURCES"] = f"tracking={addresses['tracking']}"
    return settings


def furnish(database: Database, schools: int, lessons: int) -> None:
    """So many lessons of these schools in turn, with a trip each, of version 0."""
    with psycopg.connect(database.admin_dsn, autocommit=True) as admin:
        admin.execute(_FURNISH.format(schools=schools, lessons=lessons).encode())


def school_id(school: int) -> uuid.UUID:
    """The id of a school that `furnish` made."""
    return uuid.UUID(f"ea000000-0000-7000-8000-{school:012x}")


def lesson_id(lesson: int) -> uuid.UUID:
    """The id of a lesson that `furnish` made."""
    return uuid.UUID(f"eb000000-0000-7000-8000-{lesson:012x}")


def trip_id(lesson: int) -> uuid.UUID:
    """The id of a lesson's trip."""
    return uuid.UUID(f"ec000000-0000-7000-8000-{lesson:012x}")
