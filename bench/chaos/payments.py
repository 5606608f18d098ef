"""Money over crashes: nobody is charged, given back to or paid twice, and no cent is lost.

    ./dev run python bench/chaos/payments.py
    ./dev run python bench/chaos/payments.py --quick
    ./dev run python bench/chaos/payments.py --model 100000

The payments service is killed at each place of CreatePayment, RefundPayment and CreatePayout; then
at chance, and PostgreSQL with it, while many pay, are given back to and are paid over a Stripe that
drops and spoils answers; callers repeat what was not answered with the same request_id. Then 32
refunds of 60 % run at once on each of many payments. At the end Stripe's counts are held against
the tables. With --model, instead, so many random steps of hypothesis are held against a plain model
of a school's money. Prints a table and last one line of JSON. Exit code 1: a promise was not kept.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import grpc
import psycopg
from hypothesis import Phase, settings

from driveflow.payments.v1 import payments_pb2 as pb
from libs.errors import DomainError
from tests import postgres
from tests.payments.chaos.counter import counter
from tests.payments.chaos.crashing import RETRIES, Call, Site, site
from tests.payments.chaos.launcher import METHODS, PLACES
from tests.payments.chaos.machine import run_machine
from tests.postgres import Database

STEPS = 50
AT_ONCE = 2
WORKERS = 8
RACERS = 32
PATIENCE_S = 90.0
QUICK = {"kills": 2, "journeys": 40, "service_kills": 3, "database_kills": 2, "races": 10}
FAULTS = {"cut_after": 0.05, "error_after": 0.05, "error_saved": 0.05, "hang_after": 0.01}
"""Chances of each, of a POST to Stripe."""
PASSING = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)
Answer = TypeVar("Answer")


def main() -> None:
    """Run it and say how it went."""
    options = _options()
    began = time.monotonic()
    with postgres.embedded_server() as server, tempfile.TemporaryDirectory() as folder:
        database = postgres.make_template(server)
        if options.model:
            result = model(database, Path(folder), options.model)
        else:
            result = asyncio.run(run(options, database, Path(folder)))
    result |= {"seed": options.seed, "seconds": round(time.monotonic() - began)}
    _print(result)
    sys.exit(0 if result["ok"] else 1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--kills", type=int, default=50, help="at each place of each method")
    add("--journeys", type=int, default=400, help="of payments under load")
    add("--service-kills", type=int, default=20)
    add("--database-kills", type=int, default=5)
    add("--races", type=int, default=200, help="payments with refunds at once")
    add("--model", type=int, default=0, metavar="STEPS", help="random steps, and nothing else")
    add("--quick", action="store_true", help="a minute or two")
    add("--seed", type=int, default=time.time_ns() % 1_000_000)
    options = parser.parse_args()
    if options.quick:
        vars(options).update(QUICK)
    return options


async def run(options: argparse.Namespace, database: Database, folder: Path) -> dict[str, object]:
    """All of it but the model."""
    async with site(database, folder) as place:
        result = await deaths(place, options.kills)
        faults = await _verdict(place, "deaths")
        result |= await load(place, options, random.Random(options.seed))
        faults += await _verdict(place, "load")
        result |= await races(place, options.races)
        faults += await _verdict(place, "races")
    result |= place.town.fake.counts()
    wrong = [name for name in ("answers_differ", "unanswered", "more_winners") if result[name]]
    return {"ok": not faults and not wrong, "faults": faults[:20], "wrong": wrong, **result}


async def _verdict(place: Site, what: str) -> list[str]:
    place.town.fake.clear_faults()
    await place.settle()
    faults = await place.faults()
    _say(f"{what}: {faults or 'well'}")
    return faults


# --- deaths at chosen places -------------------------------------------------------------------


async def deaths(place: Site, kills: int) -> dict[str, object]:
    """Each method dies so often at each place; each caller repeats its request."""
    done: Counter[str] = Counter()
    differ = unanswered = 0
    for method in METHODS:
        for where in PLACES:
            for _ in range(kills):
                calls = await _prepared(place, method)
                with place.deaf():
                    await place.crash(calls, where, passing=AT_ONCE)
                    unanswered += await _finished(place, calls)
                    await place.settle()
                    differ += await _repeated(place, calls)
                await _paid(place, calls)
                done[method] += 1
            _say(f"{method} {where}: {kills} deaths")
    return {
        "deaths": done.total(),
        "retries_each": RETRIES,
        "answers_differ": differ,
        "unanswered": unanswered,
    }


async def _prepared(place: Site, method: str) -> list[Call]:
    if method == "CreatePayment":
        return [await place.asking() for _ in range(AT_ONCE)]
    if method == "RefundPayment":
        return [place.refunding(each, 3_000) for each in await place.paid(AT_ONCE)]
    return [place.paying_out(each) for each in await place.driven(AT_ONCE)]


async def _finished(place: Site, calls: Sequence[Call]) -> int:
    """How many had no answer after all their retries."""
    missing = 0
    for call in calls:
        try:
            await place.finish(call, RETRIES)
        except AssertionError:
            missing += 1
    return missing


async def _repeated(place: Site, calls: Sequence[Call]) -> int:
    """How many were answered in different ways, or under another's id."""
    other = {
        "CreatePayment": {"booking_id": str(uuid4())},
        "RefundPayment": {"reason": "another"},
        "CreatePayout": {"instructor_id": str(uuid4())},
    }
    differ = 0
    for call in calls:
        try:
            for _ in range(RETRIES):
                await place.repeated(call, **other[call.method])
        except AssertionError as error:
            _say(str(error))
            differ += 1
    return differ


