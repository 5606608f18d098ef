"""Sessions: connections, who waits for whom, long transactions, signals."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from driveflow.monitor.v1 import sessions_pb2 as pb
from libs import audit, idempotency, masks, pages
from libs.errors import FailedPrecondition
from libs.interceptors import Context
from libs.messages import stamp, time
from libs.orgs import Reader
from libs.pooling import Connection
from services.monitor.messages import sessions as messages
from services.monitor.model.sessions import Session, forest, pids_of
from services.monitor.servicer.desk import Desk
from services.monitor.store import sessions as store

CONNECTIONS = masks.fields(pb.ConnectionStats.DESCRIPTOR)
TREE = masks.fields(pb.LockTree.DESCRIPTOR)
SESSION = masks.fields(pb.Session.DESCRIPTOR)
WAITS_MAX = 200
"""Of more sessions that wait for a lock, those whose statements began first are in the tree."""
MIN_AGE_S = 10.0
FIRST = datetime.min.replace(tzinfo=UTC)
Signal = Callable[[Connection, int, datetime], Awaitable[tuple[Session, datetime]]]


class Sessions:
    """GetConnectionStats, GetLockTree, ListLongTransactions, CancelBackend, TerminateBackend."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def GetConnectionStats(
        self, request: pb.GetConnectionStatsRequest, context: Context
    ) -> pb.ConnectionStats:
        paths = masks.paths(request.read_mask, CONNECTIONS, tuple(CONNECTIONS))
        pools = []
        if {"pools", "services"} & set(paths) and self._desk.scraping.is_configured:
            pools = (await self._desk.scraping.read()).pools
        answer = pb.ConnectionStats(pools=messages.pools(pools))
        async with self._desk.read() as conn:
            if "states" in paths:
                answer.states.extend(messages.states(await store.states(conn)))
            if "services" in paths:
                answer.services.extend(messages.services(await store.roles(conn), pools))
            if {"total", "limit", "used_percent"} & set(paths):
                places = await store.places(conn)
                answer.total, answer.limit = places.total, places.limit
                answer.used_percent = places.used_percent
        return masks.kept(answer, paths)

    async def GetLockTree(self, request: pb.GetLockTreeRequest, context: Context) -> pb.LockTree:
        paths = masks.paths(request.read_mask, TREE, tuple(TREE))
        async with self._desk.read() as conn:
            waits = await store.lock_waits(conn, WAITS_MAX)
            if not waits:
                return pb.LockTree()
            pids = pids_of(waits)
            locks = await store.locks_of(conn, pids)
            sessions = {}
            if "roots" in paths:
                found = await store.sessions_of(conn, pids)
                told = await _with_texts(conn, list(found.values()))
                sessions = {session.pid: session for session in told}
            waiting = len(waits) if len(waits) < WAITS_MAX else await store.count_lock_waits(conn)
        waiters = {wait.pid for wait in waits}
        waited = [lock.waited_s or 0.0 for lock in locks if lock.pid in waiters]
        answer = pb.LockTree(waiting=waiting, longest_wait_seconds=max(waited, default=0.0))
        if "roots" in paths:
            answer.roots.extend(messages.node(root, sessions) for root in forest(waits, locks))
        return masks.kept(answer, paths)

    async def ListLongTransactions(
        self, request: pb.ListLongTransactionsRequest, context: Context
    ) -> pb.ListLongTransactionsResponse:
        paths = masks.paths(request.read_mask, SESSION, tuple(SESSION))
        limit = pages.size(request)
        min_s = request.min_age_seconds if request.HasField("min_age_seconds") else MIN_AGE_S
        start, pid = self._desk.pages.start(request, audit.PLATFORM, [FIRST.isoformat(), 0])
        after = (datetime.fromisoformat(start), pid)
        async with self._desk.read() as conn:
            rows = await store.long_transactions(
                conn, min_s, after, limit + 1, idle_only=request.idle_only
            )
            found = [session for session, _ in rows[:limit]]
            if "text" in paths:
                found = await _with_texts(conn, found)
        response = pb.ListLongTransactionsResponse(
            sessions=[masks.kept(messages.session(each), paths) for each in found]
        )
        if len(rows) > limit:
            last, began = rows[limit - 1]
            values = [began.isoformat(), last.pid]
            response.next_page_token = self._desk.pages.token(request, audit.PLATFORM, values)
        return response

    async def CancelBackend(
        self, request: pb.CancelBackendRequest, context: Context
    ) -> pb.SignalledBackend:
        return await self._signal(request, "cancel", store.cancel)

    async def TerminateBackend(
        self, request: pb.TerminateBackendRequest, context: Context
    ) -> pb.SignalledBackend:
        return await self._signal(request, "terminate", store.terminate)

    async def _signal(
        self,
        request: pb.CancelBackendRequest | pb.TerminateBackendRequest,
        action: str,
        signal: Signal,
    ) -> pb.SignalledBackend:
        if not self._desk.signals:
            raise FailedPrecondition(
                "SIGNALS_OFF", "Signals to sessions are switched off: DRIVEFLOW_SIGNALS."
            )
        backend_start = time(request, "backend_start") or FIRST
        async with self._desk.write() as conn:
            answer = await idempotency.recall(conn, audit.PLATFORM, request, pb.SignalledBackend)
            if answer is not None:
                return answer
            session, at = await signal(conn, request.pid, backend_start)
            answer = pb.SignalledBackend(session=messages.session(session), time=stamp(at))
            await audit.record(
                conn,
                audit.PLATFORM,
                "session",
                f"{session.pid} {backend_start.isoformat()}",
                action,
                before=messages.audited(session),
                after={"reason": request.reason},
            )
            await idempotency.remember(conn, audit.PLATFORM, request, answer)
        return answer


async def _with_texts(conn: Reader, sessions: Sequence[Session]) -> list[Session]:
    """The same with the texts of their queries."""
    ids = {session.query_id for session in sessions if session.query_id is not None}
    known = await store.statement_texts(conn, ids)
    return [replace(each, text=known.get(each.query_id or 0, "")) for each in sessions]
