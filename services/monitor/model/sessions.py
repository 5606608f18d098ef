"""Sessions, and who waits for whom."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

BLOCKERS_MAX = 10
"""Of more sessions that one waits for, so many are shown: trees stay small whatever happens."""
PREPARED = 0
"""In place of the number of a session: a prepared transaction, which has none."""

# mode -> modes that it conflicts with, as PostgreSQL's documentation lists them.
_WEAK = ("AccessShareLock", "RowShareLock", "RowExclusiveLock")
_ALL = (
    *_WEAK,
    "ShareUpdateExclusiveLock",
    "ShareLock",
    "ShareRowExclusiveLock",
    "ExclusiveLock",
    "AccessExclusiveLock",
)
CONFLICTS: Mapping[str, frozenset[str]] = {
    "AccessShareLock": frozenset(_ALL[7:]),
    "RowShareLock": frozenset(_ALL[6:]),
    "RowExclusiveLock": frozenset(_ALL[4:]),
    "ShareUpdateExclusiveLock": frozenset(_ALL[3:]),
    "ShareLock": frozenset(_ALL[2:]) - {"ShareLock"},
    "ShareRowExclusiveLock": frozenset(_ALL[2:]),
    "ExclusiveLock": frozenset(_ALL[1:]),
    "AccessExclusiveLock": frozenset(_ALL),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A connection, or a process of the server's own; times are seconds."""

    pid: int
    backend_start: datetime | None = None
    """None: a prepared transaction, of which only the state is known."""
    role: str = ""
    application_name: str = ""
    state: str = ""
    query: str = ""
    query_id: int | None = None
    text: str = ""
    """Normalised and scrubbed; empty where it is not known or not asked for."""
    state_s: float = 0.0
    transaction_s: float | None = None
    query_s: float | None = None
    wait: str = ""
    client: str = ""


@dataclass(frozen=True, slots=True)
class States:
    """Connections in one state."""

    state: str
    connections: int
    mean_s: float
    longest_s: float


@dataclass(frozen=True, slots=True)
class Roles:
    """Connections of one login role."""

    role: str
    connections: int
    active: int
    idle_in_transaction: int


@dataclass(frozen=True, slots=True)
class Places:
    """How full the server is."""

    total: int
    limit: int

    @property
    def used_percent(self) -> float:
        """Share in use; superusers may go beyond the limit."""
        return 100.0 * self.total / self.limit if self.limit else 0.0


@dataclass(frozen=True, slots=True)
class Lock:
    """A lock that a session holds or waits for."""

    pid: int
    granted: bool
    mode: str
    object: str
    """What it is on, as a key; equal for the same thing."""
    kind: str
    relation: str | None
    waited_s: float | None
    """None for one that is held, and for the first moment of a wait."""

    def __str__(self) -> str:
        where = " of ".join(part for part in (self.kind, self.relation) if part)
        return f"{self.mode} on {where}"

    def blocks(self, wanted: Lock) -> bool:
        """Whether it, being held, is why the other is not."""
        return (
            self.granted
            and self.object == wanted.object
            and wanted.mode in CONFLICTS.get(self.mode, frozenset())
        )


@dataclass(frozen=True, slots=True)
class Wait:
    """A session that waits for a lock, and whom for, as pg_blocking_pids has it: a number may come
    twice, and 0 is a prepared transaction."""

    pid: int
    blockers: Sequence[int]


@dataclass(slots=True)
class Node:
    """A session in the tree, and those that wait for it."""

    pid: int
    waits_for: str = ""
    wait_s: float = 0.0
    holds: str = ""
    blocks: list[Node] = field(default_factory=list)


def forest(waits: Sequence[Wait], locks: Iterable[Lock]) -> list[Node]:
    """Who waits for whom: each tree begins with one that blocks others and waits for nobody.

    A session is below each one that it waits for, with those that wait for it below the first place
    only. It is not below those that are merely ahead of it in the queue if somebody holds what it
    wants. A circle begins with the one that has waited longest. Longest waits come first.
    """
    return _Forest(waits, locks).roots()


class _Forest:
    def __init__(self, waits: Sequence[Wait], locks: Iterable[Lock]) -> None:
        self._held: dict[int, list[Lock]] = {}
        self._wanted: dict[int, Lock] = {}
        for lock in locks:
            if lock.granted:
                self._held.setdefault(lock.pid, []).append(lock)
            else:
                self._wanted[lock.pid] = lock
        self._blockers = {wait.pid: self._shown(wait) for wait in waits}
        self._followers: dict[int, list[int]] = {}
        for pid, blockers in self._blockers.items():
            for blocker in blockers:
                self._followers.setdefault(blocker, []).append(pid)
        for followers in self._followers.values():
            followers.sort(key=lambda pid: (-self._wait_s(pid), pid))
        self._grown: set[int] = set()

    def roots(self) -> list[Node]:
        free = [pid for pid in self._followers if not self._blockers.get(pid)]
        found = [self._grow(pid) for pid in sorted(free, key=self._urgency)]
        # Those left wait in a circle, until PostgreSQL ends one of them.
        for pid in sorted(self._followers, key=lambda pid: (-self._wait_s(pid), pid)):
            if pid in self._grown:
                continue
            found.append(self._grow(pid))
        return found

    def _urgency(self, pid: int) -> tuple[float, int]:
        return (-max(map(self._wait_s, self._followers[pid])), pid)

    def _grow(self, root: int) -> Node:
        """The tree below a session, level by level: each is grown where it stands highest."""
        top = self._node(root)
        level = [top]
        self._grown.add(root)
        while level:
            below = []
            for node in level:
                for pid in self._followers.get(node.pid, ()):
                    child = self._node(pid)
                    node.blocks.append(child)
                    if pid not in self._grown:
                        self._grown.add(pid)
                        below.append(child)
            level = below
        return top

    def _node(self, pid: int) -> Node:
        wanted = self._wanted.get(pid)
        held = [str(lock) for lock in self._held.get(pid, ()) if self._is_wanted(lock)]
        return Node(
            pid,
            waits_for="" if wanted is None else str(wanted),
            wait_s=self._wait_s(pid),
            holds=", ".join(dict.fromkeys(held)),
        )

    def _is_wanted(self, lock: Lock) -> bool:
        followers = self._followers.get(lock.pid, ())
        return any(lock.blocks(self._wanted[pid]) for pid in followers if pid in self._wanted)

    def _wait_s(self, pid: int) -> float:
        wanted = self._wanted.get(pid)
        return (wanted.waited_s or 0.0) if wanted is not None else 0.0

    def _shown(self, wait: Wait) -> list[int]:
        """Whom a session is below: holders if there are any, else those ahead in the queue."""
        blockers = [pid for pid in dict.fromkeys(wait.blockers) if pid != wait.pid]
        wanted = self._wanted.get(wait.pid)
        if wanted is not None:
            holders = [pid for pid in blockers if self._holds(pid, wanted)]
            blockers = holders or blockers
        return blockers[:BLOCKERS_MAX]

    def _holds(self, pid: int, wanted: Lock) -> bool:
        return any(lock.blocks(wanted) for lock in self._held.get(pid, ()))


def pids_of(waits: Sequence[Wait]) -> list[int]:
    """All sessions that wait or are waited for."""
    return list(dict.fromkeys(pid for wait in waits for pid in (wait.pid, *wait.blockers)))
