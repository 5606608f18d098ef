"""What the fake remembers: objects by id, in the order they were made; on disk if it has a file."""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from libs.local.stripe_fake.errors import Json, missing

# What lists and look-ups filter on; these fields never change once they are set.
INDEXED = {
    "payment_intent": (),
    "charge": ("payment_intent", "transfer_group"),
    "refund": ("payment_intent", "charge"),
    "transfer": ("transfer_group", "destination", "source_transaction"),
    "transfer_reversal": ("transfer",),
    "dispute": ("payment_intent", "charge"),
    "balance_transaction": ("type", "source"),
    "event": ("type",),
    "account": (),
    "delivery": (),
    "saved_answer": (),
}
# By the prefix of an id: what can be expanded.
EXPANDABLE = {"pi": "payment_intent", "ch": "charge", "py": "charge", "re": "refund"}
EXPANDABLE |= {"pyr": "refund", "tr": "transfer", "txn": "balance_transaction", "du": "dispute"}
SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = OFF;
CREATE TABLE IF NOT EXISTS thing (
    seq INTEGER PRIMARY KEY, kind TEXT, id TEXT, body TEXT, UNIQUE (kind, id)
);
"""
PUT = """
INSERT INTO thing (kind, id, body) VALUES (?, ?, ?)
ON CONFLICT (kind, id) DO UPDATE SET body = excluded.body
"""


def new_id(prefix: str) -> str:
    """A fresh id, as `pi_…`."""
    return f"{prefix}_{secrets.token_hex(12)}"


def copy(thing: Json) -> Json:
    """A snapshot that later changes do not touch."""
    copied: Json = json.loads(json.dumps(thing))
    return copied


class Clock:
    """Unix time in seconds, moved by `offset_s`."""

    offset_s = 0.0

    def now(self) -> int:
        """The fake's second."""
        return int(time.time() + self.offset_s)


class Table:
    """Objects of one kind, in the order they were made, with their indexes."""

    def __init__(self, fields: tuple[str, ...]) -> None:
        self.by_id: dict[str, Json] = {}
        self.order: list[str] = []
        self._position: dict[str, int] = {}
        self._by_field: dict[str, dict[str, list[str]]] = {field: {} for field in fields}
        self._by_metadata: dict[tuple[str, str], list[str]] = {}

    def put(self, key: str, thing: Json) -> None:
        """Keep it; what is new goes to the end."""
        if key not in self.by_id:
            self._position[key] = len(self.order)
            self.order.append(key)
            for field, index in self._by_field.items():
                if thing.get(field):
                    index.setdefault(thing[field], []).append(key)
        for pair in (thing.get("metadata") or {}).items():
            ids = self._by_metadata.setdefault(pair, [])
            if key not in ids[-1:]:
                ids.append(key)
        self.by_id[key] = thing

    def all(self) -> Iterator[Json]:
        """Every object, oldest first."""
        return (self.by_id[key] for key in self.order)

    def where(self, field: str, value: str) -> list[Json]:
        """Objects whose indexed field is this, oldest first."""
        return [self.by_id[key] for key in self._by_field[field].get(value, ())]

    def with_metadata(self, wanted: dict[str, str]) -> list[Json]:
        """Objects whose metadata have all of these, oldest first."""
        rows = [self._by_metadata.get(pair, []) for pair in wanted.items()]
        keys = min(rows, key=len) if rows else self.order
        found = [self.by_id[key] for key in dict.fromkeys(keys)]
        return [thing for thing in found if wanted.items() <= thing["metadata"].items()]

    def newest(
        self, wanted: Json, before: str | None = None, ids: list[str] | None = None
    ) -> Iterator[Json]:
        """Those (of `ids`, if given) with these fields, newest first, older than `before`."""
        rows = [index.get(wanted[f], []) for f, index in self._by_field.items() if f in wanted]
        start = len(self.order) if before is None else self._position[before]
        if ids is None:
            ids = min(rows, key=len) if rows else self.order[:start]
        for key in reversed(ids):
            thing = self.by_id[key]
            if self._position[key] < start and all(thing.get(f) == v for f, v in wanted.items()):
                yield thing


