"""No false alarm in a day: 288 scheduled runs on a healthy stack under load.

    ./dev run python bench/chaos/monitor.py [--runs N]

A whole local stack with its demo school; callers search, list, book and cancel, cars stream GPS.
The runs of the monitor's schedule go back to back: only its clock goes on, five minutes each time;
all figures are those of the database. Prints what each check came to and last one line of JSON.
Exit code 1: an alert fired.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import SecretStr

from driveflow.booking.v1 import booking_pb2, directory_pb2
from driveflow.monitor.v1 import alerts_pb2
from libs.client import Connection
from libs.local.paths import ROOT
from libs.local.stack import SOURCES, Stack
from services.monitor.__main__ import Parts, Settings, assemble
from services.monitor.model.checks import Check, Verdict
from tests.postgres import free_port
from tests.serving import Clock

RUNS = 288
EVERY = timedelta(minutes=5)
CALLERS = 4
PAUSE_S = 0.02
"""Between two calls of a caller: a busy stack, not one that is overrun."""
CARS, MINUTES = 3, 10
PORTS = (*range(7), *range(11, 15))
AnswerT = TypeVar("AnswerT")


@dataclass
class Load:
    """What the callers have done."""

    calls: int = 0
    refused: int = 0

    async def ask(self, call: Awaitable[AnswerT]) -> AnswerT:
        """Await a call, count it, and pause."""
        self.calls += 1
        answer = await call
        await asyncio.sleep(PAUSE_S)
        return answer


async def book(
    load: Load, connection: Connection, demo: dict[str, str], dice: random.Random
) -> None:
    """Search, list, look, hold and cancel, for ever."""
    bookings = connection.bookings
    listed = directory_pb2.ListStudentsRequest()
    students = await load.ask(connection.directory.ListStudents(listed))
    while True:
        start = datetime.now(UTC) + timedelta(days=dice.randint(15, 60))
        wanted = booking_pb2.SearchSlotsRequest(
            service_id=demo["service_id"],
            start_time=Timestamp(seconds=int(start.timestamp())),
            end_time=Timestamp(seconds=int((start + timedelta(days=2)).timestamp())),
            page_size=20,
        )
        slots = await load.ask(bookings.SearchSlots(wanted))
        await load.ask(bookings.ListBookings(booking_pb2.ListBookingsRequest()))
        if not slots.slots:
            continue
        hold = booking_pb2.HoldSlotRequest(
            slot_token=dice.choice(slots.slots).slot_token,
            student_id=dice.choice(students.students).id,
            request_id=str(uuid4()),
        )
        held = await load.ask(bookings.HoldSlot(hold))
        look = booking_pb2.GetBookingRequest(booking_id=held.id)
        await load.ask(bookings.GetBooking(look))
        cancel = booking_pb2.CancelBookingRequest(booking_id=held.id, reason="load")
        await load.ask(bookings.CancelBooking(cancel))


async def call(load: Load, connection: Connection, demo: dict[str, str], seed: int) -> None:
    """A caller; what is refused (another was faster) is part of a day."""
    dice = random.Random(seed)
    while True:
        with suppress(grpc.aio.AioRpcError):
            await book(load, connection, demo, dice)
        load.refused += 1


async def drive(environment: dict[str, str]) -> None:
    """Cars that stream, one fleet after the other."""
    seed = 0
    while True:
        seed += 1
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-c", "from libs.cli import main; main()", "simulate"),
            *("--cars", str(CARS), "--minutes", str(MINUTES), "--seed", str(seed)),
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            await process.wait()
        except asyncio.CancelledError:
            process.terminate()
            await process.wait()
            raise
        await asyncio.sleep(1)


@asynccontextmanager
async def loaded(stack: Stack) -> AsyncIterator[Load]:
    """The stack is busy until the block ends."""
    load = Load()
    known = stack.environment()
    async with Connection(stack.address("booking"), known["DRIVEFLOW_TOKEN"]) as connection:
        tasks = [
            asyncio.create_task(call(load, connection, stack.demo, seed)) for seed in range(CALLERS)
        ]
        tasks.append(asyncio.create_task(drive({**os.environ, **known})))
        try:
            yield load
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def watching(stack: Stack, clock: Clock) -> AsyncIterator[Parts]:
    """A monitor in this process; the stack's own goes on with its real schedule."""
    settings = Settings(
        listen="127.0.0.1:0",
        dsn=SecretStr(stack.dsn("monitor")),
        jwks=str(stack.jwks),
        page_token_key=SecretStr(stack.secrets["page_token_key"]),
        service_key=str(stack.service_key("monitor")),
        services=",".join(f"{name}={stack.address(name)}" for name in SOURCES),
        metrics_sources=",".join(f"{name}={stack.metrics_address(name)}" for name in SOURCES),
    )
    async with AsyncExitStack() as opened:
        yield await assemble(settings, opened, clock)


async def alerts(stack: Stack) -> Sequence[alerts_pb2.Alert]:
    """Those that have fired."""
    token = stack.environment()["DRIVEFLOW_OPS_TOKEN"]
    async with Connection(stack.address("monitor"), token) as connection:
        answer = await connection.monitor.ListAlerts(alerts_pb2.ListAlertsRequest(page_size=1_000))
    return answer.alerts


async def soak(stack: Stack, runs: int) -> dict[str, float]:
    """All runs; prints what they came to."""
    clock = Clock()
    verdicts: Counter[tuple[str, Verdict]] = Counter()
    last: dict[tuple[str, Verdict], Check] = {}
    async with watching(stack, clock) as parts, loaded(stack) as load:
        for number in range(runs):
            clock.ahead += EVERY
            report = await parts.schedule.run()
            for check in report.checks:
                verdicts[check.question.name, check.verdict] += 1
                last[check.question.name, check.verdict] = check
            if number % 24 == 23:
                say(f"{(number + 1) // 12} hours, {load.calls} calls")
    fired = await alerts(stack)
    print(f"\n{'check':24}{'ok':>6}{'warning':>9}{'critical':>10}{'unknown':>9}")
    for name in sorted({name for name, _ in verdicts}):
        counts = [verdicts[name, each] for each in (Verdict.OK, Verdict.WARNING)]
        counts += [verdicts[name, each] for each in (Verdict.CRITICAL, Verdict.UNKNOWN)]
        print(f"{name:24}{counts[0]:6}{counts[1]:9}{counts[2]:10}{counts[3]:9}")
    for (name, verdict), check in sorted(last.items()):
        if verdict is not Verdict.OK:
            print(f"{verdict.value} {name}: {check.summary}")
    for alert in fired:
        print(f"FIRED {alert.rule}: {alert.summary}")
    print(f"{load.calls} calls meanwhile, {load.refused} refused")
    passing = sum(n for (_, v), n in verdicts.items() if v in (Verdict.WARNING, Verdict.CRITICAL))
    return {"runs": runs, "alerts": len(fired), "passing_verdicts": passing, "calls": load.calls}


def say(line: str) -> None:
    """Progress; not part of the result."""
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=RUNS, metavar="N")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="driveflow-bench-") as folder:
        Path(folder).chmod(0o755)
        stack = Stack(Path(folder) / "stack")
        with stack.locked():
            stack.start(free_port(PORTS))
            try:
                found = asyncio.run(soak(stack, options.runs))
            finally:
                stack.stop()
    print(json.dumps(found))
    if found["alerts"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
