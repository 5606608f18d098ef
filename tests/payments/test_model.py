"""A school's money, moved in any order by everyone who may: the books are those of a plain model.

bench/chaos/payments.py --model is the same for longer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from hypothesis import settings

from tests.payments.chaos.counter import Counter, counter
from tests.payments.chaos.machine import run_machine
from tests.postgres import Database
from tests.tracking.stories import rows

EXAMPLES, STEPS = 20, 25


@pytest.fixture
def till(database: Database, tmp_path: Path) -> Iterator[tuple[Counter, asyncio.Runner]]:
    """Payments without a server, and the loop that it lives in."""
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        made = runner.run(stack.enter_async_context(counter(database, tmp_path)))
        yield made, runner
        runner.run(stack.aclose())


def test_the_books_are_those_of_the_model_whatever_happens_in_whatever_order(
    till: tuple[Counter, asyncio.Runner],
) -> None:
    chosen = settings(max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None)
    run_machine(*till, chosen)


async def test_the_service_may_neither_change_nor_delete_an_entry(database: Database) -> None:
    query = """SELECT privilege FROM unnest(%s::text[]) AS privilege
                WHERE has_table_privilege('payments', 'payments."LedgerEntry"', privilege)"""
    every = ["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "TRIGGER"]
    assert await rows(database.admin_dsn, query, every) == [("SELECT",)]
