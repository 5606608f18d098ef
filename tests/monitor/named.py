"""Every named statement of all services in its fullest form, with values to run it by."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import psycopg

from libs import queries, scoped
from libs.bootstrap import SERVICES
from services.booking.store import booking_row, bookings, directory, waitlist
from services.monitor.store import health, plans, rules
from services.monitor.store import queries as monitored
from services.payments.store import ledger, payments, payouts, reconciliation, refunds, webhooks
from services.tracking import store as tracking
from tests import statements

Columns = tuple[str, ...]


def _all(fields: Mapping[str, tuple[str, str]]) -> Columns:
    return tuple(column for _, column in fields.values())


# What a query is asked for at most, by its name; the first pattern that fits counts.
COLUMNS: dict[str, Columns] = {
    "booking.bookings_of_student": booking_row.COLUMNS,
    "booking.waitlist_of_student": waitlist.COLUMNS,
    "booking.*_waitlist*": waitlist.COLUMNS,
    "booking.get_booking": tuple(bookings.FIELDS.values()),
    "booking.*_booking": booking_row.COLUMNS,
    "booking.set_booking_status": booking_row.COLUMNS,
    "booking.raise_booking_version": booking_row.COLUMNS,
    "booking.expire_*": booking_row.COLUMNS,
    "booking.*_bookings*": tuple(bookings.FIELDS.values()),
    "booking.list_day_schedule": tuple(bookings.FIELDS.values()),
    "booking.*_org*": _all(directory.ORG_FIELDS),
    "booking.*_instructor*": _all(directory.INSTRUCTOR_FIELDS),
    "booking.*_student*": _all(directory.STUDENT_FIELDS),
    "booking.*_service*": _all(directory.SERVICE_FIELDS),
    "booking.*_vehicle*": _all(directory.VEHICLE_FIELDS),
    "payments.*_ledger_*": ledger.COLUMNS,
    "payments.*_discrepanc*": reconciliation.COLUMNS,
    "payments.*_run": reconciliation.RUN_COLUMNS,
    "payments.*_refund*": refunds.COLUMNS,
    "payments.*_dispute*": refunds.DISPUTE_COLUMNS,
    "payments.*_webhook_event*": webhooks.COLUMNS,
    "payments.*payment*": payments.COLUMNS,
    "payments.*_payout*": payouts.COLUMNS,
    "tracking.list_points": _all(tracking.POINT_FIELDS),
    "tracking.list_rejected_points": tuple(
        column for each in tracking.REJECTED_FIELDS.values() for _, column in each
    ),
    "tracking.*": (*_all(tracking.TRIP_FIELDS), *tracking.TRIP_ALWAYS.values()),
    "monitor.list_queries": tuple(monitored.FIELDS.values()),
    "monitor.get_query": tuple(monitored.FIELDS.values()),
    "monitor.explain_query": (plans.EXPLAIN["monitor"],),
    "monitor.list_reports": tuple(health.FIELDS.values()),
    "monitor.*_rule*": rules.COLUMNS,
}
# Who may run what tracking sends.
TRACKING = ("tracking", "tracking_ingest", "tracking_maintenance")
# Of two joins that exclude each other.
LEFT_OUT = ("active_instructor",)
# What stands in for a value of a type, or of a parameter: nothing of it is looked at.
NEUTRAL = {
    "uuid": "00000000-0000-0000-0000-000000000000",
    "timestamptz": "2026-01-01 00:00+00",
    "timestamp": "2026-01-01 00:00",
    "date": "2026-01-01",
    "bool": "false",
    "jsonb": "[]",
    "interval": "1 day",
}
VALUES = {"bucket": "day", "zone": "UTC", "months": "1", "accounts": "{a}", "amounts": "{0}"}


@dataclass(frozen=True)
class Named:
    """A statement, and who sends it."""

    name: str
    service: str
    statement: scoped.Statement

    def __str__(self) -> str:
        return self.name

    @property
    def is_counted(self) -> bool:
        """Whether pg_stat_statements has it: what moves no rows by a plan is a utility."""
        return bool(re.match(rb"SELECT|WITH|INSERT|UPDATE|DELETE|MERGE", self.statement.text))

    def values(self) -> list[str]:
        """A value for each parameter, by the type that it is cast to."""
        types = dict(re.findall(r"\$(\d+)::(\w+(?:\[\])?)", self.statement.text.decode()))
        found = []
        for number, name in enumerate(self.statement.names, 1):
            type_ = types[str(number)]
            found.append(VALUES.get(name) or ("{}" if "[]" in type_ else NEUTRAL.get(type_, "0")))
        return found


def every() -> Iterator[Named]:
    """All of them; what all services share is booking's."""
    for path in statements.FILES:
        owner = statements.owner(path)
        loaded = queries.load(owner, path)
        parts = (part.removeprefix("join_") for part in loaded.parts if part.startswith("join_"))
        joins = tuple(part for part in parts if part not in LEFT_OUT)
        for query in loaded:
            name = f"{owner}.{query}"
            columns = (each for pattern, each in COLUMNS.items() if fnmatchcase(name, pattern))
            text = loaded.select(query, next(columns, ()), joins)
            service = owner if owner in SERVICES else "booking"
            yield Named(name, service, scoped.compiled(text, True))


def run(admin: psycopg.Connection, each: Named) -> None:
    """As the role that may, and undone."""
    roles = TRACKING if each.service == "tracking" else (each.service,)
    for role in roles:
        admin.execute(f"SET ROLE {role}; SET search_path = {each.service}".encode())
        try:
            with admin.transaction(force_rollback=True):
                cursor = psycopg.RawCursor(admin)
                cursor.execute(each.statement.text, each.values(), prepare=False)
            break
        except psycopg.errors.InsufficientPrivilege:
            if role == roles[-1]:
                raise
        finally:
            admin.execute("RESET ROLE; RESET search_path")
