"""What the metrics say of events: sent, taken in, failed, parked, and how far behind."""

from __future__ import annotations

from datetime import datetime

from driveflow.events.v1 import events_pb2 as pb
from libs import telemetry

SCHOOLS = "schools"
"""Stands for all subscribers with schools' tokens."""


class Delivery:
    """Of a producer: one subscription."""

    def __init__(self, consumer: str) -> None:
        """`consumer` is the service that subscribes; empty for a school."""
        self._of = {"consumer": consumer or SCHOOLS}
        self._sent = telemetry.counter(
            "driveflow.events.sent", "{event}", "Events sent, by consumer"
        )

    def sent(self, events: int) -> None:
        """So many events have left."""
        self._sent.add(events, self._of)


class Intake:
    """Of a consumer: one producer's events."""

    def __init__(self, producer: str) -> None:
        self._of = {"producer": producer}
        self._taken = telemetry.counter(
            "driveflow.events.taken", "{event}", "Events passed, by producer"
        )
        self._failed = telemetry.counter(
            "driveflow.events.failed", "{event}", "Effects that failed, by producer"
        )
        self._parked = telemetry.gauge(
            "driveflow.events.parked", "{event}", "Events that wait for their effect"
        )
        self._lag = telemetry.gauge(
            "driveflow.events.lag", "s", "Age of the last event when it was taken, by producer"
        )
        # There from the start, so that the first one shows as a rise.
        self._failed.add(0, self._of)

    def taken(self, count: int, last: pb.Event, now: datetime) -> None:
        """So many are passed; the last message was this event, or an empty one: nothing follows."""
        self._taken.add(count, self._of)
        behind_s = now.timestamp() - last.create_time.ToNanoseconds() / 1e9 if last.type else 0.0
        self._lag.set(max(0.0, behind_s), self._of)

    def failed(self) -> None:
        """An effect failed, and its event is parked or stays so."""
        self._failed.add(1, self._of)

    def parked(self, count: int) -> None:
        """So many are parked in this service, whoever's they are."""
        self._parked.set(count)
