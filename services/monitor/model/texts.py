"""Texts of statements as they may be shown: whose they are, and nothing of what they were about.

pg_stat_statements normalises what it sees, but a text that it forgot and met again in the middle of
a statement's run can be the one with the values. So what leaves the monitor is scrubbed as well.
"""

from __future__ import annotations

import re

TEXT_MAX = 2_000
"""Characters of a text that is shown."""
READ_MAX = 4 * TEXT_MAX
"""Characters that are read of one: more would be cut, whatever becomes of its literals."""
OWNERS = ("booking", "payments", "tracking", "monitor", "events", "libs")
"""Whose queries files there are: no other comment is a name."""

_NAME = re.compile(rf"\s*\w+ /\* ((?:{'|'.join(OWNERS)})\.[a-z][a-z0-9_]{{0,62}}) \*/")
_ESCAPED = r"'(?:[^'\\]|\\.|'')*'"
# A literal goes on behind a line's end, by the rules of its first part.
_GOES_ON = r"(?:[ \t\f\v]|--[^\n\r]*)*[\n\r](?:\s|--[^\n\r]*[\n\r])*"
# First match wins. What is not closed, or could be read in two ways, takes all the rest with it.
_TOKEN = re.compile(
    rf"""
      (?P<comment> --[^\n\r]* | /\* )
    | (?P<literal>
          [eE]{_ESCAPED} (?:{_GOES_ON}{_ESCAPED})*
        | (?:[bBxXnN]|[uU]&)?'(?:[^'\\]|''|\\(?!'))*'
        | (?P<quote>\$(?:[^\W\d][\w]*)?\$) .*? (?P=quote)
        | (?:0[xX][0-9a-fA-F_]+|0[oObB][0-7_]+|[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)
          (?:[eE][+-]?[0-9][0-9_]*)?
        | (?:[eEbBxXnN]|[uU]&)?'.* | "(?:[^"]|"")*\Z | \$(?:[^\W\d]\w*)?\$.*
      )
    | (?P<kept> \$[0-9]+ | (?:Init|Sub)Plan\ [0-9]+ | "(?:[^"]|"")*" | [^\W\d][\w$]* | . )
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT_EDGE = re.compile(r"/\*|\*/")


def name_of(text: str) -> str:
    """The name behind a statement's first keyword, `booking.list_bookings`; empty without one."""
    found = _NAME.match(text)
    return found[1] if found else ""


def scrubbed(text: str) -> str:
    """The text without values: each literal is a `?`, and of its comments only the name is left.

    Names of tables, columns and parameters (`$1`) stay.
    """
    head = _NAME.match(text)
    parts = [head[0]] if head else []
    at = head.end() if head else 0
    while token := _TOKEN.match(text, at):
        at = token.end()
        if token["comment"]:
            at = _comment_end(text, at) if token["comment"] == "/*" else at
            parts.append(" ")
        else:
            parts.append("?" if token["literal"] else token["kept"])
    return "".join(parts)


def shown(text: str) -> str:
    """The text scrubbed, and cut where it is too long to be shown."""
    return scrubbed(text[:READ_MAX])[:TEXT_MAX].strip()


def _comment_end(text: str, at: int) -> int:
    """Behind the comment that has just begun; they nest."""
    depth = 1
    while depth and (edge := _COMMENT_EDGE.search(text, at)):
        depth += 1 if edge[0] == "/*" else -1
        at = edge.end()
    return len(text) if depth else at
