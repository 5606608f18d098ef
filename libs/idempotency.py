"""Request ids: the same call twice has one effect and one answer.

Claim, effect and answer are one transaction: a second call waits for the first on the row, then
finds its answer, or its own turn when the first was rolled back. Kept for 24 hours.
"""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.message import Message

from libs import calls, queries
from libs.errors import AlreadyExists
from libs.pooling import Connection

SQL = queries.load("libs", Path(__file__).with_name("shared.sql"))
Answer = TypeVar("Answer", bound=Message)


async def recall(
    conn: Connection, org_id: uuid.UUID, request: Any, kind: type[Answer]
) -> Answer | None:
    """The answer that `request` was given before; None when this is the first time.

    Raises AlreadyExists REQUEST_ID_REUSED when the id came with another body.
    """
    if not request.request_id:
        return None
    key = _key(org_id, request)
    claimed = await (await conn.execute(SQL.claim_request, key)).fetchone()
    if claimed is not None:
        return None
    row = await (await conn.execute(SQL.find_request, key)).fetchone()
    if row is None or bytes(row[0]) != key["request_hash"]:
        raise AlreadyExists(
            "REQUEST_ID_REUSED",
            "The request_id was used for another request.",
            fields=[("request_id", "was used for another request")],
        )
    return kind.FromString(bytes(row[1]))


async def remember(conn: Connection, org_id: uuid.UUID, request: Any, answer: Message) -> None:
    """Keep the answer for the request's id, in the transaction of its effect."""
    if request.request_id:
        parameters = _key(org_id, request) | {"response": answer.SerializeToString()}
        await conn.send(SQL.answer_request, parameters)


def _key(org_id: uuid.UUID, request: Message) -> dict[str, Any]:
    return {
        "org_id": org_id,
        "subject": calls.caller().subject,
        "method": request.DESCRIPTOR.full_name,
        "request_id": request.request_id,  # type: ignore[attr-defined]
        "request_hash": hashlib.sha256(request.SerializeToString(deterministic=True)).digest(),
    }
