"""What the tests of tenancy speak of: ids that a caller may name, recipes, services to be asked."""

from __future__ import annotations

import re
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import grpc
import psycopg
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from psycopg import sql

from libs import access, issuer
from libs.client import Connection
from tests import walking
from tests.serving import Running, at
from tests.walking import Answer

ALL_SCOPES = (*issuer.TENANT_SCOPES, *issuer.OPS_SCOPES)
SECRET = "Hush"
"""Begins every text that the other school keeps, and nothing that is said to this one."""
UUID_TEXT = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
OF_THE_MOMENT = re.compile(r"\s*\b(?:seconds|nanos|year|etag|slot_token): \S+")
CAUGHT_UP = re.compile(r"caught_up \{\s*cursor: \S+")
"""Moves on with everybody's events."""
NO_TOKEN = "AAAA"
NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Ids:
    """What a caller may name: a school's things and tokens, or such as nobody has."""

    named: Mapping[str, str]
    """Ids by what they are of."""
    tokens: Mapping[str, str] = field(default_factory=dict)
    """What the school was given to bring back, by what it continues."""
    nobodys: Mapping[str, str] = field(default_factory=dict)
    """A token that nobody was given, where that is not NO_TOKEN."""
    epoch: datetime = NEVER
    """What `at` counts from."""
    number: int = 0
    """How many days later than another's the times are that these name: both may be had."""

    def __getitem__(self, name: str) -> str:
        return self.named[name] if name in self.named else self.tokens[name]

    def absent(self) -> Ids:
        """The same names of things and tokens that do not exist."""
        return Ids(
            {name: str(uuid.uuid4()) for name in self.named},
            {name: self.nobodys.get(name, NO_TOKEN) for name in self.tokens},
            self.nobodys,
            self.epoch,
            self.number + 1,
        )

    def at(self, hours: float) -> Timestamp:
        """A time that two sets of ids share with nobody."""
        return at(self.epoch + timedelta(days=self.number, hours=hours))

    def erased_from(self, text: str) -> str:
        """The text with a dash for each id, so that answers about two ids can be compared."""
        for value in self.named.values():
            text = text.replace(value, "-")
        return text


@dataclass(frozen=True)
class Member:
    """A school and what it has."""

    org_id: UUID
    ids: Ids


@dataclass(frozen=True)
class Pair:
    """Two schools of one service; `mine` asks, `theirs` has secrets."""

    mine: Member
    theirs: Member


Recipe = Callable[[Ids, Ids], Sequence[Message]]
"""Messages of one call that names the first ids, and where it needs more to be well-formed, the
second: the caller's own."""
Recipes = Mapping[str, Sequence[Recipe]]


async def nothing() -> None:
    """There is nothing to wait for."""


