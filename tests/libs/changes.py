"""Changes of trips by many writers over crashes, and what became of the events that told of them.

Each change raises its trip's version, notes itself in a table of the test and tells of itself, in a
transaction of up to ten; some are rolled back, some are late to commit. Booking's effects are noted
by a trigger of the test, in their transaction. At the end the two are held against each other.

    python -m tests.libs.changes DSN SEED LATE      writes, as tracking would, until it is killed
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psycopg
import psycopg_pool

from libs import outbox, pooling
from libs.local.paths import ROOT
from libs.orgs import Orgs
from libs.pooling import Connection
from libs.settings import Settings
from tests.libs.pair import Pair, furnish, lesson_id, pair, school_id, trip_id
from tests.postgres import Database

SCHOOLS, TRIPS = 10, 200
WORKERS = 8
TRANSACTION_MAX = 10
ROLLED_BACK = 0.1
LATE_S = 0.5
PATIENCE_S = 300.0
PREPARE = """
CREATE TABLE tracking."Change" (number bigint GENERATED ALWAYS AS IDENTITY, "tripId" uuid,
                                version int);
GRANT SELECT, INSERT ON tracking."Change" TO tracking;
CREATE TABLE booking."Effect" (id bigint GENERATED ALWAYS AS IDENTITY, "tripId" uuid, version int,
                               number bigint);
GRANT INSERT ON booking."Effect" TO booking;
CREATE FUNCTION booking.note_effect() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO booking."Effect" ("tripId", version, number)
  VALUES (NEW."tripId", NEW.version, NEW."distanceMeters"::bigint);
  RETURN NEW;
END $$;
CREATE TRIGGER note_effect BEFORE INSERT ON booking."LessonTrip"
  FOR EACH ROW EXECUTE FUNCTION booking.note_effect();
"""
_RAISE = b"""
UPDATE "Trip" SET version = version + 1 WHERE "orgId" = %(org_id)s AND id = %(trip_id)s
RETURNING version
"""
_NOTE = b"""INSERT INTO "Change" ("tripId", version) VALUES (%s, %s) RETURNING number"""
_TAKEN = """
SELECT (SELECT ("xactId", id) FROM tracking."Outbox" ORDER BY "xactId" DESC, id DESC LIMIT 1)
       = (SELECT ("xactId", id) FROM booking."EventCursor" WHERE producer = 'tracking')
   AND NOT EXISTS (SELECT FROM booking."ParkedEvent")
"""
_DISORDER = """
SELECT count(*)
  FROM (SELECT version - lag(version, 1, 0) OVER (PARTITION BY "tripId" ORDER BY id) AS step
          FROM booking."Effect") AS steps
 WHERE step <> 1
"""
_VERSIONS_WRONG = """
SELECT count(*) FROM tracking."Trip" AS t
 WHERE version <> (SELECT count(*) FROM tracking."Change" AS c WHERE c."tripId" = t.id)
