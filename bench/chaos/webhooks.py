"""Histories of payments, told of in order and otherwise: the same comes of both.

    ./dev run python bench/chaos/webhooks.py
    ./dev run python bench/chaos/webhooks.py --quick

A history is a random walk of a payment at Stripe's fake: cards refused, banks that take their time,
refunds in parts that succeed, wait and fail, disputes. Two payments have each. Of the first the
service is told in order; of the second shuffled, three times, and a tenth not at all until it is
fetched. In the end their states, refunds, disputes and ledgers are held against each other and
against the walk. Prints a table and last one line of JSON. Exit code 1: a promise was not kept.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, replace
from pathlib import Path

from tests import postgres
from tests.booking import stories as booking_stories
from tests.payments import hooks
from tests.payments.histories import Stage, Verdict, stage
from tests.payments.serving import Town, town
from tests.payments.stories import School
from tests.postgres import Database

A_SCHOOL, TICKS = 25, 14
"""Histories of a school, all at once, and how often something may happen in each."""
FAULTS_SHOWN = 10


def main() -> None:
    """Run it and say how it went."""
    options = _options()
    began = time.monotonic()
    with (
        postgres.embedded_server() as server,
        postgres.copied(postgres.make_template(server)) as database,
        tempfile.TemporaryDirectory(prefix="driveflow-chaos-") as folder,
    ):
        verdict = asyncio.run(run(database, Path(folder), options.histories, options.seed))
    report(verdict)
    ok = not (verdict.faults or verdict.doubled or verdict.unbalanced)
    result = {"ok": ok, **asdict(verdict), "faults": verdict.faults[:FAULTS_SHOWN]}
    seconds = round(time.monotonic() - began)
    print(json.dumps({**result, "seed": options.seed, "seconds": seconds}))
    sys.exit(0 if ok else 1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--histories", type=int, default=500)
    add("--quick", action="store_true", help="a tenth of it")
    add("--seed", type=int, default=time.time_ns() % 1_000_000)
    options = parser.parse_args()
    if options.quick:
        options.histories = 50
    return options


async def run(database: Database, folder: Path, histories: int, seed: int) -> Verdict:
    """So many histories, each school's at once."""
    found = Verdict()
    async with (
        town(database, folder) as place,
        place.booking() as booking,
        place.payments() as payments,
    ):
        while found.histories < histories:
            async with AsyncExitStack() as connections:
                booked = await booking_stories.School.furnished(
                    replace(booking, connections=connections)
                )
                service = replace(payments, connections=connections)
                school = await School.furnished(service, booked, place.fake)
                count = min(A_SCHOOL, histories - found.histories)
                async with _stage(school, place, folder, seed + found.histories) as one:
                    _add(found, await one.run(count, TICKS, sweep=True))
            print(f"{found.histories} of {histories} histories", file=sys.stderr, flush=True)
    return found


@asynccontextmanager
async def _stage(school: School, place: Town, folder: Path, seed: int) -> AsyncIterator[Stage]:
    async with (
        hooks.endpoint(school.service, place.webhook_port, "http") as endpoint,
        stage(school, endpoint, folder, seed) as one,
    ):
        yield one


def _add(found: Verdict, more: Verdict) -> None:
    for name, value in asdict(more).items():
        setattr(found, name, getattr(found, name) + value)


def report(verdict: Verdict) -> None:
    """What there was, and what was found."""
    for name, value in asdict(verdict).items():
        if name != "faults":
            print(f"{name.replace('_', ' '):12}{value:>10,}")
    for fault in verdict.faults[:FAULTS_SHOWN]:
        print(fault)


if __name__ == "__main__":
    main()
