"""Values kept in the process for minutes, and forgotten a moment after they change.

Whoever changes a thing calls `invalidate` in the transaction of the change: a NOTIFY, which all
processes hear after the commit and none after a rollback. A process that does not hear (no
connection that LISTENs, or one that does not answer) keeps nothing and hands nothing out: it asks
the database each time. The time to live is for what changes without a word.

Never decide a write by a cached value.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar, cast
from uuid import UUID

from psycopg import AsyncCursor, sql

from libs import calls, consistency, telemetry
from libs.consistency import Token
from libs.pooling import Connection, Pool

log = logging.getLogger(__name__)

V = TypeVar("V")
Key = tuple[int, str, int | str]
"""School, kind, id. Numbers, because a UUID is hashed and compared in Python."""

TTL_JITTER = 0.1
HEARTBEAT_S = 0.25
HEARTBEAT_TIMEOUT_S = 3.0
LEASE_S = 1.0
"""Without a heartbeat for so long, values might be stale: they are not handed out."""
RECONNECT_MIN_S = 0.05
RECONNECT_MAX_S = 1.0
IDS_MAX = 100
"""Of more things in one change, all of their kind in the school are forgotten."""
PAYLOAD_BYTES_MAX = 7_900
_NOTIFY = b"SELECT /* libs.invalidate */ pg_notify(%s::text, %s::text)"


@dataclass(frozen=True, slots=True)
class _Entry:
    value: Any
    org: int
    position: Token
    """Where the log stood at some moment before the value was read."""
    expires_at: float


@dataclass(slots=True, eq=False)
class _Flight:
    """A fill that callers share; each has a wait of his own, which he may give up."""

    task: asyncio.Task[None] = field(init=False)
    waits: list[asyncio.Future[Any]] = field(default_factory=list)
    started: bool = False
    position: Token | None = None
    """None: nobody listened when it started, so its value is not kept."""

    def wait(self) -> asyncio.Future[Any]:
        """What will be the value, or why there is none."""
        waiting: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.waits.append(waiting)
        return waiting

    def land(self, value: Any, error: BaseException | None = None) -> None:
        """Tell all who still wait."""
        for waiting in self.waits:
            if waiting.done():
                continue
            if error is None:
                waiting.set_result(value)
            elif isinstance(error, asyncio.CancelledError):
                waiting.cancel()
            else:
                waiting.set_exception(error)


class Cache:
    """The cache of one process. Without `run` under way it is bypassed.

    Values are shared by all callers: they must be immutable. One that has an `org_id` must be of
    the school that it was asked for, or the call fails.
    """

    def __init__(
        self,
        pool: Pool,
        *,
        channel: str | None = None,
        ttl_s: float = 300.0,
        entries_max: int = 50_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`channel`: that of the pool's login role (`driveflow_cache_booking`) unless given.

        The pool must reach the primary, and not through a pooler that takes its connections away
        between transactions: LISTEN needs a session.
        """
        self._pool = pool
        self._channel = channel
        self._ttl_s = ttl_s
        self._clock = clock
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        """That used longest ago first."""
        self._entries_max = entries_max
        self._flights: dict[Key, _Flight] = {}
        """The fill that callers of a key may join; one that may be too old is not in here."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._position: Token | None = None
        self._live_until = float("-inf")
        self._pause_s = RECONNECT_MIN_S
        self._figures = _Figures()

    @property
    def listening(self) -> bool:
        """Whether values are kept and handed out; bypassed otherwise."""
        return time.monotonic() < self._live_until

    def hit(self, org_id: UUID, kind: str, id: UUID | str, at_least: Token | None = None) -> Any:  # noqa: A002
        """The value if it is here and may be handed out; None otherwise, then `get` it."""
        key = _key(org_id, kind, id)
        entry = self._entries.get(key)
        if entry is None or time.monotonic() >= self._live_until:
            return None
        if at_least is not None and not entry.position.is_past(at_least):
            return None
        if self._clock() >= entry.expires_at or entry.org != org_id.int:
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        self._figures.hits += 1
        return entry.value

    async def get(
        self,
        org_id: UUID,
        kind: str,
        id: UUID | str,  # noqa: A002
        fill: Callable[[], Awaitable[V | None]],
        *,
        at_least: Token | None = None,
    ) -> V | None:
        """The value, by `fill` unless it is here; None from `fill` is handed on and not kept.

        `fill` reads the primary in a transaction of its own. It runs as a task, shared by all
        who ask meanwhile; it does not end when they do, and fails for all if it fails. With
        `at_least` the value is not older than that write.
        """
        value: V | None = self.hit(org_id, kind, id, at_least)
        if value is not None:
            return value
        return await self.fetch(org_id, kind, id, fill, at_least=at_least)

    async def fetch(
        self,
        org_id: UUID,
        kind: str,
        id: UUID | str,  # noqa: A002
        fill: Callable[[], Awaitable[V | None]],
        *,
        at_least: Token | None = None,
    ) -> V | None:
        """As `get`, where `hit` gave None a moment ago."""
        if self.listening:
            self._figures.misses += 1
        else:
            self._figures.bypasses += 1
        flight = self._flight(org_id, _key(org_id, kind, id), fill, at_least)
        found: V | None = await flight.wait()
        return found

    async def run(self) -> None:
        """Listen to what changes, for ever."""
        try:
            while True:
                try:
                    async with await self._connect() as conn:
                        await self._listen(conn)
                except Exception as error:  # noqa: BLE001 (bypassed meanwhile, and tried again)
                    log.warning("cache bypassed", extra={"exception": telemetry.describe(error)})
                self._figures.report(len(self._entries))
                await asyncio.sleep(self._pause_s * random.uniform(0.5, 1.0))  # noqa: S311
                self._pause_s = min(RECONNECT_MAX_S, self._pause_s * 2)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- fills ---

    def _flight(
        self,
        org_id: UUID,
        key: Key,
        fill: Callable[[], Awaitable[Any]],
        at_least: Token | None,
    ) -> _Flight:
        """The fill to wait for: the one under way if its value will do, else one after it."""
        current = self._flights.get(key)
        if current is not None and self._will_do(current, at_least):
            return current
        flight = self._flights[key] = _Flight()
        after = None if current is None else current.task
        loop = asyncio.get_running_loop()
        flight.task = loop.create_task(self._fill(flight, org_id, key, fill, after))
        self._tasks.add(flight.task)
        flight.task.add_done_callback(partial(self._landed, flight))
        return flight

    def _will_do(self, flight: _Flight, at_least: Token | None) -> bool:
        """Whether what the fill reads is new enough for a caller who asks now."""
        if not flight.started:
            return True
        if flight.position is None or not self.listening:
            return False
        return at_least is None or flight.position.is_past(at_least)

    async def _fill(
        self,
        flight: _Flight,
        org_id: UUID,
        key: Key,
        fill: Callable[[], Awaitable[Any]],
        after: asyncio.Task[None] | None,
    ) -> None:
        try:
            if after is not None:
                await asyncio.wait([after])
            _outlive_the_caller()
            flight.started, flight.position = True, self._position
            jitter = 1 - TTL_JITTER + 2 * TTL_JITTER * random.random()  # noqa: S311
            expires_at = self._clock() + self._ttl_s * jitter
            value = await fill()
            owner = getattr(value, "org_id", org_id)
            if owner is not org_id and str(owner) != str(org_id):
                raise RuntimeError(f"a fill read a {key[1]} of another school")
            if value is not None and flight.position is not None and self._is_current(key, flight):
                self._keep(key, _Entry(value, org_id.int, flight.position, expires_at))
            flight.land(value)
        except Exception as error:  # noqa: BLE001 (theirs who wait)
            flight.land(None, error)
        finally:
            if self._is_current(key, flight):
                del self._flights[key]

    def _keep(self, key: Key, entry: _Entry) -> None:
        self._entries[key] = entry
        self._entries.move_to_end(key)
        if len(self._entries) > self._entries_max:
            self._entries.popitem(last=False)

    def _is_current(self, key: Key, flight: _Flight) -> bool:
        """Whether nothing was heard of the key, and no newer fill was asked for, since it began."""
        return self._flights.get(key) is flight

    def _landed(self, flight: _Flight, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            flight.land(None, asyncio.CancelledError())

    # --- invalidation ---

    async def _connect(self) -> Connection:
        """A connection like those of the pool; its statements, four a second, are not observed."""
        options = {
            **cast("dict[str, Any]", self._pool.kwargs),
            "application_name": f"{self._pool.name} cache",
            "cursor_factory": AsyncCursor,
        }
        return await Connection.connect(cast("str", self._pool.conninfo), **options)

    async def _listen(self, conn: Connection) -> None:
        """Forget what the channel names, as long as the connection answers."""
        channel = self._channel or channel_of(conn)
        await conn.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
        try:
            while True:
                await self._beat(conn)
                await self._hear(conn, HEARTBEAT_S)
        finally:
            self._position, self._live_until = None, float("-inf")
            self._forget_all()

    async def _beat(self, conn: Connection) -> None:
        """The connection answers, and all that came before its answer is obeyed."""
        asked_at = time.monotonic()
        async with asyncio.timeout(HEARTBEAT_TIMEOUT_S):
            position = await consistency.position(conn)
        await self._hear(conn, 0)
        self._position, self._live_until = position, asked_at + LEASE_S
        self._pause_s = RECONNECT_MIN_S
        self._figures.report(len(self._entries))

    async def _hear(self, conn: Connection, seconds: float) -> None:
        async for notification in conn.notifies(timeout=seconds):
            self._obey(notification.payload)

    def _obey(self, payload: str) -> None:
        try:
            org, kind, *ids = json.loads(payload)
            org_id = UUID(org)
            keys = {_key(org_id, kind, each) for each in ids}
        except (ValueError, TypeError, AttributeError):
            log.warning("not an invalidation")
            self._forget_all()
            return
        for key in keys or self._of_kind(org_id, kind):
            self._forget(key)

    def _of_kind(self, org_id: UUID, kind: str) -> list[Key]:
        org, known = org_id.int, (*self._entries, *self._flights)
        return [key for key in known if key[0] == org and key[1] == kind]

    def _forget(self, key: Key) -> None:
        self._entries.pop(key, None)
        flight = self._flights.get(key)
        if flight is not None and flight.started:
            del self._flights[key]

    def _forget_all(self) -> None:
        for key in [*self._entries, *self._flights]:
            self._forget(key)


class _Figures:
    """Counted in plain numbers: a counter costs more than a hit."""

    def __init__(self) -> None:
        self.hits = self.misses = self.bypasses = 0
        self._lookups = telemetry.counter(
            "driveflow.cache.lookups", "{lookup}", "Lookups in the cache, by outcome"
        )
        self._entries = telemetry.gauge("driveflow.cache.entries", "{entry}", "Values in the cache")

    def report(self, entries: int) -> None:
        self._lookups.add(self.hits, {"outcome": "hit"})
        self._lookups.add(self.misses, {"outcome": "miss"})
        self._lookups.add(self.bypasses, {"outcome": "bypass"})
        self.hits = self.misses = self.bypasses = 0
        self._entries.set(entries)


async def invalidate(
    conn: Connection, org_id: UUID, kind: str, *ids: UUID | str, channel: str | None = None
) -> None:
    """Have all processes forget these things of a school once the transaction is committed.

    Without ids it does nothing. NOTIFY takes a lock of the whole cluster at commit, so not where
    thousands of transactions commit each second.
    """
    if ids:
        payload = _payload(org_id, kind, [str(each) for each in ids])
        await conn.send(_NOTIFY, (channel or channel_of(conn), payload))


def channel_of(conn: Connection) -> str:
    """The channel of a service: it is named after the role that the connection logged in as."""
    return f"driveflow_cache_{conn.info.user}"


def _payload(org_id: UUID, kind: str, ids: Sequence[str]) -> str:
    """The school, the kind and the ids; no ids means all of the kind."""
    payload = json.dumps([str(org_id), kind, *ids])
    if len(ids) > IDS_MAX or len(payload) > PAYLOAD_BYTES_MAX:
        return json.dumps([str(org_id), kind])
    return payload


def _key(org_id: UUID, kind: str, id: UUID | str) -> Key:  # noqa: A002
    """A UUID that is written out is the same key as the UUID."""
    if isinstance(id, UUID):
        return org_id.int, kind, id.int
    digits = id.replace("-", "")
    try:
        # As UUID does it, but for what else it takes.
        return org_id.int, kind, int(digits, 16) if len(digits) == 32 else UUID(id).int
    except ValueError:
        return org_id.int, kind, id


def _outlive_the_caller() -> None:
    """A fill serves others too: the deadline and the stream of its first caller are not its own."""
    call = calls.current()
    if call is not None:
        calls.begin(call.outlived())
