"""Consistency tokens: who brings back the token of a write reads nothing older than that write.

A token is the timeline and the position of the primary's log right after the commit, as
`libs.orgs` puts it into the trailing metadata of a write: `00000001/0/1A2B3C4`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from libs.errors import InvalidArgument
from libs.pooling import Connection

KEY = "driveflow-consistency"
_FORM = re.compile(r"([0-9A-F]{8})/([0-9A-F]{1,8})/([0-9A-F]{1,8})")
POSITION = (
    b"SELECT /* libs.position */ substr(pg_walfile_name(lsn), 1, 8) || '/' || lsn"
    b" FROM pg_current_wal_insert_lsn() AS lsn"
)


@dataclass(frozen=True, slots=True)
class Token:
    """A place in the history of the database."""

    timeline: int
    lsn: int

    def is_past(self, other: Token) -> bool:
        """Whether a read that began when the log stood here sees the write of `other`.

        Not at the same place: a commit is in the log a moment before others see it, so a read
        that began there may have missed it. Not on another timeline: positions say nothing there.
        """
        return self.timeline == other.timeline and self.lsn > other.lsn

    def __str__(self) -> str:
        return f"{self.timeline:08X}/{self.lsn >> 32:X}/{self.lsn & 0xFFFFFFFF:X}"


def parse(text: str) -> Token:
    """The token that a caller brings back; raises InvalidArgument CONSISTENCY_TOKEN_INVALID."""
    found = _FORM.fullmatch(text)
    if found is None:
        raise InvalidArgument(
            "CONSISTENCY_TOKEN_INVALID",
            "The metadata driveflow-consistency is not what a write answered.",
        )
    timeline, high, low = (int(part, 16) for part in found.groups())
    return Token(timeline, high << 32 | low)


def wanted(metadata: Iterable[tuple[str, str | bytes]] | None) -> Token | None:
    """The token in a call's metadata, the latest where there are several; None without one.

    Raises InvalidArgument CONSISTENCY_TOKEN_INVALID.
    """
    token = None
    for key, value in metadata or ():
        if key == KEY:
            another = parse(str(value))
            if token is None or (another.timeline, another.lsn) > (token.timeline, token.lsn):
                token = another
    return token


async def position(conn: Connection) -> Token:
    """Where the primary's log stands; all that is committed now lies before it."""
    row = await (await conn.execute(POSITION)).fetchone()
    if row is None:
        raise RuntimeError("one row was asked for")
    return parse(str(row[0]))
