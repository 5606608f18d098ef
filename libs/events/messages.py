"""Rows of the outbox and parked events <-> protobuf."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from driveflow.events.v1 import events_pb2 as pb
from libs import masks
from libs.events import model, store
from libs.events.model import Event, Row
from libs.events.store import HorizonHolder, Parked


def message(service: str, row: Row) -> pb.Event:
    """An event of `service` as it is sent."""
    sent = pb.Event(
        cursor=model.cursor(service, row.place),
        org_id=str(row.org_id),
        topic=row.topic,
        type=row.type,
        aggregate_type=row.aggregate_type,
        aggregate_id=str(row.aggregate_id),
        aggregate_version=row.aggregate_version,
        payload=row.payload,
        create_time=stamp(row.created_at),
    )
    if row.processed_at is not None:
        sent.process_time.CopyFrom(stamp(row.processed_at))
    return sent


def listed(service: str, row: masks.Row, paths: tuple[str, ...]) -> pb.Event:
    """What was asked for of an event of `service`."""
    told = masks.reader(pb.Event, paths)(row)
    if "cursor" in paths:
        told.cursor = model.cursor(service, store.place(row))
    return told


def event_of_row(row: Row) -> Event:
    """An event as code of this process reads it."""
    return Event(
        org_id=row.org_id,
        topic=row.topic,
        type=row.type,
        aggregate_type=row.aggregate_type,
        aggregate_id=row.aggregate_id,
        aggregate_version=row.aggregate_version,
        payload=json.loads(row.payload),
        create_time=row.created_at,
    )


def event(sent: pb.Event) -> Event:
    """An event as effects read it. Raises ValueError when it is none."""
    return Event(
        org_id=uuid.UUID(sent.org_id),
        topic=sent.topic,
        type=sent.type,
        aggregate_type=sent.aggregate_type,
        aggregate_id=uuid.UUID(sent.aggregate_id),
        aggregate_version=sent.aggregate_version,
        payload=json.loads(sent.payload),
        create_time=sent.create_time.ToDatetime(UTC),
    )


def parked_event(parked: Parked) -> pb.ParkedEvent:
    """A parked event without its contents."""
    return pb.ParkedEvent(
        producer=parked.producer,
        cursor=model.cursor(parked.producer, parked.place),
        aggregate_type=parked.aggregate_type,
        aggregate_id=str(parked.aggregate_id),
        aggregate_version=parked.aggregate_version,
        type=pb.Event.FromString(parked.envelope).type,
        attempts=parked.attempts,
        next_attempt_time=stamp(parked.next_attempt_at),
        last_error=parked.last_error,
        park_time=stamp(parked.parked_at),
    )


def listed_parked_event(row: masks.Row, paths: tuple[str, ...]) -> pb.ParkedEvent:
    """What was asked for of a parked event."""
    told = masks.reader(pb.ParkedEvent, paths)(row)
    envelope, producer = row[-4:-2]
    if "type" in paths:
        told.type = pb.Event.FromString(envelope).type
    if "cursor" in paths:
        told.cursor = model.cursor(producer, store.place(row))
    return told


def horizon_holder(holder: HorizonHolder, since: datetime) -> pb.HorizonHolder:
    """Who keeps events from being sent, the oldest of them since then."""
    return pb.HorizonHolder(
        pid=holder.pid,
        user=holder.user,
        application_name=holder.application_name,
        oldest_held_back_time=stamp(since),
    )


def stamp(moment: datetime) -> Timestamp:
    """A time as protobuf has it."""
    made = Timestamp()
    made.FromDatetime(moment)
    return made
