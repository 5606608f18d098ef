"""Events: none is lost, each has its effect once and in order, and a school sees its own alone."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import grpc
import psycopg
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from driveflow.events.v1 import events_pb2 as pb
from libs import issuer, outbox
from libs.access import NIL_ORG
from libs.client import refusal
from libs.errors import InvalidArgument, Unavailable
from libs.events import Event, store, tenants
from libs.events.tidy import Tidy
from libs.pooling import Connection, connection
from libs.service_tokens import ServiceTokens
from tests import explaining
from tests.libs.eventing import TYPE, Platform, consuming, note, noted, running
from tests.postgres import Database
from tests.serving import OTHER_SCHOOL, SCHOOL
from tests.waiting import eventually

WORKERS = 8
TRANSACTIONS = 200
SLOW_S = 0.2


@pytest.fixture
async def platform(database: Database, tmp_path: Path) -> AsyncIterator[Platform]:
    async with running(database, tmp_path) as each:
        yield each


# --- order and slow commits --------------------------------------------------------------------


async def test_slow_commits_lose_no_event_and_keep_the_order_of_each_aggregate(
    platform: Platform,
) -> None:
    dice = random.Random(7)
    aggregates = [uuid4() for _ in range(12)]
    committed: list[tuple[str, int]] = []
    left = iter(range(TRANSACTIONS))
    rolled_back = range(0, TRANSACTIONS, 10)

    async def work() -> None:
        for number in left:
            aggregate = dice.choice(aggregates)
            async with connection(platform.producing.pool) as conn, conn.transaction():
                if number % 2:  # its number is given out before it waits for the aggregate
                    await conn.execute("SELECT pg_current_xact_id()")
                lock = "SELECT pg_advisory_xact_lock(%s)"
                await conn.execute(lock, (aggregates.index(aggregate),))
                version = await platform.emit_in(conn, aggregate)
                await asyncio.sleep(dice.uniform(0, SLOW_S))
                if number in rolled_back:
                    raise psycopg.Rollback
                committed.append((str(aggregate), version))

    subscriber = platform.subscribe()
    reading = asyncio.create_task(subscriber.read(TRANSACTIONS - len(rolled_back)))
    await asyncio.gather(*(work() for _ in range(WORKERS)))
    received = [(event.aggregate_id, event.aggregate_version) for event in await reading]

    assert sorted(received) == sorted(committed)
    for aggregate in map(str, aggregates):
        versions = [version for each, version in received if each == aggregate]
        assert versions == sorted(versions)


async def test_an_event_stands_behind_the_last_of_its_aggregate_though_its_transaction_began_first(
    platform: Platform,
) -> None:
    aggregate = uuid4()
    async with connection(platform.producing.pool) as conn, conn.transaction():
        await conn.execute("SELECT pg_current_xact_id()")
        await platform.emit(aggregate)
        await platform.emit_in(conn, aggregate)
    events = await platform.subscribe().read(2)
    assert [event.aggregate_version for event in events] == [1, 2]


async def test_an_event_waits_for_every_transaction_that_began_before_it(
    platform: Platform,
) -> None:
    subscriber = platform.subscribe()
    assert await subscriber.until_caught_up() == []
    async with connection(platform.producing.pool) as conn, conn.transaction():
        await platform.emit_in(conn, slow := uuid4())
        fast = await platform.emit()
        backlog = await platform.operator().GetBacklog(pb.GetBacklogRequest())
        assert backlog.held_back_count == 1
    received = [event.aggregate_id for event in await subscriber.read(2)]
    assert received == [str(slow), str(fast)]


async def test_transactions_come_in_the_order_of_their_numbers(platform: Platform) -> None:
    """As numbers: 99 comes before 100, in which a text would stand first."""
    insert = (
        'INSERT INTO booking."Outbox" ("xactId", "orgId", "aggregateType", "aggregateId",'
        ' "aggregateVersion", topic, type, payload)'
        " VALUES (%s::text::xid8, %s, 'lesson', %s, 1, 'lesson', %s, '{}') RETURNING id"
    )
    for number in (100, 20, 99):
        platform.rows(insert, str(number), SCHOOL, UUID(int=number), TYPE)
    in_order = [str(UUID(int=number)) for number in (20, 99, 100)]
    school = platform.subscribe(platform.stub("console", org_id=SCHOOL), consumer="")
    for subscriber in (platform.subscribe(), school):
        assert [event.aggregate_id for event in await subscriber.read(3)] == in_order
    for stub in (platform.stub(), platform.stub("console", org_id=SCHOOL)):
        page = await stub.ListEvents(pb.ListEventsRequest())
        assert [event.aggregate_id for event in page.events] == in_order[::-1]


# --- effects -----------------------------------------------------------------------------------


async def test_effects_happen_once_each_and_in_order(platform: Platform) -> None:
    aggregates = [await platform.emit() for _ in range(3)]
    emitted = [(aggregate, 1) for aggregate in aggregates]
    async with consuming(platform.consumer({TYPE: note})):
        await eventually(lambda: noted(platform) == emitted)
        for version in range(2, 250):
            emitted.append((await platform.emit(aggregates[0]), version))  # noqa: PERF401
        await eventually(lambda: len(noted(platform)) >= len(emitted))
    assert noted(platform) == emitted


async def test_a_consumer_that_dies_before_it_acknowledges_has_each_effect_once(
    platform: Platform,
) -> None:
    emitted = [(await platform.emit(), 1) for _ in range(300)]
    for died_after in (1, 100, 200):
        async with consuming(platform.consumer({TYPE: note})):
            await eventually(lambda least=died_after: len(noted(platform)) >= least)  # type: ignore[misc]
    received = [pb.SubscribeResponse(event=event) for event in await platform.subscribe().read(300)]
    last = platform.consumer({TYPE: note})
    for start in range(0, 300, 100):
        await last.take(received[start : start + 100])
        await last.take(received[start : start + 100])
    assert noted(platform) == emitted


async def test_two_processes_of_a_consumer_have_each_effect_once(platform: Platform) -> None:
    consumers = [platform.consumer({TYPE: note}) for _ in range(2)]
    async with consuming(consumers[0]), consuming(consumers[1]):
        emitted = [(await platform.emit(), 1) for _ in range(100)]
        await eventually(lambda: len(noted(platform)) >= 100)
    assert noted(platform) == emitted


async def test_a_failing_effect_parks_its_aggregate_and_lets_the_others_go_on(
    platform: Platform,
) -> None:
    bad, good = uuid4(), uuid4()
    mended = False

    async def effect(conn: Connection, event: Event) -> None:
        await note(conn, event)
        if event.aggregate_id == bad and not mended:
            raise RuntimeError("not now")

    for aggregate in (bad, good, bad, good, bad):
        await platform.emit(aggregate)
    async with consuming(platform.consumer({TYPE: effect})):
        await eventually(lambda: noted(platform) == [(good, 1), (good, 2)])
        parked = await platform.operator().GetBacklog(pb.GetBacklogRequest())
        assert parked.parked_count == 0  # they are parked at the consumer
        query = 'SELECT attempts >= 1, "lastError" FROM payments."ParkedEvent" ORDER BY "eventId"'
        await eventually(lambda: len(platform.rows(query)) == 3)
        kind = "RuntimeError INTERNAL"
        assert platform.rows(query) == [(True, kind), (False, ""), (False, "")]
        mended = True
        await platform.emit(bad)
        await eventually(lambda: len(noted(platform)) == 6)
    assert noted(platform)[2:] == [(bad, 1), (bad, 2), (bad, 3), (bad, 4)]
    assert platform.rows(query) == []


async def test_an_effect_that_calls_itself_unavailable_is_parked_and_holds_nobody_up(
    platform: Platform,
) -> None:
    bad = uuid4()

    async def effect(conn: Connection, event: Event) -> None:
        await note(conn, event)
        if event.aggregate_id == bad:
            raise Unavailable("PROVIDER_DOWN", "Not now.")

    emitted = [await platform.emit(aggregate) for aggregate in (uuid4(), bad, uuid4())]
    async with consuming(platform.consumer({TYPE: effect})):
        await eventually(lambda: len(noted(platform)) == 2)
        query = 'SELECT "aggregateId", "lastError" FROM payments."ParkedEvent"'
        await eventually(lambda: platform.rows(query) == [(bad, "PROVIDER_DOWN")])
    assert noted(platform) == [(emitted[0], 1), (emitted[2], 1)]


async def test_of_many_events_the_failing_ones_alone_are_parked(platform: Platform) -> None:
    aggregates = [uuid4() for _ in range(100)]
    bad = {aggregates[place] for place in (0, 41, 42, 99)}

    async def effect(conn: Connection, event: Event) -> None:
        await note(conn, event)
        if event.aggregate_id in bad:
            await conn.send(b"SELECT 1 / 0")  # what is wrong shows at the next statement

    async with platform.producing.write(SCHOOL) as conn:
        for aggregate in aggregates:
            await platform.emit_in(conn, aggregate)
    async with consuming(platform.consumer({TYPE: effect})):
        await eventually(lambda: len(noted(platform)) == 96)
        query = 'SELECT "aggregateId" FROM payments."ParkedEvent"'
        await eventually(lambda: {id_ for (id_,) in platform.rows(query)} == bad)
    good = [(aggregate, 1) for aggregate in aggregates if aggregate not in bad]
    assert noted(platform) == good


async def test_effects_of_many_schools_in_one_transaction_stay_with_their_schools(
    platform: Platform,
) -> None:
    async def effect(conn: Connection, event: Event) -> None:
        await note(conn, event)
        await outbox.emit(conn, event.org_id, "payment", uuid4(), 1, "payment.due", {})
        if event.payload.get("fails"):
            raise RuntimeError("not now")

    schools = [SCHOOL, OTHER_SCHOOL, SCHOOL, OTHER_SCHOOL]
    for place, school in enumerate(schools):
        await platform.emit(org_id=school, fails=place == 1)
    async with consuming(platform.consumer({TYPE: effect})):
        await eventually(lambda: len(noted(platform)) == 3)
    for table in ("AuditLog", "Outbox"):
        rows = platform.rows(f'SELECT "orgId" FROM payments."{table}" ORDER BY id')
        assert [school for (school,) in rows] == [SCHOOL, SCHOOL, OTHER_SCHOOL]


async def test_what_cannot_be_committed_is_parked_alone(platform: Platform) -> None:
    with psycopg.connect(platform.database.admin_dsn, autocommit=True) as admin:
        admin.execute("CREATE TABLE payments.late (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
        admin.execute("GRANT SELECT, INSERT ON payments.late TO payments")
        admin.execute("INSERT INTO payments.late VALUES (1)")

    async def effect(conn: Connection, event: Event) -> None:
        await note(conn, event)
        if event.payload.get("collides"):
            await conn.execute("INSERT INTO late VALUES (1)")

    emitted = [(await platform.emit(collides=place == 1), 1) for place in range(3)]
    async with consuming(platform.consumer({TYPE: effect})):
        await eventually(lambda: len(noted(platform)) == 2)
        query = 'SELECT "aggregateId" FROM payments."ParkedEvent"'
        await eventually(lambda: platform.rows(query) == [(emitted[1][0],)])
    assert noted(platform) == [emitted[0], emitted[2]]


async def test_events_that_nobody_knows_are_passed_over(platform: Platform) -> None:
    await platform.emit(kind="lesson.renamed")
    aggregate = await platform.emit()
    await platform.emit(kind="org.created")
    async with consuming(platform.consumer({TYPE: note})):
        await eventually(lambda: noted(platform) == [(aggregate, 1)])
    assert platform.rows('SELECT count(*) FROM payments."ParkedEvent"') == [(0,)]


async def test_a_consumer_waits_for_its_producer_however_long(
    platform: Platform, tmp_path: Path
) -> None:
    listen = f"127.0.0.1:{platform.server.port}"
    await platform.server.drain()
    aggregate = await platform.emit()
    async with consuming(platform.consumer({TYPE: note})):
        assert noted(platform) == []
        async with running(platform.database, tmp_path, platform.key, listen=listen):
            await eventually(lambda: noted(platform) == [(aggregate, 1)])


async def test_the_list_of_schools_follows_bookings_events(platform: Platform) -> None:
    for kind in ("org.created", "org.suspended"):
        await platform.emit(SCHOOL, kind=kind)
    query = 'SELECT "orgId", active FROM payments."Tenant"'
    async with consuming(platform.consumer(tenants.EFFECTS)):
        await eventually(lambda: platform.rows(query) == [(SCHOOL, False)])
        await platform.emit(SCHOOL, kind="org.resumed")
        await eventually(lambda: platform.rows(query) == [(SCHOOL, True)])


# --- schools -----------------------------------------------------------------------------------


async def test_a_school_receives_its_own_events_alone(platform: Platform) -> None:
    mine = [await platform.emit()]
    await platform.emit(org_id=OTHER_SCHOOL)
    stub = platform.stub("console", org_id=SCHOOL)
    subscriber = platform.subscribe(stub, consumer="")
    assert [event.aggregate_id for event in await subscriber.until_caught_up()] == list(
        map(str, mine)
    )
    await platform.emit(org_id=OTHER_SCHOOL)
    mine.append(await platform.emit())
    (event,) = await subscriber.read(1)
    assert (event.aggregate_id, event.org_id) == (str(mine[1]), str(SCHOOL))
    listed = await stub.ListEvents(pb.ListEventsRequest())
    assert [event.aggregate_id for event in listed.events] == list(map(str, reversed(mine)))


async def test_following_a_school_begins_now_and_goes_on_behind_a_cursor(
    platform: Platform,
) -> None:
    await platform.emit()
    async with aclosing(platform.events.follow(SCHOOL, ["lesson"])) as feed:
        following = asyncio.ensure_future(anext(feed))
        await eventually(lambda: platform.events._feed.head is not None)
        await platform.emit(org_id=OTHER_SCHOOL)
        await platform.emit(kind="org.created")
        first = await platform.emit(note="here")
        delivered = await asyncio.wait_for(following, 20)
    assert delivered.event.aggregate_id == first
    assert delivered.event.payload == {"note": "here"}
    second = await platform.emit()
    async with aclosing(platform.events.follow(SCHOOL, (), delivered.cursor)) as feed:
        assert (await asyncio.wait_for(anext(feed), 20)).event.aggregate_id == second
    with pytest.raises(InvalidArgument):
        await anext(platform.events.follow(SCHOOL, (), "booking.zz"))


async def test_nothing_is_asked_of_the_database_while_nobody_waits(platform: Platform) -> None:
    def looking() -> bool:
        return platform.events._feed.head is not None

    assert not looking()
    subscriber = platform.subscribe()
    await subscriber.until_caught_up()
    assert looking()
    subscriber.call.cancel()
    await eventually(lambda: not looking())


def test_processed_events_are_counted_and_deleted_by_their_index(database: Database) -> None:
    with psycopg.connect(database.admin_dsn, autocommit=True) as admin:
        admin.execute(
            'INSERT INTO booking."Outbox" ("orgId", "aggregateType", "aggregateId",'
            ' "aggregateVersion", topic, type, payload, "processedAt")'
            " SELECT %s, 'lesson', uuidv7(), 1, 'topic' || n %% 20, %s, '{}',"
            " CASE WHEN n %% 10 > 0 THEN now() - make_interval(mins => n) END"
            " FROM generate_series(1, 40000) AS n",
            [SCHOOL, TYPE],
        )
        admin.execute('VACUUM ANALYZE booking."Outbox"')
    before = datetime.now(UTC) - timedelta(days=20)
    asked: list[tuple[explaining.Ask, list[str]]] = [
        (lambda c: store.delete_processed(c, "topic3", before, 100), ["topic", "processedAt"]),
        (lambda c: store.count_processed(c, "topic3", 100), ["topic", "processedAt"]),
    ]
    with explaining.login(database, "booking", NIL_ORG) as conn:
        for ask, columns in asked:
            for generic in (False, True):
                plan = explaining.explain(conn, explaining.sent(ask), generic=generic)
                steps = [*explaining.reads(plan)]
                index = "idx_outbox_topic_processed"
                assert any(s.index == index and s.enters_by(columns) for s in steps), steps


# --- subscriptions -----------------------------------------------------------------------------


async def test_a_subscription_goes_on_behind_its_cursor(platform: Platform) -> None:
    emitted = [str(await platform.emit()) for _ in range(5)]
    events = await platform.subscribe().read(2)
    rest = await platform.subscribe(cursor=events[-1].cursor).read(3)
    assert [event.aggregate_id for event in [*events, *rest]] == emitted


async def test_no_more_than_a_thousand_events_are_sent_ahead(platform: Platform) -> None:
    async with platform.producing.write(SCHOOL) as conn:
        for _ in range(1_010):
            await platform.emit_in(conn, uuid4())
    subscriber = platform.subscribe()
    sent = await subscriber.read(1_000, acknowledge=False)
    more = asyncio.ensure_future(subscriber.read(1))
    await asyncio.wait([more], timeout=0.5)
    assert not more.done()
    await subscriber.acknowledge(sent[9].cursor)
    await asyncio.wait_for(more, 20)


@pytest.mark.parametrize(
    "cursor",
    [
        "x",
        "booking.1.2",
        "tracking.0000000000000001.0000000000000001",
        "booking.ffffffffffffffff.0000000000000001",
        "booking.7fffffffffffffff.0000000000000001",
    ],
)
async def test_a_cursor_that_was_never_given_out_is_refused(
    platform: Platform, cursor: str
) -> None:
    refused = await platform.subscribe(cursor=cursor).refusal()
    assert (refused.code, refused.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "CURSOR_INVALID",
    )


async def test_a_service_subscribes_under_its_own_name_alone(platform: Platform) -> None:
    refused = await platform.subscribe(consumer="tracking").refusal()
    assert refused.reason == "CONSUMER_NOT_YOURS"
    refused = await platform.subscribe(platform.stub("operator")).refusal()
    assert refused.reason == "ORG_REQUIRED"


async def test_a_subscription_begins_with_start_and_acknowledges_what_was_sent(
    platform: Platform,
) -> None:
    wrong = platform.subscribe()
    wrong._begun = True
    await wrong.acknowledge("booking.0000000000000000.0000000000000000")
    assert (await wrong.refusal()).reason == "START_EXPECTED"
    twice = platform.subscribe()
    await twice.begin()
    await twice.begin()
    assert (await twice.refusal()).reason == "START_REPEATED"
    ahead = platform.subscribe()
    await ahead.begin()
    await ahead.acknowledge("booking.0000000000ffffff.0000000000000000")
    assert (await ahead.refusal()).reason == "CURSOR_INVALID"


async def test_a_subscription_ends_with_its_token_and_with_the_server(
    platform: Platform,
) -> None:
    short = platform.subscribe(platform.stub(ttl=timedelta(seconds=1)))
    assert (await short.refusal()).reason == "TOKEN_EXPIRED"
    drained = platform.subscribe()
    await drained.until_caught_up()
    draining = asyncio.create_task(platform.server.drain())
    assert (await drained.refusal()).reason == "SERVER_DRAINING"
    await draining


async def test_half_closing_ends_a_subscription_well(platform: Platform) -> None:
    subscriber = platform.subscribe()
    await subscriber.until_caught_up()
    await subscriber.call.done_writing()
    assert await subscriber.call.code() is grpc.StatusCode.OK


# --- upkeep ------------------------------------------------------------------------------------


def tidy(platform: Platform) -> Tidy:
    return Tidy(platform.producing, {"payments"}, platform.clock)


async def test_an_event_is_processed_once_every_consumer_took_it_and_goes_after_14_days(
    platform: Platform,
) -> None:
    first, second = await platform.emit(), await platform.emit()
    school = platform.subscribe(platform.stub("console", org_id=SCHOOL), consumer="x")
    await school.read(2)
    subscriber = platform.subscribe(topics=["lesson"])
    (event,) = await subscriber.read(1)
    processed = 'SELECT "aggregateId" FROM booking."Outbox" WHERE "processedAt" IS NOT NULL'
    await eventually(lambda: platform.rows(processed) == [(first,)])

    await tidy(platform).delete()
    platform.clock.ahead += timedelta(days=14, minutes=1)
    await tidy(platform).delete()
    assert platform.rows('SELECT "aggregateId" FROM booking."Outbox"') == [(second,)]
    subscriber.call.cancel()
    (left,) = await platform.subscribe(cursor=event.cursor).read(1)
    assert left.aggregate_id == str(second)


async def test_a_cursor_before_deleted_events_is_too_old(platform: Platform) -> None:
    events = []
    for _ in range(3):
        await platform.emit()
    events = await platform.subscribe().read(3)
    processed = 'SELECT count(*) FROM booking."Outbox" WHERE "processedAt" IS NOT NULL'
    await eventually(lambda: platform.rows(processed) == [(3,)])
    platform.clock.ahead += timedelta(days=15)
    await tidy(platform).delete()
    refused = await platform.subscribe(cursor=events[1].cursor).refusal()
    assert (refused.code, refused.reason) == (grpc.StatusCode.OUT_OF_RANGE, "CURSOR_TOO_OLD")
    other_topic = platform.subscribe(cursor=events[1].cursor, topics=["org"])
    assert await other_topic.until_caught_up() == []
    assert await platform.subscribe(cursor=events[2].cursor).until_caught_up() == []


async def test_events_of_a_topic_that_a_consumer_does_not_take_do_not_wait_for_it(
    platform: Platform,
) -> None:
    subscriber = platform.subscribe(topics=["org"])
    await subscriber.until_caught_up()
    aggregate = await platform.emit()
    await platform.emit(kind="org.created")
    processed = 'SELECT "aggregateId" FROM booking."Outbox" WHERE "processedAt" IS NOT NULL'
    await eventually(lambda: platform.rows(processed) == [(aggregate,)])


async def test_a_consumer_that_is_down_delays_and_loses_nothing(platform: Platform) -> None:
    both = Tidy(platform.producing, {"payments", "monitor"}, platform.clock)
    await both.register()
    emitted = [str(await platform.emit()) for _ in range(3)]
    await platform.subscribe().read(3)
    payments = 'SELECT "acknowledgedId" FROM booking."EventConsumer" WHERE consumer = %s'
    last = 'SELECT max(id) FROM booking."Outbox"'
    await eventually(lambda: platform.rows(payments, "payments") == platform.rows(last))
    processed = 'SELECT count(*) FROM booking."Outbox" WHERE "processedAt" IS NOT NULL'
    platform.clock.ahead += timedelta(days=100)
    await both.mark()
    await both.delete()
    assert platform.rows(processed) == [(0,)]
    monitor = platform.stub("service:monitor")
    events = await platform.subscribe(monitor, consumer="monitor").read(3)
    assert [event.aggregate_id for event in events] == emitted

    acknowledge = 'UPDATE booking."EventConsumer" SET "acknowledgedXactId" = o."xactId",'
    acknowledge += ' "acknowledgedId" = o.id FROM booking."Outbox" AS o WHERE consumer = %s'
    acknowledge += ' AND o."aggregateId" = %s RETURNING consumer'
    platform.rows(acknowledge, "monitor", emitted[1])
    await both.mark()
    assert platform.rows(processed) == [(2,)]
    await both.delete()
    assert platform.rows(processed) == [(2,)]
    platform.clock.ahead += timedelta(days=14, minutes=1)
    await both.delete()
    rest = platform.rows('SELECT "aggregateId"::text FROM booking."Outbox"')
    assert rest == [(emitted[2],)]


async def test_a_consumer_that_the_settings_name_no_more_holds_nothing_back(
    platform: Platform,
) -> None:
    aggregate = await platform.emit()
    other = Tidy(platform.producing, set(), platform.clock)
    await other.register()
    processed = 'SELECT "aggregateId" FROM booking."Outbox" WHERE "processedAt" IS NOT NULL'

    async def marked() -> bool:
        # Nothing may be marked while an older transaction writes somewhere in the cluster.
        await other.mark()
        return platform.rows(processed) == [(aggregate,)]

    await eventually(marked)


async def test_lists_go_page_by_page_and_by_state(platform: Platform) -> None:
    emitted = [str(await platform.emit()) for _ in range(5)]
    await platform.subscribe().read(2)
    processed = 'SELECT count(*) FROM booking."Outbox" WHERE "processedAt" IS NOT NULL'
    await eventually(lambda: platform.rows(processed) == [(2,)])
    found: list[str] = []
    request = pb.ListEventsRequest(page_size=2, topic="lesson")
    while True:
        page = await platform.stub().ListEvents(request)
        found += [event.aggregate_id for event in page.events]
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break
    assert found == emitted[::-1]
    for state, wanted in (
        (pb.EVENT_STATE_PROCESSED, emitted[:2]),
        (pb.EVENT_STATE_PENDING, emitted[2:]),
    ):
        page = await platform.stub().ListEvents(pb.ListEventsRequest(state=state))
        assert [event.aggregate_id for event in page.events] == wanted[::-1]
    backlog = await platform.operator().GetBacklog(pb.GetBacklogRequest())
    (consumer,) = backlog.consumers
    assert (consumer.consumer, consumer.pending_count) == ("payments", 3)


async def fails(conn: Connection, event: Event) -> None:
    raise RuntimeError("not now")


async def test_operators_see_parked_events_and_have_them_tried_now(platform: Platform) -> None:
    aggregate = uuid4()
    consumer = await platform.own_consumer(fails, aggregate, aggregate)
    ops = platform.operator()
    page = await ops.ListParkedEvents(pb.ListParkedEventsRequest(page_size=1))
    rest = await ops.ListParkedEvents(
        pb.ListParkedEventsRequest(page_size=1, page_token=page.next_page_token)
    )
    (first,), (second,) = page.parked_events, rest.parked_events
    assert (first.attempts, second.attempts) == (1, 0)
    assert (first.type, first.last_error) == (TYPE, "RuntimeError INTERNAL")
    for path in pb.ParkedEvent.DESCRIPTOR.fields_by_name:
        mask = FieldMask(paths=[path])
        page = await ops.ListParkedEvents(pb.ListParkedEventsRequest(read_mask=mask))
        assert page.parked_events[0] == pb.ParkedEvent(**{path: getattr(first, path)})
    assert not await consumer.retry()
    named = pb.RetryParkedEventRequest(producer="booking", cursor=second.cursor)
    await ops.RetryParkedEvent(named)
    assert await consumer.retry()
    (again, _) = (await ops.ListParkedEvents(pb.ListParkedEventsRequest())).parked_events
    assert again.attempts == 2
    named.cursor = "booking.0000000000000001.0000000000000001"
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await ops.RetryParkedEvent(named)
    assert refusal(refused.value).reason == "PARKED_EVENT_NOT_FOUND"


async def test_a_discarded_event_has_no_effect_and_those_behind_it_go_on(
    platform: Platform,
) -> None:
    async def effect(conn: Connection, event: Event) -> None:
        if event.aggregate_version == 1:
            raise RuntimeError("never")
        await conn.execute('SELECT 1 FROM "AuditLog" LIMIT 1')

    aggregate = uuid4()
    consumer = await platform.own_consumer(effect, aggregate, aggregate, aggregate)
    ops = platform.operator()
    (first, *rest) = (await ops.ListParkedEvents(pb.ListParkedEventsRequest())).parked_events
    assert len(rest) == 2
    request = pb.DiscardParkedEventRequest(producer="booking", cursor=first.cursor, reason="broken")
    assert await ops.DiscardParkedEvent(request) == first
    assert [await consumer.retry() for _ in range(3)] == [True, True, False]
    assert (await ops.GetBacklog(pb.GetBacklogRequest())).parked_count == 0
    query = (
        'SELECT "orgId", "actorUserId", "entityId", before ->> \'aggregate_id\', after'
        " FROM booking.\"AuditLog\" WHERE action = 'discard'"
    )
    audited = (SCHOOL, "operator", first.cursor, str(aggregate), {"reason": "broken"})
    assert platform.rows(query) == [audited]
    assert await reason_of(ops.DiscardParkedEvent(request)) == "PARKED_EVENT_NOT_FOUND"


async def test_discarding_needs_a_reason_an_operator_and_an_event(platform: Platform) -> None:
    request = pb.DiscardParkedEventRequest(
        producer="tracking", cursor="tracking.0000000000000001.0000000000000001", reason="gone"
    )
    ops = platform.operator()
    assert await reason_of(ops.DiscardParkedEvent(request)) == "PARKED_EVENT_NOT_FOUND"
    assert await reason_of(platform.stub().DiscardParkedEvent(request)) == "SCOPE_MISSING"
    request.reason = ""
    assert await reason_of(ops.DiscardParkedEvent(request)) == "INVALID_REQUEST"


async def reason_of(call: Awaitable[object]) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return refusal(refused.value).reason


async def test_the_backlog_tells_of_each_topic_and_consumer_and_of_who_holds_events_back(
    platform: Platform,
) -> None:
    await platform.emit(kind="org.created")
    subscriber = platform.subscribe(topics=["lesson"])
    await platform.emit()
    await platform.emit()
    await subscriber.read(1)
    processed = 'SELECT count(*) FROM booking."Outbox" WHERE "processedAt" IS NOT NULL'
    await eventually(lambda: platform.rows(processed) == [(2,)])
    async with platform.consuming.write(SCHOOL) as other:
        await other.execute(b"SELECT pg_current_xact_id()")
        await platform.emit()
        backlog = await platform.operator().GetBacklog(pb.GetBacklogRequest())
    found = [
        (each.topic, each.consumer, each.pending_count, each.processed_count)
        for each in backlog.topics
    ]
    assert found == [("lesson", "payments", 2, 1), ("org", "", 0, 1)]
    assert backlog.topics[0].HasField("oldest_pending_time")
    assert backlog.held_back_count == 1
    holder = backlog.horizon_holder
    assert (holder.user, holder.application_name) == ("payments", "payments")
    assert holder.pid > 0
    assert holder.HasField("oldest_held_back_time")
    cleared = await platform.operator().GetBacklog(pb.GetBacklogRequest())
    assert not cleared.HasField("horizon_holder")


# --- tokens ------------------------------------------------------------------------------------


def test_a_services_token_is_renewed_before_its_end() -> None:
    tokens = ServiceTokens(
        issuer.new_key(),
        "payments",
        issuer_name=issuer.ISSUER,
        audience=issuer.AUDIENCE,
    )
    lasting = tokens.source(("events:subscribe",), at_least_s=60)
    assert lasting() == lasting()
    fresh = tokens.source(("events:subscribe",), UUID(int=1), at_least_s=300)
    first = fresh()
    assert fresh() is not first
