"""The demo school: people, cars, prices, a fortnight of lessons and some drives, all by RPC."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import grpc

from libs.client import Connection, refusal
from libs.gateway import GatewayStopped
from libs.local.demo import drives, lessons, school


class DemoRefused(Exception):
    """A service refused a part of it; the message says why."""


@dataclass(frozen=True, slots=True)
class Demo:
    """UUIDs of some of what was made."""

    org_id: str
    service_id: str
    instructor_id: str
    lesson_id: str


@dataclass(frozen=True, slots=True)
class Access:
    """Where the services are, and who may make a school."""

    booking: str
    tracking: str
    ops_token: str
    token_of: Callable[[UUID], str]
    """The token of someone who may do everything in a school."""


async def seed(access: Access, now: datetime) -> Demo:
    """Make a new school as of `now`. Raises DemoRefused."""
    try:
        return await _seed(access, now)
    except grpc.aio.AioRpcError as error:
        raise DemoRefused(str(refusal(error))) from error
    except GatewayStopped as error:
        raise DemoRefused(str(error)) from error


async def _seed(access: Access, now: datetime) -> Demo:
    async with Connection(access.booking, access.ops_token) as operator:
        org_id = await school.found(operator.directory)
        token = access.token_of(UUID(org_id))
        async with Connection(access.booking, token) as booking:
            made = await school.furnish(booking.directory, now)
            lesson = await lessons.book(booking, made, now)
        async with Connection(access.tracking, token) as tracking:
            await drives.drive(tracking, made, lesson, now)
        # Else an instructor has no figures for the first five minutes.
        await lessons.refresh_figures(operator.bookings)
    return Demo(org_id, made.lesson.id, made.instructors[0].id, lesson.id)
