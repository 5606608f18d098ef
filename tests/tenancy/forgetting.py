"""Every statement of every service without its filter on the school."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from libs import scoped
from libs.local.paths import ROOT
from libs.queries import Queries
from tests import statements

BOUND = " = %(org_id)s::uuid"
FILTER = re.compile(r'(?<![\w."])(?:(?:\w+|"\w+")\.)?(?:"orgId"|id)' + re.escape(BOUND))


def without_filter(text: str) -> str:
    return FILTER.sub("true", text)


def mutated(queries: Queries) -> Queries:
    """The same statements, each of which has forgotten the school."""
    texts, parts = (
        {name: without_filter(text) for name, text in each.items()}
        for each in (queries.texts, queries.parts)
    )
    return Queries(queries.owner, texts, parts)


def loaded() -> list[Queries]:
    """The statements that the services have in memory: those of every file."""
    found = []
    for path in statements.FILES:
        queries = importlib.import_module(_module(path)).SQL
        assert set(queries) == {each.name for each in statements.read(path)}, path
        found.append(queries)
    return found


def _module(path: Path) -> str:
    store = (
        path.with_name("idempotency.py") if path.name == "shared.sql" else statements.store(path)
    )
    return ".".join(store.relative_to(ROOT).with_suffix("").parts)


def forget(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have all statements forget the school; returns those that were sent with a filter yet."""
    for queries in loaded():
        forgetful = mutated(queries)
        left = [name for name, text in forgetful.texts.items() if BOUND in text]
        assert left == [], f"of {queries.owner} the filter was not found"
        monkeypatch.setattr(queries, "_encoded", forgetful._encoded)
        monkeypatch.setattr(queries, "select", forgetful.select)
    remembered: list[str] = []
    compiled = scoped.compiled

    def watched(query: bytes, parametrized: bool) -> scoped.Statement:
        if FILTER.search(query.decode()):
            remembered.append(query.decode())
        return compiled(query, parametrized)

    monkeypatch.setattr(scoped, "compiled", watched)
    return remembered
