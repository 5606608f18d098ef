"""Reads queries.sql files as a reviewer would: what each statement touches and how it is bound."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import sqlglot
from sqlglot import exp

from libs.local.paths import ROOT

HEAD = re.compile(r"^-- (name|part): (\w+)\n((?:--.*\n)*)", re.MULTILINE)
CREATE_TABLE = re.compile(r'^CREATE TABLE \w+\."(\w+)" \((.*?)^\)', re.MULTILINE | re.DOTALL)
FILES = tuple(
    sorted(
        [
            ROOT / "libs" / "shared.sql",
            ROOT / "libs" / "events" / "events.sql",
            *ROOT.glob("services/*/queries.sql"),
            *ROOT.glob("services/*/queries/*.sql"),
        ]
    )
)


@dataclass(frozen=True)
class Statement:
    """A named statement with the comment above it."""

    owner: str
    name: str
    comment: str
    text: str

    def __str__(self) -> str:
        return f"{self.owner}.{self.name}"

    @property
    def platform(self) -> str | None:
        """Why it may reach beyond one school; None when it may not."""
        _, marker, reason = self.comment.partition("-- platform: ")
        return reason.strip() if marker else None


def read(path: Path) -> list[Statement]:
    """The statements of one file, their parts filled in: of joins that may be chosen, all."""
    text = path.read_text()
    heads = list(HEAD.finditer(text))
    ends = [*(head.start() for head in heads[1:]), len(text)]
    parts: dict[str, str] = {}
    found = []
    for head, end in zip(heads, ends, strict=True):
        kind, name, comment = head.groups()
        body = text[head.end() : end].strip().rstrip(";")
        for part, filling in parts.items():
            body = body.replace(f"{{{part}}}", filling)
        if kind == "part":
            parts[name] = body
            continue
        joins = [filling for part, filling in parts.items() if part.startswith("join_")]
        body = body.replace("{joins}", "\n".join(joins))
        found.append(Statement(owner(path), name, comment, body))
    return found


def owner(path: Path) -> str:
    """The service, or libs."""
    return path.parts[-3] if path.parent.name == "queries" else path.parent.name


def store(path: Path) -> Path:
    """The module with the functions of a file's statements."""
    if path.parent.name == "queries":
        return path.parents[1] / "store" / f"{path.stem}.py"
    return path.with_name("store.py")


def tables_with_org() -> set[str]:
    """Every table that has a column orgId, by the migrations."""
    texts = [path.read_text() for path in ROOT.glob("services/*/migrations/*.sql")]
    return {
        name for text in texts for name, body in CREATE_TABLE.findall(text) if '"orgId"' in body
    }


def unbound(text: str, tables: set[str]) -> Iterator[str]:
    """One sentence for each of `tables` that a statement touches without naming the school."""
    statement = sqlglot.parse_one(text.replace("{columns}", "1"), dialect="postgres")
    if isinstance(statement, exp.Insert):
        yield from _insert(statement, tables)
    elif isinstance(statement, exp.Update | exp.Delete):
        yield from _change(statement, tables)
    for query in statement.find_all(exp.Select):
        yield from _select(query, tables)


def _select(query: exp.Select, tables: set[str]) -> Iterator[str]:
    joins = query.args.get("joins") or []
    sources = [query.args["from_"].this] if query.args.get("from_") else []
    sources += [join.this for join in joins]
    conditions = [query.args.get("where"), *(join.args.get("on") for join in joins)]
    yield from _sources(sources, conditions, tables)


def _change(statement: exp.Update | exp.Delete, tables: set[str]) -> Iterator[str]:
    others = statement.args.get("from_") or statement.args.get("using") or []
    others = [others.this] if isinstance(others, exp.From) else list(others)
    yield from _sources([statement.this, *others], [statement.args.get("where")], tables)


def _insert(statement: exp.Insert, tables: set[str]) -> Iterator[str]:
    target = statement.this
    if target.this.name not in tables:
        return
    names = [column.name for column in target.expressions]
    values = statement.expression
    rows = values.expressions if isinstance(values, exp.Values) else [values]
    place = names.index("orgId") if "orgId" in names else None
    if place is None or not all(_is_org_id(row.expressions[place]) for row in rows):
        yield f"inserts into {target.this.name} without the school's id"
    conflict = statement.args.get("conflict")
    if conflict is not None and conflict.expressions:
        yield from _sources([target.this], [conflict.args.get("where")], tables)


def _sources(
    sources: list[exp.Expression], conditions: list[exp.Expression | None], tables: set[str]
) -> Iterator[str]:
    bound = Counter(
        column.table
        for condition in conditions
        if condition is not None
        for column in _bound(condition)
    )
    for source in sources:
        if not isinstance(source, exp.Table) or source.name not in tables:
            continue
        # Of joins of which one is chosen two may have the same name: each must be bound.
        name = source.alias_or_name
        namesakes = sum(each.alias_or_name == name for each in sources)
        # An unqualified "orgId" is this table's only where there is no other.
        if bound[name] < namesakes and not (bound[""] and len(sources) == 1):
            yield f"reads or changes {source.name} of any school"


def _bound(condition: exp.Expression) -> Iterator[exp.Column]:
    """Columns orgId that a condition holds equal to the caller's school, whatever else it says."""
    if isinstance(condition, exp.Where):
        condition = condition.this
    for part in condition.flatten() if isinstance(condition, exp.And) else [condition]:
        if isinstance(part, exp.EQ) and _is_org_id(part.expression):
            column = part.this
            if isinstance(column, exp.Column) and column.name == "orgId":
                yield column


def _is_org_id(value: exp.Expression) -> bool:
    return value.sql(dialect="postgres") == "CAST(%(org_id)s AS UUID)"
