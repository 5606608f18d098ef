"""What the commands that call a service share: who asks, and how a failure is said."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import grpc
import typer
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from libs.client import Connection, Refusal, refusal
from libs.gateway import GatewayStopped, ServerUnreachable, StreamRefused

PIPE_WIDTH = 160  # columns where there is no terminal to ask

Token = Annotated[
    str,
    typer.Option(envvar="DRIVEFLOW_TOKEN", help="The school's bearer token.", show_default=False),
]
OperatorToken = Annotated[
    str,
    typer.Option(
        envvar="DRIVEFLOW_OPS_TOKEN", help="An operator's bearer token.", show_default=False
    ),
]
MonitorAddress = Annotated[
    str | None,
    typer.Option("--address", envvar="DRIVEFLOW_MONITOR_ADDR", help="host:port of the monitor."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]

HINTS = {
    "TOKEN_EXPIRED": "get a new token and pass it by --token or DRIVEFLOW_TOKEN",
    "STREAM_SUPERSEDED": "another run is sending the same drive: let it finish, then run again",
    "TRIP_NOT_FOUND": "check the id, and that the token is of the trip's school",
    "START_TIME_OUT_OF_RANGE": "older drives need a token with the scope tracking:import",
}
HINTS_BY_CODE = {
    grpc.StatusCode.UNAVAILABLE: "is the service running there? --address says where; "
    "./dev up starts one, ./dev env tells its address",
    grpc.StatusCode.UNAUTHENTICATED: "pass a valid token by --token or DRIVEFLOW_TOKEN",
    grpc.StatusCode.DEADLINE_EXCEEDED: "the service is slow or overloaded: run again",
}


class CommandFailed(Exception):
    """The command can't do what was asked; the message is one line with what to do."""


def run(work: Coroutine[Any, Any, None], failure: int = 1) -> None:
    """Run a command; what stops it becomes one line on stderr and the exit code `failure`."""
    try:
        asyncio.run(work)
    except (CommandFailed, GatewayStopped, grpc.aio.AioRpcError) as error:
        complain(complaint(error))
        raise typer.Exit(failure) from None
    except KeyboardInterrupt:
        complain("interrupted")
        raise typer.Exit(130) from None


def monitor(address: str | None, token: str) -> Connection:
    """A connection to the monitor, with an operator's token."""
    if not address:
        raise CommandFailed("pass the monitor's address by --address or DRIVEFLOW_MONITOR_ADDR")
    return Connection(address, token)


def complain(sentence: str) -> None:
    """Say on stderr, in one line, what went wrong."""
    typer.secho(f"driveflow: {' '.join(sentence.split())}", fg="red", err=True)


def complaint(error: Exception) -> str:
    """The reason, and what to do about it where that is known."""
    if isinstance(error, grpc.aio.AioRpcError):
        return _with_hint(refusal(error))
    if isinstance(error, StreamRefused):
        return _with_hint(error.refusal)
    if isinstance(error, ServerUnreachable):
        return f"{error}; {HINTS_BY_CODE[grpc.StatusCode.UNAVAILABLE]}"
    return str(error)


def _with_hint(refused: Refusal) -> str:
    if refused.reason == "SCOPE_MISSING":
        return f"{refused}; use a token that has the scope {refused.metadata.get('scope', '')}"
    hint = HINTS.get(refused.reason) or HINTS_BY_CODE.get(refused.code)
    return f"{str(refused).rstrip('.')}; {hint}" if hint else str(refused)


def timestamp(time_us: int) -> Timestamp:
    """Microseconds since the epoch as a protobuf time."""
    time = Timestamp()
    time.FromMicroseconds(time_us)
    return time


def when(time_us: int) -> datetime:
    """Microseconds since the epoch as a UTC time."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time_us)


def local(time: Timestamp) -> str:
    """A time for people: local, ISO 8601, with its offset."""
    return when(time.ToMicroseconds()).astimezone().isoformat(timespec="seconds")


def duration(seconds: int) -> str:
    """1:02:03."""
    return str(timedelta(seconds=seconds))


def output() -> Console:
    """Where results go."""
    return Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)


def progress(*columns: str) -> Progress:
    """A progress bar on stderr, so that results can be piped."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        *[TextColumn(column) for column in columns],
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )
