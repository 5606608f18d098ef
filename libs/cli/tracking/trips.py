"""Where tracking is, and how commands start and end trips there."""

from __future__ import annotations

from typing import Annotated

import grpc
import typer

from driveflow.tracking.v1 import tracking_pb2 as pb
from libs.cli.session import CommandFailed, timestamp, when
from libs.client import Connection, refusal
from libs.gateway import Totals

PARTITIONS_TIMEOUT_S = 60.0  # years of months may have to be made

Address = Annotated[
    str,
    typer.Option(envvar="DRIVEFLOW_TRACKING_ADDR", help="host:port of the tracking service."),
]
OpsToken = Annotated[
    str,
    typer.Option(
        envvar="DRIVEFLOW_OPS_TOKEN",
        help="An operator's token: makes months that have no partition yet.",
        show_default=False,
    ),
]


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


def rejected(totals: Totals) -> str:
    """How many points were rejected, and why."""
    if not totals.rejected:
        return "0"
    reasons = ", ".join(f"{count} {reason}" for reason, count in totals.reasons.most_common())
    return f"{totals.rejected} ({reasons})"