async def _paid(place: Site, calls: Sequence[Call]) -> None:
    for call in calls:
        if call.method == "CreatePayment" and call.answers:
            place.town.fake.confirm(call.answers[-1].payment.stripe_payment_intent_id)


# --- under load, killed at chance ----------------------------------------------------------------


async def load(place: Site, options: argparse.Namespace, rng: random.Random) -> dict[str, object]:
    """Payments from the first word to the payout, while services die and Stripe stutters."""
    for kind, chance in FAULTS.items():
        place.town.fake.fault(kind, method="POST", times=None, chance=chance, delay_s=3.0)
    kills = ["service"] * options.service_kills + ["database"] * options.database_kills
    rng.shuffle(kills)
    left = iter(range(options.journeys))
    done: list[int] = []
    workers = [asyncio.create_task(_works(place, left, done)) for _ in range(WORKERS)]
    for number, victim in enumerate(kills):
        while len(done) < options.journeys * number // (len(kills) + 1):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        await asyncio.sleep(rng.uniform(0, 0.3))
        await _kill(place, victim)
    await asyncio.gather(*workers)
    return {
        "journeys": len(done),
        "service_kills": kills.count("service"),
        "database_kills": kills.count("database"),
    }


async def _works(place: Site, left: Iterator[int], done: list[int]) -> None:
    for number in left:
        await _journey(place, number)
        done.append(number)


async def _journey(place: Site, number: int) -> None:
    """A payment is asked for and paid; a third goes back, a third is paid out, a third both."""
    call = await _patiently(place.asking)
    payment = (await _answered(place, call)).payment
    place.town.fake.confirm(payment.stripe_payment_intent_id)
    await _patiently(lambda: place.heard([payment.id]))
    if number % 3:
        await _patiently(lambda: place.drove(payment))
        await _answered(place, place.paying_out(payment))
    if number % 3 != 1:
        await _answered(place, place.refunding(payment, 1_000))


async def _answered(place: Site, call: Call) -> pb.CreatePaymentResponse:
    """The answer; the same request again for as long as there is none."""
    give_up = time.monotonic() + PATIENCE_S
    while (code := await call.once(place.stub)) is not grpc.StatusCode.OK:
        if code not in PASSING or time.monotonic() > give_up:
            raise AssertionError(f"{call.method} was answered {code}")
        await asyncio.sleep(0.1)
    answer: pb.CreatePaymentResponse = call.answers[-1]
    return answer


async def _patiently(work: Callable[[], Awaitable[Answer]]) -> Answer:
    """Its result, once what it needs is there again."""
    give_up = time.monotonic() + PATIENCE_S
    while True:
        try:
            return await work()
        except (psycopg.Error, grpc.aio.AioRpcError, DomainError):
            if time.monotonic() > give_up:
                raise
            await asyncio.sleep(0.1)


async def _kill(place: Site, victim: str) -> None:
    if victim == "service":
        place.process.kill9()
    else:
        embedded = place.town.database.server.embedded
        assert embedded is not None
        await asyncio.to_thread(embedded.kill9)
        await asyncio.to_thread(embedded.start)
    _say(f"{victim} killed")


# --- refunds at once -----------------------------------------------------------------------------


async def races(place: Site, count: int) -> dict[str, object]:
    """On each payment 32 refunds of 60 % at once; one of them can be."""
    winners: Counter[int] = Counter()
    for payment in await place.paid(count):
        calls = [place.refunding(payment, payment.amount_cents * 60 // 100) for _ in range(RACERS)]
        codes = await asyncio.gather(*(call.once(place.stub) for call in calls))
        winners[codes.count(grpc.StatusCode.OK)] += 1
    more = sum(times for won, times in winners.items() if won != 1)
    return {"races": count, "one_winner": winners[1], "more_winners": more}


# --- the model -----------------------------------------------------------------------------------


def model(database: Database, folder: Path, steps: int) -> dict[str, object]:
    """So many random steps, in examples of STEPS; the first that differs ends it."""
    logging.disable(logging.CRITICAL)
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        till = runner.run(stack.enter_async_context(counter(database, folder)))
        chosen = settings(
            max_examples=steps // STEPS,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            phases=[Phase.generate, Phase.shrink],
        )
        try:
            run_machine(till, runner, chosen)
            faults: list[str] = []
        except AssertionError as error:
            faults = [str(error), *getattr(error, "__notes__", [])]
        runner.run(stack.aclose())
    return {"ok": not faults, "faults": faults, "examples": steps // STEPS, "steps": steps}


def _print(result: dict[str, object]) -> None:
    print(f"\n{'figure':<32}{'':>9}")
    for name, value in result.items():
        if isinstance(value, int):
            print(f"{name:<32}{value:>9,}")
    print(json.dumps(result))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
