"""Every named statement of all services in its fullest form, with values to run it by."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import psycopg

from libs import queries, scoped
from libs.bootstrap import SERVICES
from libs.local.paths import ROOT
from services.monitor.store import indexes, partitions, plans
from tests import statements

Columns = tuple[str, ...]


# What a query is asked for that no store names as such.
COLUMNS: dict[str, Columns] = {
    "monitor.explain_query": (plans.EXPLAIN["monitor"],),
    "monitor.index_usage": (indexes.Sizes.EXACT.value,),
    "monitor.capture_indexes": (indexes.Sizes.ESTIMATED.value,),
    "monitor.list_partitions": partitions.SIZES,
}
LISTED = re.compile(r"[A-Z_]*(?:PATHS|FIELDS|COLUMNS)")
# A form whose columns are another query's.
OTHERS = (
    psycopg.errors.UndefinedColumn,
    psycopg.errors.UndefinedTable,
    psycopg.errors.AmbiguousColumn,
    psycopg.errors.SyntaxError,
)
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
    "pg_lsn": "0/0",
}
VALUES = {"bucket": "day", "zone": "UTC", "months": "1", "accounts": "{a}", "amounts": "{0}"}


@dataclass(frozen=True)
class Named:
    """A statement, and who sends it."""

    name: str
    service: str
    forms: tuple[scoped.Statement, ...]
    """With the columns that its store names, most first: the first that can be run is its own."""

    @property
    def statement(self) -> scoped.Statement:
        """Any of them."""
        return self.forms[0]

    def __str__(self) -> str:
        return self.name

    @property
    def is_counted(self) -> bool:
        """Whether pg_stat_statements has it: what moves no rows by a plan is a utility."""
        return bool(re.match(rb"SELECT|WITH|INSERT|UPDATE|DELETE|MERGE", self.statement.text))


def values(of: scoped.Statement) -> list[str]:
    """A value for each parameter, by the type that it is cast to."""
    types = dict(re.findall(r"\$(\d+)::(\w+(?:\[\])?)", of.text.decode()))
    found = []
    for number, name in enumerate(of.names, 1):
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
            listed = [()] if "{columns}" not in loaded.texts[query] else choices(path, name)
            forms = (scoped.compiled(loaded.select(query, each, joins), True) for each in listed)
            service = owner if owner in SERVICES else "booking"
            yield Named(name, service, tuple(forms))


def choices(path: Path, name: str) -> list[Columns]:
    """The lists of columns that the store of a file of queries knows, longest first."""
    if name in COLUMNS:
        return [COLUMNS[name]]
    store = statements.store(path).relative_to(ROOT).with_suffix("")
    module = import_module(".".join(store.parts))
    beside = [each for each in vars(module).values() if isinstance(each, ModuleType)]
    modules = [module, *(each for each in beside if ".store" in each.__name__)]
    named = [
        tuple(_columns(value.values() if isinstance(value, Mapping) else value))
        for each in modules
        for key, value in vars(each).items()
        if LISTED.fullmatch(key) and isinstance(value, Mapping | tuple)
    ]
    return sorted(named, key=len, reverse=True)


def _columns(listed: Iterable[Any]) -> Iterator[str]:
    """SQL of columns: it may stand behind its name in the model, and one path may have several."""
    for each in listed:
        if isinstance(each, str):
            yield each
        elif len(each) == 2 and all(isinstance(part, str) for part in each):
            yield each[1]
        else:
            yield from _columns(each)


def run(admin: psycopg.Connection, each: Named) -> None:
    """As the role that may, and undone."""
    for form in each.forms:
        try:
            _run(admin, each.service, form)
        except OTHERS:
            if form is each.forms[-1]:
                raise
        else:
            return


def _run(admin: psycopg.Connection, service: str, form: scoped.Statement) -> None:
    roles = TRACKING if service == "tracking" else (service,)
    for role in roles:
        admin.execute(f"SET ROLE {role}; SET search_path = {service}".encode())
        try:
            with admin.transaction(force_rollback=True):
                psycopg.RawCursor(admin).execute(form.text, values(form), prepare=False)
            break
        except psycopg.errors.InsufficientPrivilege:
            if role == roles[-1]:
                raise
        finally:
            admin.execute("RESET ROLE; RESET search_path")