@dataclass(frozen=True)
class Kit:
    """A running service and how it is asked."""

    running: Running
    schema: str
    services: tuple[str, ...]
    """Full names of the gRPC services that it serves."""
    recipes: Recipes
    """What each method is asked about a school's things; to that school all answer OK."""
    furnish: Callable[[], Awaitable[Pair]]
    """Two new schools, the other one with one of everything."""
    leaky: tuple[bytes, Mapping[str, object]]
    """A statement that lists schools' ids, but for its filter, and its parameters."""
    get: str
    """A method that answers NOT_FOUND to strangers."""
    write: Callable[[Connection], Any]
    """A call that writes something of the caller's own."""
    empty: frozenset[str] = frozenset()
    """Tables in which a furnished school has nothing."""
    strange: Recipes = field(default_factory=dict)
    """What is asked besides by strangers, since the school itself would be refused."""
    makes: frozenset[str] = frozenset()
    """Methods that make something of the caller's own, with an id and times of its own."""
    endless: Mapping[str, Callable[[Message], bool]] = field(default_factory=dict)
    """Methods whose answer has no end, and which message is the last that counts."""

    rests: Callable[[], Awaitable[object]] = nothing
    """Wait until the service does nothing of its own accord that tests have begun."""

    _channels: dict[str, grpc.aio.Channel] = field(default_factory=dict)

    @property
    def methods(self) -> list[MethodDescriptor]:
        return walking.methods(*self.services)

    @property
    def of_schools(self) -> list[MethodDescriptor]:
        return [method for method in self.methods if not access.rule(method).platform]

    @property
    def of_platform(self) -> list[MethodDescriptor]:
        return [method for method in self.methods if access.rule(method).platform]

    def method(self, name: str) -> MethodDescriptor:
        (found,) = (method for method in self.methods if method.name == name)
        return found

    async def ask(
        self, token: str, method: MethodDescriptor, requests: Sequence[Message] = (), **more: Any
    ) -> Answer:
        """What a caller with this token is answered."""
        channel = self._channels.get(token)
        if channel is None:
            channel = self._channels[token] = self.running.connect(token).channel
        options = {"last": self.endless.get(method.name), "responses_max": 1_000, **more}
        return await walking.call(channel, method, requests, **options)

    def token(self, org_id: UUID | None, subject: str = "gateway-1") -> str:
        """Of the same subject in each school, as a gateway that serves two schools would be."""
        return self.running.token(org_id, ALL_SCOPES, subject)

    def rows(self, org_id: UUID, *, of_others: bool = False) -> dict[str, str]:
        """All that the schema keeps of a school, or of all others, table by table."""
        compare = sql.SQL("<>" if of_others else "=")
        with psycopg.connect(self.running.database.admin_dsn) as admin:
            admin.execute("SET default_transaction_read_only = on")
            tables = admin.execute(_TABLES, [self.schema]).fetchall()
            found = {}
            for table, column in tables:
                row = admin.execute(_dump(self.schema, table, column, compare), [org_id]).fetchone()
                found[table] = str(row[0]) if row else ""
            return found


_TABLES = """
SELECT c.relname, CASE c.relname WHEN 'Org' THEN 'id' ELSE 'orgId' END
  FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
 WHERE n.nspname = %s AND c.relkind IN ('r', 'p') AND NOT c.relispartition
   AND (c.relname = 'Org' OR EXISTS (
        SELECT FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attname = 'orgId'))
 ORDER BY c.relname
"""


def _dump(schema: str, table: str, column: str, compare: sql.SQL) -> sql.Composed:
    query = sql.SQL(
        "SELECT coalesce(string_agg(r::text, E'\\n' ORDER BY r::text), '')"
        " FROM {}.{} AS r WHERE {} {} %s"
    )
    return query.format(*map(sql.Identifier, (schema, table, column)), compare)


def told(answer: Answer, ids: Ids, *, made: bool) -> tuple[object, ...]:
    """What an answer says, but for the ids that the caller named himself.

    Of what was `made` ids and times are left out: each has its own.
    """
    said = [CAUGHT_UP.sub("", ids.erased_from(str(message))) for message in answer.responses]
    if made:
        said = [OF_THE_MOMENT.sub("", UUID_TEXT.sub("-", text)) for text in said]
    refusal = answer.refusal
    if refusal is None:
        return (answer.code, said)
    details = (refusal.reason, refusal.message, refusal.metadata, refusal.fields)
    return (refusal.code, said, ids.erased_from(str(details)), refusal.retry_after_s)


def leaked(answer: Answer, secrets: frozenset[str], named: Ids) -> set[str]:
    """What of another school is in an answer beyond what the caller named himself."""
    text = "\n".join((*map(str, answer.responses), str(answer.refusal)))
    found = set(UUID_TEXT.findall(text)) & secrets - set(named.named.values())
    return found | ({SECRET} if SECRET in text else set())


def secrets_in(rows: Mapping[str, str]) -> frozenset[str]:
    """Every id in a school's rows."""
    return frozenset(found for text in rows.values() for found in UUID_TEXT.findall(text))
