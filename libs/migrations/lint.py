"""What every migration must hold, checked on its text before it meets a database."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

# Tables with "orgId" that are no school's own; their readers are named in the design.
NOT_TENANT_TABLES = frozenset(
    {"Tenant", "Outbox", "EventConsumer", "EventCursor", "ParkedEvent", "WebhookEvent"}
)
FILE_NAME = re.compile(r"\d{14}_[a-z0-9_]+\.sql")
NAME = r'((?:\w+|"\w+")\.(?:\w+|"\w+"))'
OWNED = re.compile(
    rf"^CREATE (?:OR REPLACE )?(TABLE|VIEW|MATERIALIZED VIEW|FUNCTION|PROCEDURE) {NAME}(.*)",
    re.DOTALL,
)
# In one pass: an apostrophe in a comment opens no text, two dashes in a text no comment.
_QUOTED = re.compile(r"(\$\w*\$).*?\1|'(?:[^']|'')*'|--[^\n]*", re.DOTALL)
FORBIDDEN = {
    r"\bALTER DEFAULT PRIVILEGES\b": "would grant partitions that are made later",
    r"\bGRANT ALL\b": "grant what is needed, by name",
    r"\b(CREATE|ALTER|DROP) (ROLE|USER)\b": "roles are the bootstrap's",
    r"\bCREATE (?:OR REPLACE )?(?:CONSTRAINT )?TRIGGER\b": "the schema has no triggers",
    r"\bPARTITION OF\b": "locks out readers; CREATE TABLE (LIKE ...) and ATTACH",
    r"\bON DELETE SET\b": "a foreign key carries orgId, which must not be set to anything",
    r"\bCREATE (?:UNIQUE )?INDEX (?:CONCURRENTLY )?(?:IF NOT EXISTS )?ON\b": "name the index",
    r"\bCREATE TABLE IF NOT EXISTS\b": "would hide a table of another shape",
}


def lint(folder: Path) -> Iterator[str]:
    """One sentence for each thing that is wrong with the migrations in `folder`."""
    versions: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        where = f"{folder.parent.name}/{path.name}"
        if not FILE_NAME.fullmatch(path.name):
            yield f"{where}: is not named like 20260131120000_what_it_does.sql"
            continue
        version = path.name[:14]
        if version in versions:
            yield f"{where}: has the version of {versions[version]}"
        versions[version] = path.name
        for finding in findings(path.read_text()):
            yield f"{where}: {finding}"


def findings(text: str) -> Iterator[str]:
    """One sentence for each thing that is wrong with the text of a migration."""
    head, down, tail = text.partition("-- migrate:down")
    if not text.startswith("-- migrate:up"):
        yield "does not begin with -- migrate:up"
    if not down:
        yield "does not end with -- migrate:down, which dbmate wants (and nothing after it)"
    if tail.strip():
        yield "goes down as well; migrations go forward only"
    statements = list(_statements(head))
    for statement in statements:
        yield from _forbidden(statement)
        yield from _ownership(statement, statements)
        yield from _isolation(statement, statements)
    if (
        "CONCURRENTLY" in " ".join(statements)
        and "transaction:false" not in head.partition("\n")[0]
    ):
        yield "has CONCURRENTLY in a transaction; begin with -- migrate:up transaction:false"


def _statements(text: str) -> Iterator[str]:
    """The statements on one line each, without comments and bodies of functions."""
    text = _QUOTED.sub(lambda found: "" if found[0].startswith("--") else "''", text)
    for statement in text.split(";"):
        line = " ".join(statement.split())
        if line:
            yield line


def _forbidden(statement: str) -> Iterator[str]:
    for pattern, reason in FORBIDDEN.items():
        found = re.search(pattern, statement, re.IGNORECASE)
        if found:
            yield f"{found.group()}: {reason}"


def _ownership(statement: str, statements: list[str]) -> Iterator[str]:
    owned = OWNED.match(statement)
    if owned is None:
        if statement.startswith("CREATE TABLE"):
            yield f"{statement[:60]}: name the schema"
        return
    kind, name = owned.group(1), owned.group(2)
    pattern = re.compile(rf"ALTER {kind} {re.escape(name)}[( ].*OWNER TO \w+$")
    if not any(pattern.match(other) for other in statements):
        yield f"{name}: no ALTER {kind} ... OWNER TO; it would stay the migrator's"


def _isolation(statement: str, statements: list[str]) -> Iterator[str]:
    owned = OWNED.match(statement)
    if owned is None or owned.group(1) != "TABLE" or '"orgId"' not in owned.group(3):
        return
    name = owned.group(2)
    if name.rpartition(".")[2].strip('"') in NOT_TENANT_TABLES:
        return
    altered = " ".join(other for other in statements if other.startswith(f"ALTER TABLE {name} "))
    for words in ("ENABLE ROW LEVEL SECURITY", "FORCE ROW LEVEL SECURITY"):
        if words not in altered:
            yield f"{name}: has orgId but not {words}"
    if not any(re.match(rf"CREATE POLICY \w+ ON {re.escape(name)} ", s) for s in statements):
        yield f"{name}: has orgId but no policy"
