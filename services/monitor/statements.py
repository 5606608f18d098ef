"""What statements cost: what snapshots kept of them, what came since, and their texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from libs.orgs import Reader
from services.monitor.model.queries import Filter, Window
from services.monitor.model.texts import name_of, shown
from services.monitor.store import queries as store


async def listed(
    conn: Reader, window: Window, asked: Filter, limit: int, paths: Sequence[str]
) -> tuple[list[dict[str, Any]], int]:
    """Rows by path, with what store.PAGED names, and how many statements there are in all."""
    rows, total = await store.list_queries(conn, window, asked, limit, paths)
    if "text" in paths or "name" in paths:
        await add_texts(conn, rows)
    return rows, total


async def add_texts(conn: Reader, rows: Sequence[dict[str, Any]]) -> None:
    """Texts and names of statements that no snapshot has seen yet."""
    missing = [row for row in rows if row["text"] is None]
    if not missing:
        return
    texts = await store.list_texts(conn, [row["query_id"] for row in missing])
    raw = {text.query_id: text.raw for text in texts}
    for row in missing:
        text = raw.get(row["query_id"], "")
        row |= {"text": shown(text), "name": name_of(text)}
