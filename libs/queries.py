"""Named SQL: every statement of a service stands in its queries.sql, or in a file of queries/.

    -- name: get_trip
    -- A trip of the school.
    SELECT {columns} FROM "Trip" WHERE "orgId" = %(org_id)s::uuid AND id = %(id)s::uuid;

The name goes into the statement as a comment behind its first keyword (PostgreSQL 18 drops leading
comments from pg_stat_statements), so that the monitor can say whose query it is. `{columns}` is
filled by `select` from names that the code fixes; no value ever gets into a text.

What several statements of a file share is a part, which stands where they name it; a part may name
parts above it. `{joins}` stands for those of the file's parts join_… that `select` is told.

    -- part: join_driver
    -- Who drives.
    LEFT JOIN "Driver" AS d ON d."orgId" = %(org_id)s::uuid AND d.id = t."driverId"

    -- name: list_trips
    -- Trips, of this month only: {this_month} is a part, too.
    SELECT {columns} FROM "Trip" AS t {joins} WHERE t."orgId" = %(org_id)s::uuid AND {this_month};
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

_HEAD = re.compile(r"^-- (name|part): (\w+)\n((?:--.*\n)*)", re.MULTILINE)
_GAP = re.compile(r"\{(\w+)\}")
_CHOSEN = {"columns", "joins"}
SELECTED_MAX = 1_000
"""So many choices of columns and joins are remembered for a file."""


class Queries:
    """The statements of one file by name."""

    def __init__(
        self, owner: str, texts: dict[str, str], parts: dict[str, str] | None = None
    ) -> None:
        self.owner = owner
        self.texts = texts
        self.parts = parts or {}
        self.select = lru_cache(SELECTED_MAX)(self._select)
        self._encoded = {
            name: self._named(name, text).encode()
            for name, text in texts.items()
            if not _GAP.search(text)
        }

    def __getattr__(self, name: str) -> bytes:
        try:
            return self._encoded[name]
        except KeyError:
            raise AttributeError(f"{self.owner} has no query {name}") from None

    def _select(
        self, name: str, columns: tuple[str, ...] = (), joins: tuple[str, ...] = ()
    ) -> bytes:
        """The statement `name` with these columns (SQL expressions fixed in code) and parts."""
        text = self.texts[name].replace("{columns}", ", ".join(columns))
        text = text.replace("{joins}", "\n".join(self.parts[f"join_{join}"] for join in joins))
        return self._named(name, text).encode()

    def _named(self, name: str, text: str) -> str:
        keyword, rest = re.split(r"(?<=\w)\b", text, maxsplit=1)
        return f"{keyword} /* {self.owner}.{name} */{rest}"

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)


def load(owner: str, path: Path) -> Queries:
    """Read a file of statements and parts; each needs a name and a line with its purpose."""
    text = path.read_text(encoding="utf-8")
    heads = list(_HEAD.finditer(text))
    ends = [head.start() for head in heads[1:]] + [len(text)]
    texts: dict[str, str] = {}
    parts: dict[str, str] = {}
    for head, end in zip(heads, ends, strict=True):
        kind, name, purpose = head.groups()
        if not purpose.strip() or name in texts or name in parts or name in _CHOSEN:
            raise ValueError(f"{path.name}: {name} is there twice or does not say its purpose")
        body = _expanded(text[head.end() : end].strip().rstrip(";"), parts, f"{path.name}: {name}")
        (texts if kind == "name" else parts)[name] = body
    return Queries(owner, texts, parts)


def _expanded(text: str, parts: dict[str, str], where: str) -> str:
    """`text` with the parts that it names; what is chosen later stays."""

    def part(gap: re.Match[str]) -> str:
        if gap[1] in _CHOSEN:
            return gap[0]
        if gap[1] not in parts:
            raise ValueError(f"{where} names a part that does not stand above it: {gap[1]}")
        return parts[gap[1]]

    return _GAP.sub(part, text)