class State:
    """Every table, the clock, and what one request is doing. `put` after each change."""

    def __init__(self, file: Path | None = None) -> None:
        self.clock = Clock()
        self.tables = {kind: Table(fields) for kind, fields in INDEXED.items()}
        self.balances: dict[str, dict[str, int]] = {}  # "" is the platform
        self.undelivered: dict[str, None] = {}
        self.endpoints = 0
        self.search_lag_s = 0
        self.request: Json = {"id": None, "idempotency_key": None}
        self.on_event: Callable[[Json], None] = lambda _event: None
        self.refund_outcome: Callable[[], str] = lambda: "succeeded"
        self._disk = self._open(file) if file else None

    def __getitem__(self, kind: str) -> Table:
        return self.tables[kind]

    def put(self, thing: Json, kind: str | None = None) -> Json:
        """Keep an object, in memory and, from the next `flush` on, on disk."""
        kind = kind or str(thing["object"])
        self.tables[kind].put(thing["id"], thing)
        if self._disk:
            self._disk.execute(PUT, (kind, thing["id"], json.dumps(thing)))
        return thing

    def new(self, kind: str, prefix: str, nulls: str = "", **fields: Any) -> Json:
        """A new object, not kept yet; `nulls` are its fields without a value."""
        own = {"id": new_id(prefix), "object": kind, "created": self.clock.now(), "livemode": False}
        return own | dict.fromkeys(nulls.split()) | fields

    def get(self, kind: str, key: str, param: str = "id", status: int = 404) -> Json:
        """The object itself, not a copy; refused if there is none."""
        thing = self.tables[kind].by_id.get(key)
        if thing is None:
            raise missing(kind, key, param, status)
        return thing

    def find(self, key: str) -> Json | None:
        """An object that can be expanded, by the prefix of its id."""
        kind = EXPANDABLE.get(key.partition("_")[0])
        return self.tables[kind].by_id.get(key) if kind else None

    def add_balance(self, account: str, currency: str, amount: int) -> None:
        """Move an account's available balance; "" is the platform."""
        of = self.balances.setdefault(account, {})
        of[currency] = of.get(currency, 0) + amount
        if self._disk:
            self._disk.execute(PUT, ("balance", account, json.dumps(of)))

    def available(self, account: str, currency: str) -> int:
        """An account's available balance."""
        return self.balances.get(account, {}).get(currency, 0)

    def flush(self) -> None:
        """Make what was put outlive this process."""
        if self._disk:
            self._disk.commit()

    def clear(self) -> None:
        """Forget everything, on disk too."""
        self.tables = {kind: Table(fields) for kind, fields in INDEXED.items()}
        self.balances.clear()
        self.undelivered.clear()
        if self._disk:
            self._disk.execute("DELETE FROM thing")
            self._disk.commit()

    def close(self) -> None:
        """Flush and let go of the file."""
        self.flush()
        if self._disk:
            self._disk.close()
            self._disk = None

    def _open(self, file: Path) -> sqlite3.Connection:
        file.parent.mkdir(parents=True, exist_ok=True)
        disk = sqlite3.connect(file)
        disk.executescript(SCHEMA)
        for kind, key, body in disk.execute("SELECT kind, id, body FROM thing ORDER BY seq"):
            self._load(kind, key, json.loads(body))
        return disk

    def _load(self, kind: str, key: str, thing: Any) -> None:
        if kind == "balance":
            self.balances[key] = thing
            return
        if kind not in self.tables:  # of another release
            return
        self.tables[kind].put(key, thing)
        if kind == "delivery" and thing["state"] != "delivered":
            self.undelivered[key] = None
