"""What is cached is right: never another school's, and a moment after a change never the old."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from libs import background, cache, calls, consistency, pooling
from libs.cache import Cache
from libs.calls import Call
from libs.consistency import Token
from libs.orgs import Orgs
from tests.libs.conftest import bare_settings
from tests.postgres import Database
from tests.serving import OTHER_SCHOOL, SCHOOL
from tests.waiting import eventually

KIND = "thing"
THING = UUID(int=7)


@dataclass
class Fill:
    """A fill that counts; it waits for `gate`, and answers what it was to answer when it began."""

    value: object = "first"
    gate: asyncio.Event | None = None
    begun: int = 0

    async def __call__(self) -> object:
        self.begun += 1
        value = self.value
        if self.gate is not None:
            await self.gate.wait()
        if isinstance(value, Exception):
            raise value
        return value


@dataclass
class Process:
    """What one process of a service has."""

    database: Database
    orgs: Orgs
    stack: AsyncExitStack
    clock: list[float] = field(default_factory=lambda: [0.0])

    async def cache(self, **options: Any) -> Cache:
        """A cache with its own LISTEN connection, as another process has it."""
        made = Cache(self.orgs.pool, clock=lambda: self.clock[0], **options)
        background.run(self.stack, made.run())
        await eventually(lambda: made.listening)
        return made

    async def change(self, *ids: UUID | str, org_id: UUID = SCHOOL) -> Token:
        """Commit something that invalidates; the token of the write."""
        call = Call("test/Change")
        calls.begin(call)
        async with self.orgs.write(org_id) as conn:
            await cache.invalidate(conn, org_id, KIND, *ids)
        assert call.consistency is not None
        return consistency.parse(call.consistency)

    def cut(self) -> int:
        """End the connections that listen; how many there were."""
        with psycopg.connect(self.database.admin_dsn, autocommit=True) as admin:
            return len(
                admin.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE application_name = 'tracking cache' AND datname = current_database()"
                ).fetchall()
            )


@pytest.fixture
async def process(database: Database, tmp_path: Path) -> AsyncIterator[Process]:
    settings = bare_settings(tmp_path)
    pool = pooling.create("tracking", database.dsn("tracking"), settings, max_size=8)
    async with pool, AsyncExitStack() as stack:
        yield Process(database, Orgs(pool), stack)


async def turn() -> None:
    """Let what is ready run."""
    for _ in range(5):
        await asyncio.sleep(0)


# --- hits ---


async def test_a_value_is_read_once_and_handed_out_without_a_wait(process: Process) -> None:
    kept, fill = await process.cache(), Fill()
    assert kept.hit(SCHOOL, KIND, THING) is None
    assert await kept.get(SCHOOL, KIND, THING, fill) == "first"
    assert await kept.get(SCHOOL, KIND, THING, fill) == "first"
    assert kept.hit(SCHOOL, KIND, THING) == "first"
    assert kept.hit(SCHOOL, KIND, str(THING).upper()) == "first"
    assert kept.hit(SCHOOL, "other", THING) is None
    assert fill.begun == 1


async def test_what_is_not_there_is_asked_for_again(process: Process) -> None:
    kept, fill = await process.cache(), Fill(None)
    assert await kept.get(SCHOOL, KIND, THING, fill) is None
    fill.value = "there now"
    assert await kept.get(SCHOOL, KIND, THING, fill) == "there now"


async def test_a_value_is_kept_for_five_minutes_give_or_take_a_tenth(process: Process) -> None:
    kept, fill = await process.cache(), Fill()
    for number in range(200):
        await kept.get(SCHOOL, KIND, str(number), fill)
    left = []
    for process.clock[0] in (269.0, 300.0, 331.0):
        left.append(sum(kept.hit(SCHOOL, KIND, str(number)) is not None for number in range(200)))
    assert left[0] == 200
    assert 60 < left[1] < 140
    assert left[2] == 0


async def test_the_values_used_longest_ago_make_room(process: Process) -> None:
    kept, fill = await process.cache(entries_max=3), Fill()
    for name in ("a", "b", "c"):
        await kept.get(SCHOOL, KIND, name, fill)
    kept.hit(SCHOOL, KIND, "a")
    await kept.get(SCHOOL, KIND, "d", fill)
    there = [name for name in "abcd" if kept.hit(SCHOOL, KIND, name)]
    assert there == ["a", "c", "d"]


# --- schools ---


@dataclass(frozen=True)
class Owned:
    org_id: UUID


async def test_a_school_never_gets_anothers_value(process: Process) -> None:
    kept = await process.cache()
    assert await kept.get(SCHOOL, KIND, THING, Fill("ours")) == "ours"
    assert kept.hit(OTHER_SCHOOL, KIND, THING) is None
    assert await kept.get(OTHER_SCHOOL, KIND, THING, Fill("theirs")) == "theirs"
    assert kept.hit(SCHOOL, KIND, THING) == "ours"


async def test_a_fill_that_reads_another_schools_value_fails(process: Process) -> None:
    kept = await process.cache()
    with pytest.raises(RuntimeError, match="another school"):
        await kept.get(SCHOOL, KIND, THING, Fill(Owned(OTHER_SCHOOL)))
    assert kept.hit(SCHOOL, KIND, THING) is None
    assert await kept.get(SCHOOL, KIND, THING, Fill(Owned(SCHOOL))) == Owned(SCHOOL)


async def test_an_entry_that_got_under_another_schools_key_is_not_handed_out(
    process: Process,
) -> None:
    kept = await process.cache()
    await kept.get(OTHER_SCHOOL, KIND, THING, Fill("theirs"))
    kept._entries[SCHOOL.int, KIND, THING.int] = kept._entries[OTHER_SCHOOL.int, KIND, THING.int]
    assert kept.hit(SCHOOL, KIND, THING) is None
    assert await kept.get(SCHOOL, KIND, THING, Fill("ours")) == "ours"


# --- single flight ---


async def test_five_hundred_misses_at_once_are_one_fill(process: Process) -> None:
    kept, fill = await process.cache(), Fill(gate=asyncio.Event())
    asking = [asyncio.create_task(kept.get(SCHOOL, KIND, THING, fill)) for _ in range(250)]
    await turn()
    asking += [asyncio.create_task(kept.get(SCHOOL, KIND, THING, fill)) for _ in range(250)]
    await turn()
    opened(fill).set()
    assert await asyncio.gather(*asking) == ["first"] * 500
    assert fill.begun == 1


def opened(fill: Fill) -> asyncio.Event:
    assert fill.gate is not None
    return fill.gate


async def test_who_asked_first_and_gives_up_leaves_the_others_their_answer(
    process: Process,
) -> None:
    kept, fill = await process.cache(), Fill(gate=asyncio.Event())
    asking = [asyncio.create_task(kept.get(SCHOOL, KIND, THING, fill)) for _ in range(3)]
    await turn()
    asking[0].cancel()
    await turn()
    opened(fill).set()
    results = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1:] == ["first", "first"]
    assert fill.begun == 1


async def test_a_value_is_kept_though_all_who_asked_gave_up(process: Process) -> None:
    kept, fill = await process.cache(), Fill(gate=asyncio.Event())
    asking = asyncio.create_task(kept.get(SCHOOL, KIND, THING, fill))
    await turn()
    asking.cancel()
    await turn()
    opened(fill).set()
    await eventually(lambda: kept.hit(SCHOOL, KIND, THING))
    assert fill.begun == 1


async def test_a_fill_that_fails_fails_for_all_who_wait_and_is_not_kept(process: Process) -> None:
    kept, fill = await process.cache(), Fill(ZeroDivisionError(), gate=asyncio.Event())
    asking = [asyncio.create_task(kept.get(SCHOOL, KIND, THING, fill)) for _ in range(3)]
    await turn()
    opened(fill).set()
    results = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(result) for result in results] == [ZeroDivisionError] * 3
    assert fill.begun == 1
    fill.value = "mended"
    assert await kept.get(SCHOOL, KIND, THING, fill) == "mended"


async def test_a_fill_has_no_part_in_its_first_callers_deadline(process: Process) -> None:
    kept = await process.cache()
    calls.begin(Call("test/Read", request_id="mine", deadline=time.monotonic() + 0.001))

    async def fill() -> Call | None:
        return calls.current()

    seen = await kept.get(SCHOOL, KIND, THING, fill)
    assert seen is not None
    assert (seen.method, seen.request_id, seen.deadline) == ("test/Read", "mine", None)


async def test_fills_end_with_the_process(process: Process) -> None:
    kept, fill = await process.cache(), Fill(gate=asyncio.Event())
    asking = asyncio.create_task(kept.get(SCHOOL, KIND, THING, fill))
    await turn()
    await process.stack.aclose()
    with pytest.raises(asyncio.CancelledError):
        await asking


# --- invalidation ---


async def test_a_change_is_forgotten_by_all_processes_within_a_second(process: Process) -> None:
    ours, theirs, fill = await process.cache(), await process.cache(), Fill()
    other = uuid4()
    for each in (ours, theirs):
        await each.get(SCHOOL, KIND, THING, fill)
        await each.get(SCHOOL, KIND, other, fill)
        await each.get(OTHER_SCHOOL, KIND, THING, fill)
    await process.change(THING)
    await eventually(lambda: not ours.hit(SCHOOL, KIND, THING), within_s=1)
    await eventually(lambda: not theirs.hit(SCHOOL, KIND, THING), within_s=1)
    for each in (ours, theirs):
        assert each.hit(SCHOOL, KIND, other)
        assert each.hit(OTHER_SCHOOL, KIND, THING)


async def test_a_change_that_is_rolled_back_forgets_nothing(process: Process) -> None:
    kept, fill = await process.cache(), Fill()
    marker = uuid4()
    await kept.get(SCHOOL, KIND, THING, fill)
    await kept.get(SCHOOL, KIND, marker, fill)
    with pytest.raises(ZeroDivisionError):
        await roll_back(process)
    await process.change(marker)
    await eventually(lambda: not kept.hit(SCHOOL, KIND, marker))
    assert kept.hit(SCHOOL, KIND, THING)


async def roll_back(process: Process) -> None:
    async with process.orgs.write(SCHOOL) as conn:
        await cache.invalidate(conn, SCHOOL, KIND, THING)
        await conn.execute(b"SELECT 1")
        raise ZeroDivisionError


@pytest.mark.parametrize(
    "ids", [[str(n) for n in range(101)], ["x" * 4_000, "y" * 4_000]], ids=["many", "long"]
)
async def test_more_than_fits_forgets_all_of_the_kind_in_the_school(
    process: Process, ids: list[str]
) -> None:
    kept, fill = await process.cache(), Fill()
    for org_id, kind in ((SCHOOL, KIND), (OTHER_SCHOOL, KIND), (SCHOOL, "other")):
        await kept.get(org_id, kind, THING, fill)
    await process.change(*ids)
    await eventually(lambda: not kept.hit(SCHOOL, KIND, THING))
    assert kept.hit(OTHER_SCHOOL, KIND, THING)
    assert kept.hit(SCHOOL, "other", THING)


async def test_a_hundred_things_are_forgotten_by_name(process: Process) -> None:
    kept, fill = await process.cache(), Fill()
    ids = [uuid4() for _ in range(100)]
    for each in (*ids, THING):
        await kept.get(SCHOOL, KIND, each, fill)
    await process.change(*ids)
    await eventually(lambda: not any(kept.hit(SCHOOL, KIND, each) for each in ids))
    assert kept.hit(SCHOOL, KIND, THING)


@pytest.mark.parametrize("payload", ["", "x", "[]", "[1, 2]", '["", "thing"]', '{"a": 1, "b": 2}'])
async def test_after_a_message_that_it_does_not_know_nothing_is_sure(
    process: Process, payload: str
) -> None:
    kept = await process.cache()
    await kept.get(SCHOOL, KIND, THING, Fill())
    async with pooling.connection(process.orgs.pool) as conn:
        await conn.execute(
            b"SELECT pg_notify(%s::text, %s::text)", ["driveflow_cache_tracking", payload]
        )
    await eventually(lambda: not kept.hit(SCHOOL, KIND, THING))


async def test_a_fill_that_began_before_the_change_is_not_kept(process: Process) -> None:
    kept, old = await process.cache(), Fill("old", gate=asyncio.Event())
    marker = uuid4()
    await kept.get(SCHOOL, KIND, marker, Fill())
    before = asyncio.create_task(kept.get(SCHOOL, KIND, THING, old))
    await turn()
    await process.change(THING, marker)
    await eventually(lambda: not kept.hit(SCHOOL, KIND, marker))
    async with asyncio.timeout(5):
        assert await kept.get(SCHOOL, KIND, THING, Fill("new")) == "new"
    opened(old).set()
    assert await before == "old"
    assert kept.hit(SCHOOL, KIND, THING) == "new"


async def test_a_late_fill_is_not_kept_when_nobody_asked_since(process: Process) -> None:
    kept, old = await process.cache(), Fill("old", gate=asyncio.Event())
    marker = uuid4()
    await kept.get(SCHOOL, KIND, marker, Fill())
    before = asyncio.create_task(kept.get(SCHOOL, KIND, THING, old))
    await turn()
    await process.change(marker, *(str(n) for n in range(101)))  # all of the kind
    await eventually(lambda: not kept.hit(SCHOOL, KIND, marker))
    opened(old).set()
    assert await before == "old"
    assert kept.hit(SCHOOL, KIND, THING) is None


# --- the connection that listens ---


async def test_a_cache_that_does_not_listen_is_bypassed(process: Process) -> None:
    deaf, fill = Cache(process.orgs.pool), Fill()
    assert [await deaf.get(SCHOOL, KIND, THING, fill) for _ in range(3)] == ["first"] * 3
    assert deaf.hit(SCHOOL, KIND, THING) is None
    assert fill.begun == 3


async def test_misses_at_once_are_two_fills_at_most_while_it_is_bypassed(process: Process) -> None:
    deaf, fill = Cache(process.orgs.pool), Fill(gate=asyncio.Event())
    asking = [asyncio.create_task(deaf.get(SCHOOL, KIND, THING, fill)) for _ in range(100)]
    await turn()
    fill.value = "second"
    asking += [asyncio.create_task(deaf.get(SCHOOL, KIND, THING, fill)) for _ in range(100)]
    await turn()
    opened(fill).set()
    assert await asyncio.gather(*asking) == ["first"] * 100 + ["second"] * 100
    assert fill.begun == 2


async def test_a_cut_connection_empties_the_cache_until_another_listens(process: Process) -> None:
    kept = await process.cache()
    for number in range(20):
        assert await kept.get(SCHOOL, KIND, THING, Fill(number)) == number
        assert process.cut() == 1
        await eventually(lambda: not kept.listening, within_s=1)
        assert await kept.get(SCHOOL, KIND, THING, Fill("bypass")) == "bypass"
        await eventually(lambda: kept.listening, within_s=3)
        assert kept.hit(SCHOOL, KIND, THING) is None


async def test_what_changed_while_nobody_listened_is_not_handed_out(process: Process) -> None:
    kept, old = await process.cache(), Fill("old", gate=asyncio.Event())
    before = asyncio.create_task(kept.get(SCHOOL, KIND, THING, old))
    await turn()
    process.cut()
    await eventually(lambda: not kept.listening)
    deaf = asyncio.create_task(kept.get(SCHOOL, KIND, "deaf", old))
    await turn()
    await process.change(THING)
    await eventually(lambda: kept.listening)
    opened(old).set()
    assert [await before, await deaf] == ["old", "old"]
    assert kept.hit(SCHOOL, KIND, THING) is None
    assert kept.hit(SCHOOL, KIND, "deaf") is None


async def test_a_connection_that_no_longer_answers_counts_as_lost(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = await process.cache()
    await kept.get(SCHOOL, KIND, THING, Fill())
    answer, silent = consistency.position, asyncio.Event()

    async def silence(conn: pooling.Connection) -> Token:
        await silent.wait()
        return await answer(conn)

    monkeypatch.setattr(consistency, "position", silence)
    await eventually(lambda: not kept.listening, within_s=2)
    assert kept.hit(SCHOOL, KIND, THING) is None
    silent.set()
    await eventually(lambda: kept.listening, within_s=2)


# --- consistency ---


async def test_a_value_serves_no_token_of_a_later_write(process: Process) -> None:
    kept, fill = await process.cache(), Fill("old")
    await kept.get(SCHOOL, KIND, THING, fill)
    token = await process.change("another")
    fill.value = "new"
    assert kept.hit(SCHOOL, KIND, THING) == "old"
    assert kept.hit(SCHOOL, KIND, THING, token) is None
    assert await kept.get(SCHOOL, KIND, THING, fill, at_least=token) == "new"
    assert kept.hit(SCHOOL, KIND, THING) == "new"


async def test_a_value_serves_the_tokens_of_writes_before_it(process: Process) -> None:
    kept = await process.cache()
    token = await process.change("another")
    await process.change("another")  # the log moves on
    fill = Fill()

    async def served() -> bool:
        await kept.get(SCHOOL, KIND, THING, fill, at_least=token)
        return kept.hit(SCHOOL, KIND, THING, token) is not None

    await eventually(served, within_s=3)  # the cache learns it four times a second
    assert kept.hit(SCHOOL, KIND, THING, Token(token.timeline + 1, 0)) is None


async def test_who_has_a_token_does_not_join_a_fill_that_may_be_too_old(process: Process) -> None:
    kept, fill = await process.cache(), Fill("old", gate=asyncio.Event())
    before = asyncio.create_task(kept.get(SCHOOL, KIND, THING, fill))
    await turn()
    fill.value = "new"
    token = await process.change("another")
    after = [
        asyncio.create_task(kept.get(SCHOOL, KIND, THING, fill, at_least=token)) for _ in range(99)
    ]
    await turn()
    opened(fill).set()
    assert await before == "old"
    assert await asyncio.gather(*after) == ["new"] * 99
    assert fill.begun == 2


# --- at random ---

THINGS = 8
OPERATIONS = 2_000
STALE_S = 1.0


@dataclass
class Story:
    """What was written when, so that every read can be judged."""

    process: Process
    caches: list[Cache]
    chance: random.Random
    commits: dict[tuple[UUID, int], list[tuple[float, int]]] = field(default_factory=dict)
    tokens: dict[tuple[UUID, int], tuple[Token, int]] = field(default_factory=dict)
    found: list[str] = field(default_factory=list)
    hits: int = 0
    reads: int = 0
    token_reads: int = 0

    async def operate(self) -> None:
        key = (self.chance.choice((SCHOOL, OTHER_SCHOOL)), self.chance.randrange(THINGS))
        drawn = self.chance.random()
        if drawn < 0.15:
            await self.write(*key, fails=drawn < 0.03)
        elif drawn < 0.152:
            self.process.cut()
        else:
            await self.read(*key, with_token=drawn < 0.6)

    async def write(self, org_id: UUID, number: int, *, fails: bool) -> None:
        call = Call("test/Write")
        calls.begin(call)
        with suppress(ZeroDivisionError):
            async with self.process.orgs.write(org_id) as conn:
                await cache.invalidate(conn, org_id, KIND, str(number))
                changed = await conn.execute(
                    b"UPDATE thing SET version = version + 1"
                    b' WHERE "orgId" = %s AND id = %s RETURNING version',
                    [org_id, number],
                )
                row = await changed.fetchone()
                if fails:
                    raise ZeroDivisionError
            assert row is not None
            written = self.commits.setdefault((org_id, number), [])
            written.append((time.monotonic(), row[0]))
            if call.consistency is None:  # a late cancel of the call before met its statement
                return
            token = consistency.parse(call.consistency)
            if row[0] > self.tokens.get((org_id, number), (token, -1))[1]:
                self.tokens[org_id, number] = (token, row[0])

    async def read(self, org_id: UUID, number: int, *, with_token: bool) -> None:
        kept = self.chance.choice(self.caches)
        token, wanted = None, 0
        if with_token and (org_id, number) in self.tokens:
            token, wanted = self.tokens[org_id, number]
            self.token_reads += 1
        asked_at = time.monotonic()
        at_least = max(
            [v for at, v in self.commits.get((org_id, number), []) if at < asked_at - STALE_S],
            default=0,
        )
        self.hits += kept.hit(org_id, KIND, str(number), token) is not None
        self.reads += 1

        async def fill() -> tuple[UUID, int] | None:
            async with self.process.orgs.read(org_id) as conn:
                rows = await conn.execute(
                    b'SELECT "orgId", version FROM thing WHERE "orgId" = %s AND id = %s',
                    [org_id, number],
                )
                row = await rows.fetchone()
            await asyncio.sleep(self.chance.uniform(0, 0.02))  # a fill that comes late
            return row and (row[0], row[1])

        value = await kept.get(org_id, KIND, str(number), fill, at_least=token)
        if value is None or value[0] != org_id:
            self.found.append(f"wrong school: {value}")
        elif value[1] < wanted:
            self.found.append(f"older than the token: {value[1]} < {wanted}")
        elif value[1] < at_least:
            self.found.append(f"stale: {value[1]} < {at_least}")


async def test_at_random_nothing_is_wrong_and_nothing_stays_stale(process: Process) -> None:
    with psycopg.connect(process.database.admin_dsn, autocommit=True) as admin:
        admin.execute('CREATE TABLE tracking.thing ("orgId" uuid, id int, version int)')
        admin.execute("GRANT SELECT, UPDATE ON tracking.thing TO tracking")
        for org_id in (SCHOOL, OTHER_SCHOOL):
            admin.execute(
                "INSERT INTO tracking.thing SELECT %s, generate_series(0, %s), 0", [org_id, THINGS]
            )
    story = Story(process, [await process.cache() for _ in range(3)], random.Random(20))
    await asyncio.gather(*(work(story, OPERATIONS // 10) for _ in range(10)))
    assert story.found == []
    assert story.hits > 200
    assert story.token_reads > 500


async def work(story: Story, operations: int) -> None:
    for _ in range(operations):
        await asyncio.sleep(story.chance.uniform(0, 0.03))  # so that what is stale has time to be
        operation: Awaitable[None] = asyncio.create_task(story.operate())
        if story.chance.random() < 0.2:
            with suppress(TimeoutError):
                async with asyncio.timeout(story.chance.uniform(0, 0.01)):
                    await operation
        else:
            await operation
