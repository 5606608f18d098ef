"""Questions about sessions: how many there are, who waits, who holds on for too long."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from services.monitor.checks.asked import Asked
from services.monitor.model.checks import EVIDENCE_MAX, Measured, Question, Thresholds, grpcurl
from services.monitor.model.sessions import Node, Session, forest, pids_of
from services.monitor.model.sizes import age
from services.monitor.servicer.desk import Desk
from services.monitor.servicer.sessions import FIRST, WAITS_MAX
from services.monitor.store import sessions as store

LONG_WAIT_S = 5.0
"""The services give up after two: whoever waits longer has set itself no limit."""


async def connections(desk: Desk) -> Measured:
    async with desk.read() as conn:
        places = await store.places(conn)
        roles = await store.roles(conn)
    return Measured(
        places.used_percent,
        f"{places.total} of {places.limit} connections are in use.",
        tuple(
            f"{each.role}: {each.connections}, of these {each.active} at work and"
            f" {each.idle_in_transaction} idle in a transaction"
            for each in roles
        ),
    )


async def blocked_sessions(desk: Desk) -> Measured:
    async with desk.read() as conn:
        waits = await store.lock_waits(conn, WAITS_MAX, min_s=LONG_WAIT_S)
        if not waits:
            return Measured(0, f"No session waits for a lock for {LONG_WAIT_S:g} s.")
        pids = pids_of(waits)
        locks = await store.locks_of(conn, pids)
        sessions = await store.sessions_of(conn, pids)
    waiters = {wait.pid for wait in waits}
    waited = [lock.waited_s or 0.0 for lock in locks if lock.pid in waiters and not lock.granted]
    long = [wait_s for wait_s in waited if wait_s >= LONG_WAIT_S]
    if not long:
        return Measured(0, f"No session waits for a lock for {LONG_WAIT_S:g} s.")
    return Measured(
        len(long),
        f"Sessions that wait for a lock for more than {LONG_WAIT_S:g} s: {len(long)}, the longest"
        f" for {age(max(long))}.",
        tuple(_lines(forest(waits, locks), sessions)),
    )


def _lines(
    nodes: Sequence[Node], sessions: Mapping[int, Session], indent: str = ""
) -> Iterator[str]:
    """The tree, a line for each session."""
    for node in nodes:
        session = sessions.get(node.pid, Session(pid=node.pid))
        wait = f" waits {age(node.wait_s)} for {node.waits_for}" if node.waits_for else ""
        holds = f" holds {node.holds}" if node.holds and not node.waits_for else ""
        yield f"{indent}{told(session)}{wait}{holds}"
        yield from _lines(node.blocks, sessions, indent + "  ")


def told(session: Session) -> str:
    """A session in a few words: who, what, in which state."""
    name = session.application_name or session.role
    return " ".join(
        part
        for part in (f"pid {session.pid}", name, session.query, f"({session.state})")
        if part.strip("()")
    )


async def idle_in_transaction(desk: Desk) -> Measured:
    async with desk.read() as conn:
        idle = await store.longest_idle(conn, EVIDENCE_MAX)
    if not idle:
        return Measured(0, "No session is idle in a transaction.")
    return Measured(
        idle[0].state_s,
        f"A session has been idle in its transaction for {age(idle[0].state_s)}.",
        tuple(f"{told(each)} for {age(each.state_s)}" for each in idle),
    )


async def long_transactions(desk: Desk) -> Measured:
    async with desk.read() as conn:
        rows = await store.long_transactions(conn, 0.0, (FIRST, 0), EVIDENCE_MAX)
        holder = await store.horizon(conn)
    found = [session for session, _ in rows]
    lines = [f"{told(each)} since {age(each.transaction_s or 0.0)}" for each in found]
    if holder is not None and holder[1]:
        lines.insert(0, f"old row versions are kept for {holder[0]}: {holder[1]} transactions back")
    if not found:
        return Measured(0, "No transaction is open.", tuple(lines))
    oldest_s = found[0].transaction_s or 0.0
    return Measured(
        oldest_s, f"The oldest transaction has been open for {age(oldest_s)}.", tuple(lines)
    )


ASKED = (
    Asked(
        Question(
            name="connections",
            title="Connections",
            unit="percent",
            why="When the server has no place left, services can't connect and refuse calls.",
            next_step="See who holds them; make pools smaller, or raise max_connections.",
            command=grpcurl("GetConnectionStats"),
            thresholds=Thresholds(warning_at=80, critical_at=95, clear_at=70, for_s=60),
        ),
        connections,
    ),
    Asked(
        Question(
            name="blocked_sessions",
            title="Sessions that wait for locks",
            unit="count",
            why="Whoever waits holds a connection and what it has locked so far: queues grow.",
            next_step="Look at the root of the tree; cancel it if it may be: driveflow locks.",
            command=grpcurl("GetLockTree"),
            thresholds=Thresholds(warning_at=1, critical_at=10, for_s=30, clear_s=60),
        ),
        blocked_sessions,
    ),
    Asked(
        Question(
            name="idle_in_transaction",
            title="Idle in a transaction",
            unit="seconds",
            why="It holds its locks and keeps dead rows from being removed, and does nothing.",
            next_step="Find its client; end the session if it does not come back.",
            command=grpcurl("ListLongTransactions", {"idle_only": True}),
            thresholds=Thresholds(warning_at=60, critical_at=600, clear_at=30, for_s=60),
        ),
        idle_in_transaction,
    ),
    Asked(
        Question(
            name="long_transactions",
            title="Long transactions",
            unit="seconds",
            why="While one is open, no row that died since can be removed, and events wait for it.",
            next_step="See whose it is; let it end, or cancel it.",
            command=grpcurl("ListLongTransactions"),
            thresholds=Thresholds(warning_at=900, critical_at=7_200, clear_at=600, for_s=300),
        ),
        long_transactions,
    ),
)
