"""`driveflow outbox`: how far events are, and what to do about those whose effect fails."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import grpc
import typer
from google.protobuf.timestamp_pb2 import Timestamp
from rich.table import Table

from driveflow.events.v1 import events_pb2 as pb
from driveflow.events.v1.events_pb2_grpc import EventServiceStub
from libs.cli import session
from libs.client import Connection, refusal

PAGE = 1_000
PARKED_MAX = 10_000
"""More parked events of a service are not looked at."""
WATCH_EVERY_S = 2.0
CURSOR_PARTS = 3

app = typer.Typer()
outbox = typer.Typer(help="Events: how far they are, and those whose effect fails.")
app.add_typer(outbox, name="outbox")

Booking = Annotated[
    str | None,
    typer.Option(envvar="DRIVEFLOW_BOOKING_ADDR", help="host:port of the booking service."),
]
Payments = Annotated[
    str | None,
    typer.Option(envvar="DRIVEFLOW_PAYMENTS_ADDR", help="host:port of the payments service."),
]
Tracking = Annotated[
    str | None,
    typer.Option(envvar="DRIVEFLOW_TRACKING_ADDR", help="host:port of the tracking service."),
]
Service = Annotated[str | None, typer.Option(help="Only the events that are parked in this one.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="As `driveflow outbox parked` shows it.")]


@dataclass(frozen=True)
class Row:
    """One topic of one service, and one of its consumers."""

    service: str
    topic: str
    consumer: str
    """Empty where none takes the topic."""
    waiting: int
    oldest_s: float | None
    """Age of the oldest that waits."""
    processed: int
    """Kept although every consumer took them; the same for each."""
    parked: int
    """At the consumer, if it was asked."""


@dataclass(frozen=True)
class Held:
    """Events of a service that no one may receive yet."""

    service: str
    events: int
    oldest_s: float
    user: str
    application_name: str
    pid: int


@dataclass(frozen=True)
class Parked:
    """An event that waits in a service for its effect."""

    service: str
    id: str
    type: str
    aggregate_id: str
    version: int
    attempts: int
    next_attempt_s: float
    """Seconds until it is tried again; nothing is due before the first of its aggregate."""
    parked_s: float
    """So long ago."""
    last_error: str


@dataclass(frozen=True)
class State:
    """What all services told."""

    rows: Sequence[Row]
    held: Sequence[Held]
    silent: Mapping[str, str]
    """Services that could not be asked, with the reason."""


@outbox.callback(invoke_without_command=True)
def show(
    context: typer.Context,
    booking: Booking = None,
    payments: Payments = None,
    tracking: Tracking = None,
    token: session.OperatorToken = "",
    watch: Annotated[bool, typer.Option(help="Show it again every two seconds.")] = False,
    as_json: session.Json = False,
) -> None:
    """Show how far each consumer is behind. Exit code 1: a service did not answer."""
    addresses = {"booking": booking, "payments": payments, "tracking": tracking}
    context.obj = (addresses, token)
    if context.invoked_subcommand is None:
        session.run(_show(addresses, token, watch=watch, as_json=as_json))


@outbox.command()
def parked(context: typer.Context, service: Service = None, as_json: session.Json = False) -> None:
    """List the events whose effect failed, and those that wait behind them."""
    session.run(_parked(context.obj, service, as_json=as_json))


@outbox.command()
def retry(context: typer.Context, id_: Id, service: Service = None) -> None:
    """Have a parked event tried now, and those of its aggregate before it."""

    async def ask(stub: EventServiceStub) -> pb.ParkedEvent:
        request = pb.RetryParkedEventRequest(producer=_producer(id_), cursor=id_)
        return await stub.RetryParkedEvent(request)

    session.run(_act(context.obj, service, id_, ask, "is tried now"))


@outbox.command()
def discard(
    context: typer.Context,
    id_: Id,
    reason: Annotated[str, typer.Option(help="Why it may be given up; the audit log keeps it.")],
    service: Service = None,
) -> None:
    """Give a parked event up: it has no effect, and those behind it are tried."""

    async def ask(stub: EventServiceStub) -> pb.ParkedEvent:
        request = pb.DiscardParkedEventRequest(producer=_producer(id_), cursor=id_, reason=reason)
        return await stub.DiscardParkedEvent(request)

    session.run(_act(context.obj, service, id_, ask, "is given up"))


# --- asking ------------------------------------------------------------------------------------

Addresses = Mapping[str, str | None]
Asked = tuple[Addresses, str]


@asynccontextmanager
async def _stubs(asked: Asked, service: str | None) -> AsyncIterator[dict[str, EventServiceStub]]:
    """Of the services whose addresses are known, or of the named one alone."""
    addresses, token = asked
    if service is not None and service not in addresses:
        raise session.CommandFailed(f"there is no service {service!r}: {', '.join(addresses)}")
    chosen = {name: address for name, address in addresses.items() if service in (None, name)}
    known = {name: address for name, address in chosen.items() if address}
    if not known:
        names = ", ".join(f"DRIVEFLOW_{name.upper()}_ADDR" for name in chosen)
        raise session.CommandFailed(f"no address of a service: give one by {names}")
    if not token:
        raise session.CommandFailed("pass an operator's token by --token or DRIVEFLOW_OPS_TOKEN")
    async with AsyncExitStack() as stack:
        yield {
            name: (await stack.enter_async_context(Connection(address, token))).events
            for name, address in known.items()
        }


async def _show(addresses: Addresses, token: str, *, watch: bool, as_json: bool) -> None:
    async with _stubs((addresses, token), None) as stubs:
        while True:
            state = await _state(stubs)
            if as_json:
                typer.echo(json.dumps(asdict(state), indent=None if watch else 2))
            else:
                _print(state, clear=watch)
            if not watch:
                break
            await asyncio.sleep(WATCH_EVERY_S)
    if state.silent:
        raise typer.Exit(1)


async def _state(stubs: Mapping[str, EventServiceStub]) -> State:
    backlogs: dict[str, pb.Backlog] = {}
    waiting: Counter[tuple[str, str, str]] = Counter()
    silent: dict[str, str] = {}
    for name, stub in stubs.items():
        try:
            backlogs[name] = await stub.GetBacklog(pb.GetBacklogRequest())
            for event in await _list(stub):
                waiting[event.producer, event.type.partition(".")[0], name] += 1
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                silent[name] = str(refusal(error))
    rows = [
        _row(name, topic, waiting[name, topic.topic, topic.consumer])
        for name, backlog in backlogs.items()
        for topic in backlog.topics
    ]
    held = [_held(name, backlog) for name, backlog in backlogs.items() if backlog.held_back_count]
    return State(rows, held, silent)


def _row(service: str, topic: pb.TopicBacklog, parked_there: int) -> Row:
    oldest = topic.oldest_pending_time if topic.HasField("oldest_pending_time") else None
    return Row(
        service,
        topic.topic,
        topic.consumer,
        topic.pending_count,
        None if oldest is None else _age_s(oldest),
        topic.processed_count,
        parked_there,
    )


def _held(service: str, backlog: pb.Backlog) -> Held:
    holder = backlog.horizon_holder
    oldest = _age_s(holder.oldest_held_back_time) if backlog.HasField("horizon_holder") else 0.0
    return Held(
        service,
        backlog.held_back_count,
        oldest,
        holder.user,
        holder.application_name,
        holder.pid,
    )


async def _list(stub: EventServiceStub) -> list[pb.ParkedEvent]:
    found: list[pb.ParkedEvent] = []
    request = pb.ListParkedEventsRequest(page_size=PAGE)
    while len(found) < PARKED_MAX:
        page = await stub.ListParkedEvents(request)
        found += page.parked_events
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break
    return found


async def _parked(asked: Asked, service: str | None, *, as_json: bool) -> None:
    found: list[Parked] = []
    async with _stubs(asked, service) as stubs:
        for name, stub in stubs.items():
            try:
                found += [_of(name, event) for event in await _list(stub)]
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                    raise
    if as_json:
        typer.echo(json.dumps([asdict(each) for each in found], indent=2))
    elif found:
        session.output().print(parked_table(found))
    else:
        session.output().print("nothing is parked")


def _of(service: str, event: pb.ParkedEvent) -> Parked:
    return Parked(
        service,
        event.cursor,
        event.type,
        event.aggregate_id,
        event.aggregate_version,
        event.attempts,
        max(0.0, -_age_s(event.next_attempt_time)),
        _age_s(event.park_time),
        event.last_error,
    )


async def _act(asked: Asked, service: str | None, id_: str, ask: Any, done: str) -> None:
    """Ask each service in turn until it is one where the event is parked."""
    _producer(id_)
    async with _stubs(asked, service) as stubs:
        for name, stub in stubs.items():
            try:
                event = await ask(stub)
            except grpc.aio.AioRpcError as error:
                absent = (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED)
                if error.code() not in absent:
                    raise
                continue
            typer.echo(f"{event.type} of {event.aggregate_id} {done} in {name}")
            return
    raise session.CommandFailed(
        f"{id_} is not parked: its effect may have happened; driveflow outbox parked lists the rest"
    )


def _producer(id_: str) -> str:
    """Whose event it is, which its id begins with."""
    parts = id_.split(".")
    if len(parts) != CURSOR_PARTS:
        raise session.CommandFailed(f"{id_!r} is no id of a parked event")
    return parts[0]


# --- showing -----------------------------------------------------------------------------------


def _print(state: State, *, clear: bool) -> None:
    console = session.output()
    if clear and console.is_terminal:
        console.clear()
    for service in dict.fromkeys(row.service for row in state.rows):
        console.print(table(service, [row for row in state.rows if row.service == service]))
    if not state.rows and not state.silent:
        console.print("no events are kept")
    for held in state.held:
        console.print(
            f"{held.service}: {held.events:,} events are held back, the oldest for"
            f" {age(held.oldest_s)}, by a transaction of {held.user or 'someone'}"
            f" ({held.application_name or 'nameless'}, pid {held.pid})"
        )
    for service, why in state.silent.items():
        session.complain(f"{service}: {why}")


def table(service: str, rows: Sequence[Row]) -> Table:
    """A row for each topic and consumer."""
    drawn = Table("topic", "consumer", title=f"events of {service}")
    for column in ("waiting", "oldest", "processed, kept", "parked"):
        drawn.add_column(column, justify="right")
    for row in rows:
        drawn.add_row(
            row.topic,
            row.consumer or "-",
            f"{row.waiting:,}",
            "" if row.oldest_s is None else age(row.oldest_s),
            f"{row.processed:,}",
            f"[red]{row.parked:,}[/red]" if row.parked else "0",
        )
    return drawn


def parked_table(found: Sequence[Parked]) -> Table:
    """A row for each event."""
    drawn = Table("parked in")
    # What is to be copied stays in one piece.
    drawn.add_column("id", no_wrap=True)
    for column in ("type", "aggregate", "tries", "next try", "parked for", "last error"):
        drawn.add_column(column)
    for each in found:
        drawn.add_row(
            each.service,
            each.id,
            each.type,
            f"{each.aggregate_id} v{each.version}",
            str(each.attempts),
            f"in {age(each.next_attempt_s)}" if each.attempts else "behind",
            age(each.parked_s),
            each.last_error,
        )
    return drawn


def age(seconds: float) -> str:
    """12 s, 3 min, 5 h, 2 d: in its largest unit."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _age_s(since: Timestamp) -> float:
    return (datetime.now(UTC) - since.ToDatetime(UTC)).total_seconds()
