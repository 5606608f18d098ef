"""Indexes: used, unused, large, broken, missing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from typing import Any

from driveflow.monitor.v1 import indexes_pb2 as pb
from libs import audit, masks, pages
from libs.bootstrap import SERVICES
from libs.interceptors import Context
from libs.orgs import Reader
from services.monitor.messages import indexes as messages
from services.monitor.model import indexes as model
from services.monitor.model.indexes import Index
from services.monitor.servicer.desk import Desk
from services.monitor.store import indexes as store
from services.monitor.store.indexes import Sizes
from services.monitor.usage import usage

USAGE = masks.fields(pb.IndexUsage.DESCRIPTOR)
USAGE_LIGHT = tuple(path for path in USAGE if path != "days")
SIZE = masks.fields(pb.IndexSize.DESCRIPTOR)
HEALTH = masks.fields(pb.IndexHealth.DESCRIPTOR)
OF_READS = {"sequential_scans", "index_hit_percent", "table_hit_percent", "cold_tables"}
Key = Callable[[Index], list[Any]]


class Indexes:
    """ListIndexUsage, ListUnusedIndexes, ListIndexSizes, GetIndexHealth."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def ListIndexUsage(
        self, request: pb.ListIndexUsageRequest, context: Context
    ) -> pb.ListIndexUsageResponse:
        paths = masks.paths(request.read_mask, USAGE, USAGE_LIGHT)
        schemas = [name for name in SERVICES if request.schema in ("", name)]
        sizes = Sizes.EXACT if "size_bytes" in paths else Sizes.NONE
        found = await usage(self._desk, sizes, schemas, request.table)
        page, token = self._page(request, found.indexes, lambda i: [-i.scans, i.schema, i.name])
        async with self._desk.read() as conn:
            listed = await _listed(conn, page, paths)
        return pb.ListIndexUsageResponse(
            indexes=listed, statistics=messages.statistics(found), next_page_token=token
        )

    async def ListUnusedIndexes(
        self, request: pb.ListUnusedIndexesRequest, context: Context
    ) -> pb.ListUnusedIndexesResponse:
        paths = masks.paths(request.read_mask, USAGE, USAGE_LIGHT)
        days = request.min_age_days if request.HasField("min_age_days") else model.MIN_AGE_DAYS
        min_bytes = request.min_bytes if request.HasField("min_bytes") else model.MIN_BYTES
        min_age, now = timedelta(days=days), self._desk.clock()
        found = await usage(self._desk)
        answer = pb.ListUnusedIndexesResponse(
            statistics=messages.statistics(found), undecided=found.undecided(now, min_age)
        )
        if answer.undecided:
            return answer
        async with self._desk.read() as conn:
            seen = await store.first_seen(conn)
            unused = found.unused(now, min_age, min_bytes, seen)
            page, token = self._page(request, unused, lambda i: [-i.bytes, i.schema, i.name])
            answer.indexes.extend(await _listed(conn, page, paths))
        answer.next_page_token = token
        return answer

    async def ListIndexSizes(
        self, request: pb.ListIndexSizesRequest, context: Context
    ) -> pb.ListIndexSizesResponse:
        paths = masks.paths(request.read_mask, SIZE, tuple(SIZE))
        async with self._desk.read() as conn:
            indexes = await store.index_usage(conn, Sizes.EXACT)
            page, token = self._page(request, indexes, lambda i: [-i.bytes, i.schema, i.name])
            tables = {}
            if "table_bytes" in paths:
                tables = await store.table_sizes(conn, {index.table_id for index in page})
        return pb.ListIndexSizesResponse(
            indexes=[masks.kept(messages.size(index, tables), paths) for index in page],
            next_page_token=token,
        )

    async def GetIndexHealth(
        self, request: pb.GetIndexHealthRequest, context: Context
    ) -> pb.IndexHealth:
        paths = masks.paths(request.read_mask, HEALTH, tuple(HEALTH))
        answer = pb.IndexHealth()
        async with self._desk.read() as conn:
            if "invalid" in paths:
                answer.invalid.extend(map(messages.broken, await store.broken_indexes(conn)))
            if "duplicate" in paths:
                ledger = await store.ledger(conn)
                found = model.duplicates(await store.index_shapes(conn), ledger)
                sizes = await store.index_sizes(conn, [each.shape.id for each in found])
                answer.duplicate.extend(messages.duplicate(each, sizes) for each in found)
            if "foreign_keys" in paths:
                keys = model.wanting(await store.uncovered_foreign_keys(conn))
                answer.foreign_keys.extend(map(messages.missing, keys))
            reads = await store.table_reads(conn) if OF_READS & set(paths) else []
        whole, cold = model.read_whole(reads), model.cold(reads)
        answer.MergeFrom(
            pb.IndexHealth(
                sequential_scans=map(messages.sequential_scans, whole),
                index_hit_percent=model.index_hit_percent(reads),
                table_hit_percent=model.table_hit_percent(reads),
                cold_tables=map(messages.table_hits, cold),
            )
        )
        return masks.kept(answer, paths)

    def _page(self, request: Any, indexes: Sequence[Index], key: Key) -> tuple[list[Index], str]:
        """Those of a page in the order of their keys, and the token of the next one.

        All of them were read: they are a few hundred, and their order hangs on sums over servers.
        """
        limit = pages.size(request)
        after = self._desk.pages.start(request, audit.PLATFORM, [])
        rows = sorted((row for row in indexes if key(row) > after), key=key)
        page = rows[:limit]
        if len(rows) == len(page):
            return page, ""
        return page, self._desk.pages.token(request, audit.PLATFORM, key(page[-1]))


async def _listed(
    conn: Reader, indexes: Sequence[Index], paths: Collection[str]
) -> list[pb.IndexUsage]:
    """Messages with what the primary alone knows, if it is wanted."""
    ids = [index.id for index in indexes]
    definitions = await store.index_definitions(conn, ids) if "definition" in paths else {}
    ledger = await store.ledger(conn) if "needed_by" in paths else {}
    days = await store.index_days(conn, ids) if "days" in paths else {}
    return [
        masks.kept(
            messages.usage(
                index,
                ledger.get(index.key, ()),
                definitions.get(index.id, ""),
                days.get(index.id, ()),
            ),
            list(paths),
        )
        for index in indexes
    ]
