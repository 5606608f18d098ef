"""Named SQL: every statement of a service stands in its queries.sql.

    -- name: get_trip
    -- A trip of the school.
    SELECT {columns} FROM "Trip" WHERE "orgId" = %(org_id)s::uuid AND id = %(id)s::uuid;

The name goes into the statement as a comment behind its first keyword (PostgreSQL 18 drops leading
comments from pg_stat_statements), so that the monitor can say whose query it is. `{columns}` is
filled by `select` from names that the code fixes; no value ever gets into a text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_HEAD = re.compile(r"^-- name: (\w+)\n((?:--.*\n)*)", re.MULTILINE)


class Queries:
    """The statements of one file by name."""

    def __init__(self, owner: str, texts: dict[str, str]) -> None:
        self.owner = owner
        self.texts = texts
        self.select = cache(self._select)
        self._encoded = {
            name: self._named(name, text).encode()
            for name, text in texts.items()
            if "{columns}" not in text
        }

    def __getattr__(self, name: str) -> bytes:
        try:
            return self._encoded[name]
        except KeyError:
            raise AttributeError(f"{self.owner} has no query {name}") from None

    def _select(self, name: str, columns: tuple[str, ...]) -> bytes:
        """The statement `name` with these columns (SQL expressions fixed in code)."""
        return self._named(name, self.texts[name].replace("{columns}", ", ".join(columns))).encode()

    def _named(self, name: str, text: str) -> str:
        keyword, rest = re.split(r"(?<=\w)\b", text, maxsplit=1)
        return f"{keyword} /* {self.owner}.{name} */{rest}"

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)


def load(owner: str, path: Path) -> Queries:
    """Read a queries.sql; every statement needs a name and a line with its purpose."""
    text = path.read_text(encoding="utf-8")
    heads = list(_HEAD.finditer(text))
    ends = [head.start() for head in heads[1:]] + [len(text)]
    texts: dict[str, str] = {}
    for head, end in zip(heads, ends, strict=True):
        name, purpose = head.groups()
        if not purpose.strip() or name in texts:
            raise ValueError(f"{path.name}: {name} is there twice or does not say its purpose")
        texts[name] = text[head.end() : end].strip().rstrip(";")
    return Queries(owner, texts)
