"""What the commands share: where the service is, who asks, and how a failure is said."""

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

from driveflow.tracking.v1 import tracking_pb2 as pb
from libs.client import Connection, Refusal, refusal
from libs.gateway import GatewayStopped, ServerUnreachable, StreamRefused, Totals

PIPE_WIDTH = 160  # columns where there is no terminal to ask
PARTITIONS_TIMEOUT_S = 60.0  # years of months may have to be made

Address = Annotated[
    str,
    typer.Option(envvar="DRIVEFLOW_TRACKING_ADDR", help="host:port of the tracking service."),
]
Token = Annotated[
    str,
    typer.Option(envvar="DRIVEFLOW_TOKEN", help="The school's bearer token.", show_default=False),
]
OpsToken = Annotated[
    str,
    typer.Option(
        envvar="DRIVEFLOW_OPS_TOKEN",
        help="An operator's token: makes months that have no partition yet.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]

HINTS = {
    "TOKEN_EXPIRED": "get a new token and pass it by --token or DRIVEFLOW_TOKEN",
    "STREAM_SUPERSEDED": "another run is sending the same drive: let it finish, then run again",
    "TRIP_NOT_FOUND": "check the id, and that the token is of the trip's school",
    "START_TIME_OUT_OF_RANGE": "older drives need a token with the scope tracking:import",
}
HINTS_BY_CODE = {
    grpc.StatusCode.UNAVAILABLE: "is the service running there? --address or "
    "DRIVEFLOW_TRACKING_ADDR says where; ./dev up starts one",
    grpc.StatusCode.UNAUTHENTICATED: "pass a valid token by --token or DRIVEFLOW_TOKEN",
    grpc.StatusCode.DEADLINE_EXCEEDED: "the service is slow or overloaded: run again",
}


class CommandFailed(Exception):
    """The command can't do what was asked; the message is one line with what to do."""


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run a command; what stops it becomes one line on stderr and exit code 1."""
    try:
        asyncio.run(work)
    except (CommandFailed, GatewayStopped, grpc.aio.AioRpcError) as error:
        complain(complaint(error))
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        complain("interrupted")
        raise typer.Exit(130) from None


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


class Trips:
    """Starts and ends trips, making the months of old ones when an operator's token is there."""

    def __init__(self, connection: Connection, *, address: str, ops_token: str = "") -> None:
        self._stub = connection.tracking
        self._address = address
        self._ops_token = ops_token

    async def start(self, start_us: int, *, request_id: str = "", vehicle_id: str = "") -> pb.Trip:
        """Start a trip; raises CommandFailed when its month is missing and can't be made."""
        request = pb.StartTripRequest(
            start_time=timestamp(start_us), request_id=request_id, vehicle_id=vehicle_id
        )
        try:
            return await self._stub.StartTrip(request)
        except grpc.aio.AioRpcError as error:
            if refusal(error).reason != "NO_PARTITION":
                raise
        await self._ensure_partitions(start_us)
        return await self._stub.StartTrip(request)

    async def end(self, trip_id: str, end_us: int, *, request_id: str = "") -> pb.Trip:
        """End a trip; it comes back with its summary."""
        return await self._stub.EndTrip(
            pb.EndTripRequest(trip_id=trip_id, end_time=timestamp(end_us), request_id=request_id)
        )

    async def _ensure_partitions(self, start_us: int) -> None:
        month = when(start_us).strftime("%Y-%m")
        if not self._ops_token:
            raise CommandFailed(
                f"NO_PARTITION: there is no partition for {month}; pass an operator's token by "
                "--ops-token or DRIVEFLOW_OPS_TOKEN, or have an operator run: grpcurl -plaintext "
                "-H 'authorization: Bearer …' -d "
                f'\'{{"from_month": "{month}-01T00:00:00Z"}}\' {self._address} '
                "driveflow.tracking.v1.TrackingService/EnsurePartitions"
            )
        request = pb.EnsurePartitionsRequest(from_month=timestamp(start_us))
        async with Connection(self._address, self._ops_token) as operator:
            try:
                await operator.tracking.EnsurePartitions(request, timeout=PARTITIONS_TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                raise CommandFailed(
                    f"the partition of {month} can't be made: {refusal(error)}; "
                    "check --ops-token or DRIVEFLOW_OPS_TOKEN"
                ) from error


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


def rejected(totals: Totals) -> str:
    """How many points were rejected, and why."""
    if not totals.rejected:
        return "0"
    reasons = ", ".join(f"{count} {reason}" for reason, count in totals.reasons.most_common())
    return f"{totals.rejected} ({reasons})"
