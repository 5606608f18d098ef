"""Sessions, connections and lock trees as messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from driveflow.monitor.v1 import sessions_pb2 as pb
from libs.messages import stamp
from services.monitor.model.sessions import PREPARED, Node, Roles, Session, States
from services.monitor.scraping import PoolFigures


def session(of: Session) -> pb.Session:
    """A session."""
    return pb.Session(
        pid=of.pid,
        backend_start=stamp(of.backend_start),
        role=of.role,
        application_name=of.application_name,
        state=of.state,
        query=of.query,
        text=of.text,
        state_seconds=of.state_s,
        transaction_seconds=of.transaction_s,
        query_seconds=of.query_s,
        wait=of.wait,
        client=of.client,
    )


def states(of: Iterable[States]) -> list[pb.StateConnections]:
    """Connections by state."""
    return [
        pb.StateConnections(
            state=each.state,
            connections=each.connections,
            mean_seconds=each.mean_s,
            longest_seconds=each.longest_s,
        )
        for each in of
    ]


def services(of: Iterable[Roles], pools: Sequence[PoolFigures]) -> list[pb.ServiceConnections]:
    """Connections by login role, beside what that role's pools may open."""
    limits: dict[str, int] = {}
    for each in pools:
        role = role_of(each.pool)
        limits[role] = limits.get(role, 0) + each.limit
    return [
        pb.ServiceConnections(
            role=each.role,
            connections=each.connections,
            active=each.active,
            idle_in_transaction=each.idle_in_transaction,
            pool_max=limits.get(each.role, 0),
        )
        for each in of
    ]


def role_of(pool: str) -> str:
    """Whose connections a pool opens: "booking batches" are the role booking's."""
    return pool.partition(" ")[0]


def pools(of: Iterable[PoolFigures]) -> list[pb.PoolUsage]:
    """Pools of the services' processes."""
    return [
        pb.PoolUsage(
            service=each.service,
            pool=each.pool,
            used=each.used,
            open=each.open,
            limit=each.limit,
            used_percent=each.used_percent,
            waiting=each.waiting,
        )
        for each in of
    ]


def node(of: Node, sessions: Mapping[int, Session]) -> pb.LockNode:
    """A session in the tree; one that is gone by now has its number alone."""
    nameless = Session(pid=of.pid, state="prepared transaction" if of.pid == PREPARED else "gone")
    return pb.LockNode(
        session=session(sessions.get(of.pid, nameless)),
        waits_for=of.waits_for,
        wait_seconds=of.wait_s,
        holds=of.holds,
        blocks=[node(each, sessions) for each in of.blocks],
    )


def audited(of: Session) -> dict[str, object]:
    """What the audit log keeps of a session that is told to stop."""
    kept = session(of)
    return {
        "role": kept.role,
        "application_name": kept.application_name,
        "state": kept.state,
        "query": kept.query,
        "transaction_seconds": of.transaction_s,
    }
