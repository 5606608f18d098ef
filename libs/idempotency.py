"""Request ids: the same call twice has one effect and one answer.

Claim, effect and answer are one transaction: a second call waits for the first on the row, then
finds its answer, or its own turn when the first was rolled back. Kept for 24 hours.

Where calls wait for each other anyway, on locks that the same request takes each time, the claim
can come last, with the answer: `look_up` behind those locks, `keep` at the end. One row is written
once instead of twice, and several calls share both statements. Whoever comes between, under the
same id with another body and so other locks, makes `keep` fail: UniqueViolation, and the call is to
be tried again.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.message import Message

from libs import calls, queries
from libs.errors import AlreadyExists, DomainError
from libs.orgs import Reader
from libs.pooling import Connection
from libs.scoped import Later

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
        raise reused()
    return kind.FromString(bytes(row[1]))


async def remember(conn: Connection, org_id: uuid.UUID, request: Any, answer: Message) -> None:
    """Keep the answer for the request's id, in the transaction of its effect."""
    if request.request_id:
        parameters = _key(org_id, request) | {"response": answer.SerializeToString()}
        await conn.send(SQL.answer_request, parameters)


@dataclass(frozen=True, slots=True)
class Key:
    """Under what an answer is kept in a school, and for which request."""

    subject: str
    method: str
    request_id: str
    request_hash: bytes

    @classmethod
    def of(cls, request: Any) -> Key | None:
        """That of the call under way; None when its request has no id."""
        if not request.request_id:
            return None
        return cls(
            calls.caller().subject,
            request.DESCRIPTOR.full_name,
            request.request_id.lower(),
            _hash(request),
        )


@dataclass(frozen=True, slots=True)
class Found:
    """What `look_up` found: there once the next statement is answered."""

    keys: Sequence[Key]
    later: Later


def look_up(conn: Connection, org_id: uuid.UUID, keys: Sequence[Key]) -> Found | None:
    """What is known under these keys; leaves with the next statement. None when there are none."""
    if not keys:
        return None
    return Found(keys, conn.later(SQL.find_requests, {"org_id": org_id, **_arrays(keys)}))


async def answers(
    conn: Connection, org_id: uuid.UUID, found: Found | None
) -> dict[Key, bytes | DomainError]:
    """The answers given before, serialized; AlreadyExists where the id came with another body.

    An expired one is forgotten, for `keep` to take its place.
    """
    known: dict[Key, bytes | DomainError] = {}
    if found is None:
        return known
    for no, hash_, response, expired in found.later.rows:
        key = found.keys[no - 1]
        if expired:
            await conn.send(SQL.forget_request, {"org_id": org_id, **_columns(key)})
        else:
            same = bytes(hash_) == key.request_hash
            known[key] = bytes(response) if same else reused()
    return known


async def keep(conn: Connection, org_id: uuid.UUID, given: Sequence[tuple[Key, Message]]) -> None:
    """Keep answers under keys that are new, in the transaction of their effect.

    In one order, so that two transactions with the same ids never wait for each other in a circle.
    """
    if not given:
        return
    ordered = sorted(given, key=lambda each: each[0].request_id)
    keys = [key for key, _ in ordered]
    await conn.send(
        SQL.remember_requests,
        {
            "org_id": org_id,
            "hashes": [key.request_hash for key in keys],
            "responses": [answer.SerializeToString() for _, answer in ordered],
            **_arrays(keys),
        },
    )


def reused() -> AlreadyExists:
    return AlreadyExists(
        "REQUEST_ID_REUSED",
        "The request_id was used for another request.",
        fields=[("request_id", "was used for another request")],
    )


def _arrays(keys: Sequence[Key]) -> dict[str, Any]:
    return {
        "subjects": [key.subject for key in keys],
        "methods": [key.method for key in keys],
        "request_ids": [key.request_id for key in keys],
    }


def _columns(key: Key) -> dict[str, Any]:
    return {"subject": key.subject, "method": key.method, "request_id": key.request_id}


def _hash(request: Message) -> bytes:
    return hashlib.sha256(request.SerializeToString(deterministic=True)).digest()


def _key(org_id: uuid.UUID, request: Message) -> dict[str, Any]:
    return {
        "org_id": org_id,
        "subject": calls.caller().subject,
        "method": request.DESCRIPTOR.full_name,
        "request_id": request.request_id,  # type: ignore[attr-defined]
        "request_hash": _hash(request),
    }


async def answered(
    conn: Reader, org_id: uuid.UUID, request: Any, kind: type[Answer]
) -> Answer | None:
    """The answer that `request` was given before, without claiming its id.

    For calls that ask others before they begin. Raises AlreadyExists REQUEST_ID_REUSED.
    """
    key = _key(org_id, request)
    row = await (await conn.execute(SQL.find_answer, key)).fetchone()
    if row is None:
        return None
    if bytes(row[0]) != key["request_hash"]:
        raise reused()
    return kind.FromString(bytes(row[1]))
