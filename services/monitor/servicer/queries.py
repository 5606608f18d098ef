"""Statements: slow and frequent ones, their plans, snapshots."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import psycopg

from driveflow.monitor.v1 import queries_pb2 as pb
from libs import audit, errors, idempotency, masks, pages
from libs.errors import FailedPrecondition
from libs.interceptors import Context
from libs.pooling import Connection
from services.monitor import plans, statements
from services.monitor.messages import queries as messages
from services.monitor.model import plans as plan_model
from services.monitor.model.queries import (
    SERIES_WINDOW_S,
    SLOW_MS,
    WINDOW_S,
    Filter,
    Order,
    Window,
)
from services.monitor.model.texts import name_of, shown
from services.monitor.plans import Plans
from services.monitor.servicer.desk import Desk
from services.monitor.snapshots import Snapshots
from services.monitor.store import plans as plan_store
from services.monitor.store import queries as store

ALL = tuple(store.FIELDS)
SERIES = masks.fields(pb.QuerySeries.DESCRIPTOR)
_PLANNERS = (psycopg.ProgrammingError, psycopg.NotSupportedError, psycopg.DataError)
"""What PostgreSQL says of a statement that can't be planned without its values."""


class Queries:
    """ListSlowQueries, ListFrequentQueries, GetQueryStats, ExplainQuery, VerifyQueryPlans,
    CaptureSnapshot."""

    def __init__(self, desk: Desk, snapshots: Snapshots, verifying: Plans) -> None:
        self._desk = desk
        self._snapshots = snapshots
        self._plans = verifying

    async def ListSlowQueries(
        self, request: pb.ListSlowQueriesRequest, context: Context
    ) -> pb.ListSlowQueriesResponse:
        given = request.HasField("min_mean_ms")
        asked = Filter(
            order=messages.ORDERS[request.order],
            min_calls=request.min_calls,
            min_mean_ms=request.min_mean_ms if given else SLOW_MS,
            before=self._start(request),
        )
        paths = masks.paths(request.read_mask, store.FIELDS, ALL)
        window, rows, total = await self._list(request, asked, paths)
        return pb.ListSlowQueriesResponse(
            queries=[messages.stats(row, paths) for row in rows[: pages.size(request)]],
            window=messages.window(window),
            next_page_token=self._next(request, rows),
            total_size=total,
        )

    async def ListFrequentQueries(
        self, request: pb.ListFrequentQueriesRequest, context: Context
    ) -> pb.ListFrequentQueriesResponse:
        asked = Filter(order=Order.CALLS, min_calls=request.min_calls, before=self._start(request))
        paths = masks.paths(request.read_mask, store.FIELDS, ALL)
        window, rows, _ = await self._list(request, asked, paths)
        return pb.ListFrequentQueriesResponse(
            queries=[messages.stats(row, paths) for row in rows[: pages.size(request)]],
            window=messages.window(window),
            next_page_token=self._next(request, rows),
        )

    async def GetQueryStats(
        self, request: pb.GetQueryStatsRequest, context: Context
    ) -> pb.QuerySeries:
        paths = masks.paths(request.read_mask, SERIES, tuple(SERIES))
        query_id, role = request.query_id, request.role
        async with self._desk.read() as conn:
            with store.counted():
                window = await self._window(conn, request.window_seconds or SERIES_WINDOW_S)
                stats = await store.get_query(conn, window, query_id, role, ALL)
                if stats is None:
                    stats = await _not_called(conn, query_id, role)
                await statements.add_texts(conn, [stats])
                points = []
                if "points" in paths:
                    points = await store.list_points(conn, window, query_id, role)
        series = pb.QuerySeries(
            stats=messages.stats(stats, ALL),
            window=messages.window(window),
            points=map(messages.point, points),
        )
        return masks.kept(series, paths)

    async def ExplainQuery(self, request: pb.ExplainQueryRequest, context: Context) -> pb.QueryPlan:
        query_id = request.query_id
        async with self._desk.read() as conn:
            with store.counted():
                texts = await store.list_texts(conn, [query_id])
            if not texts:
                raise errors.not_found("query", query_id)
            known = (text for text in texts if text.role in plan_model.ROLES)
            text = next(known, None)
            if text is None:
                raise FailedPrecondition("QUERY_NOT_EXPLAINABLE", "It is no service's statement.")
            service = plan_model.ROLES[text.role]
            try:
                lines = await plan_store.explain_query(conn, service, query_id)
                plan = await plans.plan(conn, service, query_id)
            except _PLANNERS as error:
                raise FailedPrecondition(
                    "QUERY_NOT_EXPLAINABLE", "PostgreSQL can't plan it without its values."
                ) from error
        return pb.QueryPlan(
            query_id=query_id,
            name=name_of(text.raw),
            text=shown(text.raw),
            plan="\n".join(map(plan_model.shown, lines)),
            indexes=plan.indexes,
        )

    async def VerifyQueryPlans(
        self, request: pb.VerifyQueryPlansRequest, context: Context
    ) -> pb.VerifyQueryPlansResponse:
        found = await self._plans.verify(request.index)
        return pb.VerifyQueryPlansResponse(plan_checks=map(messages.plan_check, found))

    async def CaptureSnapshot(
        self, request: pb.CaptureSnapshotRequest, context: Context
    ) -> pb.Snapshot:
        async with self._desk.write() as conn:
            answer = await idempotency.recall(conn, audit.PLATFORM, request, pb.Snapshot)
            if answer is None:
                answer = messages.snapshot(await self._snapshots.take(conn, force=True))
                await idempotency.remember(conn, audit.PLATFORM, request, answer)
        return answer

    # --- lists ---

    def _start(self, request: Any) -> tuple[float, int, str]:
        rank, query_id, role = self._desk.pages.start(request, audit.PLATFORM, [*Filter.FIRST])
        return rank, query_id, role

    def _next(self, request: Any, rows: Sequence[dict[str, Any]]) -> str:
        """The token that goes on behind a page, if there is more."""
        limit = pages.size(request)
        if len(rows) <= limit:
            return ""
        end = rows[limit - 1]
        values = [end["rank"], end["query_id"], end["role"]]
        return self._desk.pages.token(request, audit.PLATFORM, values)

    async def _window(self, conn: Connection, seconds: int) -> Window:
        """An empty one before the first snapshot."""
        now = self._desk.clock()
        found = await store.find_window(conn, now - timedelta(seconds=seconds), now)
        return found or Window(now, now)

    async def _list(
        self, request: Any, asked: Filter, paths: Sequence[str]
    ) -> tuple[Window, list[dict[str, Any]], int]:
        """A page's rows and one more if there are more; how many there are in all."""
        async with self._desk.read() as conn:
            with store.counted():
                window = await self._window(conn, request.window_seconds or WINDOW_S)
                if window.start_at == window.end_at:
                    return window, [], 0
                limit = pages.size(request) + 1
                rows, total = await statements.listed(conn, window, asked, limit, paths)
        return window, rows, total


async def _not_called(conn: Connection, query_id: int, role: str) -> dict[str, Any]:
    """What is known of a statement that was not called within the window."""
    found = await store.find_query(conn, query_id, role)
    if found is not None:
        return {"query_id": query_id, "role": found[0], "text": found[1], "name": found[2]}
    for text in await store.list_texts(conn, [query_id]):
        if role in ("", text.role):
            return {"query_id": query_id, "role": text.role, "text": None}
    raise errors.not_found("query", query_id)
