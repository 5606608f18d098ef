"""The demo school: people, cars, prices, a fortnight of lessons, drives, payments; all by RPC."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import grpc

from libs.client import Connection, refusal
from libs.gateway import GatewayStopped
from libs.local.demo import drives, lessons, money, school


class DemoRefused(Exception):
    """A service refused a part of it; the message says why."""


@dataclass(frozen=True, slots=True)
class Demo:
    """UUIDs of some of what was made."""

    org_id: str
    service_id: str
    instructor_id: str
    lesson_id: str
    payment_instructor_id: str
    """To whom something was paid out."""


@dataclass(frozen=True, slots=True)
class Access:
    """Where the services are, and who may make a school."""

    booking: str
    payments: str
    tracking: str
    stripe_key: str
    stripe_url: str
    """Empty for Stripe itself."""
    ops_token: str
    token_of: Callable[[UUID], str]
    """The token of someone who may do everything in a school."""


async def seed(access: Access, now: datetime) -> Demo:
    """Make a new school as of `now`. Raises DemoRefused."""
    try:
        return await _seed(access, now)
    except grpc.aio.AioRpcError as error:
        raise DemoRefused(str(refusal(error))) from error
    except (GatewayStopped, money.MoneyStuck) as error:
        raise DemoRefused(str(error)) from error


async def _seed(access: Access, now: datetime) -> Demo:
    async with Connection(access.booking, access.ops_token) as operator:
        org_id = await school.found(operator.directory)
        token = access.token_of(UUID(org_id))
        async with (
            Connection(access.booking, token) as booking,
            Connection(access.payments, token) as payments,
        ):
            made = await school.furnish(booking.directory, now)
            till = money.till(booking, payments, access.stripe_key, access.stripe_url)
            await money.open_accounts(booking, made)
            await money.pay_out_first(till, made, now)
            lesson = await lessons.book(booking, made, now)
            await money.take_some(till, made)
        async with Connection(access.tracking, token) as tracking:
            await drives.drive(tracking, made, lesson, now)
        # Else an instructor has no figures for the first five minutes.
        await lessons.refresh_figures(operator.bookings)
    paid = made.instructors[-1].id
    return Demo(org_id, made.lesson.id, made.instructors[0].id, lesson.id, paid)