"""


# --- a writer's process ------------------------------------------------------------------------


async def write(dsn: str, seed: int, late: float) -> None:
    """Change trips for ever; `late` is the share of transactions that commit late."""
    settings = Settings(listen="-", dsn=dsn, jwks="-", page_token_key="-" * 32)
    pool = pooling.create("tracking", dsn, settings, max_size=WORKERS)
    # The database may be down just now: whoever wants a connection waits and tries again.
    await pool.open(wait=False)
    orgs = Orgs(pool)
    await asyncio.gather(
        *(_work(orgs, random.Random(seed * WORKERS + n), late) for n in range(WORKERS))
    )


async def _work(orgs: Orgs, dice: random.Random, late: float) -> None:
    while True:
        with suppress(psycopg.Error, psycopg_pool.PoolTimeout, OSError):
            await _change(orgs, dice, late)
            continue
        await asyncio.sleep(0.05)


async def _change(orgs: Orgs, dice: random.Random, late: float) -> None:
    """A transaction of some changes of trips of one school."""
    school = dice.randrange(SCHOOLS)
    of_school = range(school, TRIPS, SCHOOLS)
    chosen = sorted(dice.sample(of_school, dice.randint(1, TRANSACTION_MAX)))
    async with orgs.write(school_id(school)) as conn:
        for trip in chosen:
            await _tell(conn, school, trip)
        if dice.random() < late:
            await asyncio.sleep(dice.choice((dice.uniform(0, LATE_S), LATE_S)))
        if dice.random() < ROLLED_BACK:
            raise psycopg.OperationalError("no: it never happened")


async def _tell(conn: Connection, school: int, trip: int) -> None:
    org_id, id_ = school_id(school), trip_id(trip)
    raised = await conn.execute(_RAISE, {"org_id": org_id, "trip_id": id_})
    ((version,),) = await raised.fetchall()
    ((number,),) = await (await conn.execute(_NOTE, (id_, version))).fetchall()
    payload = {
        "trip_id": str(id_),
        "lesson_id": str(lesson_id(trip)),
        "started_at": "2026-06-01T01:00:00+00:00",
        "ended_at": "2026-06-01T02:00:00+00:00",
        "distance_meters": number,
    }
    await outbox.emit(conn, org_id, "trip", id_, version, "trip.completed", payload)


# --- the site ----------------------------------------------------------------------------------


@dataclass
class Verdict:
    """What was found; everything but the first must be 0."""

    changes: int = 0
    lost: int = 0
    """Committed, but without an effect."""
    phantom: int = 0
    """Effects of what was never committed."""
    twice: int = 0
    disorder: int = 0
    """Effects that did not follow the version before theirs."""
    versions_wrong: int = 0
    """Of the test itself: trips whose version is not the number of their changes."""

    @property
    def faults(self) -> dict[str, int]:
        """What is not as it must be; empty when all is well."""
        return {name: count for name, count in asdict(self).items() if count and name != "changes"}


@dataclass
class Site:
    """The two services, and a process of writers."""

    two: Pair
    folder: Path
    late: float
    kills: list[str] = field(default_factory=list)
    _writers: subprocess.Popen[bytes] | None = None

    def write(self, seed: int) -> None:
        """Start the writers."""
        dsn = self.two.database.dsn("tracking")
        with (self.folder / "writers.log").open("ab") as log:
            self._writers = subprocess.Popen(
                [sys.executable, "-m", "tests.libs.changes", dsn, str(seed), str(self.late)],
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos'}"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def kill_writers(self) -> None:
        """In the middle of their transactions."""
        if self._writers is not None:
            self._writers.send_signal(signal.SIGKILL)
            self._writers.wait()
            self._writers = None

    async def kill(self, what: str) -> None:
        """Kill producer, consumer, writers or database, and start it again."""
        if what == "writers":
            self.kill_writers()
            self.write(len(self.kills) + 1)
        elif what == "database":
            embedded = self.two.database.server.embedded
            assert embedded is not None
            await asyncio.to_thread(embedded.kill9)
            await asyncio.to_thread(embedded.start)
        else:
            process = self.two.tracking if what == "producer" else self.two.booking
            await process.kill9()
            await process.start()
        self.kills.append(what)

    async def changed(self, count: int) -> None:
        """Return once so many changes have been committed."""
        await self._until(lambda: self._count() >= count, f"{count} changes")

    async def judge(self) -> Verdict:
        """End the writers, wait until the last event had its effect, and compare."""
        self.kill_writers()
        await self._until(lambda: self._one(_TAKEN) is True, "all events are taken")
        with self.two.admin() as admin:
            changes = admin.execute('SELECT number, "tripId", version FROM tracking."Change"')
            told = set(changes.fetchall())
            noted = admin.execute('SELECT number, "tripId", version FROM booking."Effect"')
            effects = noted.fetchall()
        had = set(effects)
        return Verdict(
            changes=len(told),
            lost=len(told - had),
            phantom=len(had - told),
            twice=len(effects) - len(had),
            disorder=int(str(self._one(_DISORDER))),
            versions_wrong=int(str(self._one(_VERSIONS_WRONG))),
        )

    def _count(self) -> int:
        return int(str(self._one('SELECT count(*) FROM tracking."Change"')))

    def _one(self, query: str) -> object:
        with self.two.admin() as admin:
            row = admin.execute(query.encode()).fetchone()
        return None if row is None else row[0]

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        give_up = time.monotonic() + PATIENCE_S
        while True:
            with suppress(psycopg.OperationalError):
                if await asyncio.to_thread(condition):
                    return
            if time.monotonic() > give_up:
                raise TimeoutError(f"{what}: not within {PATIENCE_S:g} s")
            await asyncio.sleep(0.1)


@asynccontextmanager
async def site(database: Database, folder: Path, *, late: float) -> AsyncIterator[Site]:
    """Everything runs; `late` is the share of transactions that commit up to 500 ms late."""
    furnish(database, SCHOOLS, TRIPS)
    with psycopg.connect(database.admin_dsn, autocommit=True) as admin:
        admin.execute(PREPARE.encode())
    async with pair(database, folder) as two:
        await asyncio.gather(two.tracking.start(), two.booking.start())
        place = Site(two, folder, late)
        try:
            place.write(0)
            yield place
        finally:
            place.kill_writers()


if __name__ == "__main__":
    asyncio.run(write(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
