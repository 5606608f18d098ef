"""Alerts of a real condition, a sequence near its end: pending, open, worse, muted, acknowledged,
resolved; watched live; told to a webhook that fails first, over a restart."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from aiohttp import web
from google.protobuf.field_mask_pb2 import FieldMask

from driveflow.monitor.v1 import alerts_pb2 as pb
from driveflow.monitor.v1 import health_pb2
from libs.settings import SettingsError, load
from services.monitor.__main__ import Parts, Settings, assemble
from services.monitor.schedule import SETTLE
from services.monitor.webhook import ATTEMPTS_MAX
from tests import commands
from tests.monitor.serving import Monitor, serving
from tests.postgres import Database
from tests.serving import Clock, at, common_settings
from tests.tracking.stories import refused
from tests.waiting import eventually

RULE = "sequences"
STEP = timedelta(minutes=5)
WARNING, CRITICAL = 1_700_000_000, 2_000_000_000
SECRET = "of-the-webhook"


@dataclass
class Story:
    """A monitor that answers, and a schedule beside it that runs when the test says so."""

    monitor: Monitor
    parts: Parts
    clock: Clock

    def use(self, used: int) -> None:
        """Have the sequence so far."""
        with self.monitor.admin() as admin:
            admin.execute("SELECT setval('booking.tickets', %s)", [used])

    async def report(self, after: timedelta = STEP) -> None:
        """The next run of the schedule."""
        self.clock.ahead += after
        await self.parts.schedule.run()

    async def alerts(self, **wanted: object) -> list[pb.Alert]:
        request = pb.ListAlertsRequest(**wanted)  # type: ignore[arg-type]
        return [*(await self.monitor.stub().ListAlerts(request)).alerts]

    async def change(self, *paths: str, **values: object) -> None:
        rule = pb.AlertRule(name=RULE, **values)  # type: ignore[arg-type]
        mask = FieldMask(paths=[*paths, *values])
        request = pb.UpdateAlertRuleRequest(alert_rule=rule, update_mask=mask)
        await self.monitor.stub().UpdateAlertRule(request)


@asynccontextmanager
async def told(database: Database, folder: Path, **overrides: object) -> AsyncIterator[Story]:
    """A story on a database of its own."""
    async with serving(database, folder) as monitor, AsyncExitStack() as stack:
        with monitor.admin() as admin:
            admin.execute('CREATE TABLE booking."Ticket" (id int)')
            admin.execute('CREATE SEQUENCE booking.tickets AS int OWNED BY booking."Ticket".id')
            admin.execute("GRANT SELECT ON SEQUENCE booking.tickets TO monitor")
        # Its own schedule has its first run, and by the same clock no other.
        monitor.clock.ahead = SETTLE
        await eventually(lambda: kept(monitor))
        parts = await scheduled(database, folder, monitor.clock, stack, **overrides)
        yield Story(monitor, parts, monitor.clock)


async def scheduled(
    database: Database, folder: Path, clock: Clock, stack: AsyncExitStack, **overrides: object
) -> Parts:
    """The parts of a monitor that does nothing by itself."""
    chosen: dict[str, Any] = {
        **common_settings(folder),
        "dsn": database.dsn("monitor"),
        **overrides,
    }
    return await assemble(Settings(**chosen), stack, clock)


async def kept(monitor: Monitor) -> bool:
    """Whether the first report of the monitor that answers is over."""
    with monitor.admin() as admin:
        return bool(admin.execute('SELECT FROM monitor."HealthReport"').rowcount)


async def test_an_alert_fires_when_it_has_held_and_ends_when_it_has_been_well(
    database: Database, tmp_path: Path
) -> None:
    async with told(database, tmp_path) as story:
        watching = story.monitor.stub().WatchAlerts(pb.WatchAlertsRequest())
        story.use(WARNING)
        await story.report()
        assert await story.alerts() == []
        await story.report()
        (alert,) = await story.alerts(state=pb.ALERT_STATE_OPEN)
        assert (alert.rule, alert.severity) == (RULE, health_pb2.VERDICT_WARNING)
        assert (round(alert.figure), alert.threshold, alert.unit) == (79, 75, "percent")
        assert alert.evidence[0] == f'booking."Ticket".id: {WARNING:,} of 2,147,483,647'
        assert "GetCapacityForecast" in alert.command
        held = alert.fire_time.ToDatetime() - alert.start_time.ToDatetime()
        assert held == pytest.approx(STEP, abs=timedelta(seconds=30))
        assert await watching.read() == alert

        await shown(story, alert)
        await acknowledged(story, alert)
        seen: Any = await watching.read()
        assert (seen.id, seen.acknowledged_by) == (alert.id, "operator")

        story.use(CRITICAL)
        await story.report()
        worse: Any = await watching.read()
        assert worse.severity == health_pb2.VERDICT_CRITICAL
        assert (worse.figure, worse.evidence) == (alert.figure, alert.evidence)

        story.use(1)
        await story.report()
        assert len(await story.alerts(state=pb.ALERT_STATE_OPEN)) == 1
        await story.report()
        ended: Any = await watching.read()
        assert ended.HasField("resolve_time")
        assert (ended.note, ended.severity) == ("new column", health_pb2.VERDICT_CRITICAL)
        assert await story.alerts(state=pb.ALERT_STATE_RESOLVED) == [ended]
        assert await story.alerts(state=pb.ALERT_STATE_OPEN) == []
        watching.cancel()

        # Whoever begins to watch now has nothing to see.
        late = story.monitor.stub().WatchAlerts(pb.WatchAlertsRequest())
        story.use(WARNING)
        await story.report()
        await story.report()
        again: Any = await late.read()
        assert (again.rule, again.id != alert.id) == (RULE, True)
        late.cancel()
        await by_pages(story, [again.id, alert.id])


async def shown(story: Story, alert: pb.Alert) -> None:
    environment = {
        "DRIVEFLOW_MONITOR_ADDR": story.monitor.address,
        "DRIVEFLOW_OPS_TOKEN": story.monitor.ops_token,
    }
    done = await commands.driveflow(environment, "alerts")
    assert (done.code, done.stderr) == (1, "")
    assert alert.evidence[0] in done.stdout
    assert f"driveflow alerts acknowledge {alert.id}" in done.stdout


async def acknowledged(story: Story, alert: pb.Alert) -> None:
    stub = story.monitor.stub()
    request = pb.AcknowledgeAlertRequest(
        alert_id=alert.id, note="new column", request_id=str(uuid4())
    )
    first = await stub.AcknowledgeAlert(request)
    assert (first.acknowledged_by, first.note) == ("operator", "new column")
    assert await stub.AcknowledgeAlert(request) == first
    # Without an id of the request as well: it is noted already.
    again = pb.AcknowledgeAlertRequest(alert_id=alert.id, note="new column")
    assert await stub.AcknowledgeAlert(again) == first
    with story.monitor.admin() as admin:
        rows = admin.execute(
            'SELECT "actorUserId", action, after FROM monitor."AuditLog" WHERE "entityId" = %s',
            [alert.id],
        ).fetchall()
    assert rows == [("operator", "acknowledge", {"note": "new column"})]
    other = pb.AcknowledgeAlertRequest(alert_id=str(uuid4()))
    assert (await refused(stub.AcknowledgeAlert(other))).reason == "ALERT_NOT_FOUND"


async def by_pages(story: Story, ids: list[str]) -> None:
    stub = story.monitor.stub()
    mask = FieldMask(paths=["id"])
    first = await stub.ListAlerts(pb.ListAlertsRequest(page_size=1, read_mask=mask))
    request = pb.ListAlertsRequest(page_size=1, page_token=first.next_page_token, read_mask=mask)
    second = await stub.ListAlerts(request)
    found = [*first.alerts, *second.alerts]
    assert (found, second.next_page_token) == ([pb.Alert(id=each) for each in ids], "")
    assert await story.alerts(rule="storage") == []


async def test_a_muted_rule_fires_without_a_word_and_a_disabled_one_ends_what_is_open(
    database: Database, tmp_path: Path
) -> None:
    options = {"alert_webhook_url": "http://127.0.0.1:9/", "alert_webhook_secret": SECRET}
    async with told(database, tmp_path, **options) as story:
        until = story.clock() + timedelta(hours=1)
        await story.change(for_seconds=0, mute_until_time=at(until))
        story.use(WARNING)
        await story.report()
        (alert,) = await story.alerts()
        assert alert.muted
        await story.change(enabled=False)
        await story.report()
        (alert,) = await story.alerts()
        assert alert.HasField("resolve_time")
        await story.report()
        assert len(await story.alerts()) == 1
        with story.monitor.admin() as admin:
            assert admin.execute('SELECT FROM monitor."AlertNotification"').rowcount == 0
            # Old ones go, with what was sent of them.
            story.clock.ahead += timedelta(days=401)
            await story.parts.alerting.forget()
            assert admin.execute('SELECT FROM monitor."Alert"').rowcount == 0


# --- the webhook -------------------------------------------------------------------------------


@dataclass
class Receiver:
    """A webhook that answers as it is told to."""

    statuses: list[int]
    """Of the next calls; 200 when there are no more."""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""

    async def post(self, request: web.Request) -> web.Response:
        body = await request.read()
        stamp, _, mac = request.headers["Driveflow-Signature"].partition(",v1=")
        signed = f"{stamp.removeprefix('t=')}.".encode() + body
        assert mac == hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
        self.bodies.append(json.loads(body))
        return web.Response(status=self.statuses.pop(0) if self.statuses else 200)


@asynccontextmanager
async def receiver(*statuses: int) -> AsyncIterator[Receiver]:
    receiving = Receiver([*statuses])
    app = web.Application()
    app.router.add_post("/alerts", receiving.post)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        receiving.url = f"http://127.0.0.1:{runner.addresses[0][1]}/alerts"
        yield receiving
    finally:
        await runner.cleanup()


async def test_a_webhook_that_fails_hears_of_everything_once_in_order_over_a_restart(
    database: Database, tmp_path: Path
) -> None:
    async with receiver(500, 302) as receiving:
        options = {"alert_webhook_url": receiving.url, "alert_webhook_secret": SECRET}
        async with told(database, tmp_path, **options) as story, AsyncExitStack() as restarted:
            await story.change(for_seconds=0, clear_seconds=0)
            story.use(WARNING)
            await story.report()
            await deliver(story)
            story.use(CRITICAL)
            await story.report(timedelta(seconds=1))
            story.use(1)
            await story.report(timedelta(seconds=1))
            # The first is not done: those behind it wait, and it waits for its next attempt.
            await deliver(story)
            assert [body["kind"] for body in receiving.bodies] == ["fired"]

            story.parts = await scheduled(database, tmp_path, story.clock, restarted, **options)
            for _ in range(4):
                story.clock.ahead += timedelta(seconds=61)
                await deliver(story)
            kinds = ["fired", "fired", "fired", "escalated", "resolved"]
            assert [body["kind"] for body in receiving.bodies] == kinds
            assert len({body["id"] for body in receiving.bodies}) == 3
            (alert,) = await story.alerts()
            fired, resolved = receiving.bodies[0], receiving.bodies[-1]
            assert (fired["alert"]["id"], fired["alert"]["rule"]) == (alert.id, RULE)
            assert fired["alert"]["severity"] == "VERDICT_WARNING"
            assert fired["now"]["verdict"] == "warning"
            assert (resolved["now"]["verdict"], "resolve_time" in resolved["alert"]) == ("ok", True)
            assert await left(story) == []


async def deliver(story: Story) -> None:
    assert story.parts.webhook is not None
    await story.parts.webhook.deliver()


async def left(story: Story) -> list[tuple[Any, ...]]:
    """Notifications that were not delivered."""
    with story.monitor.admin() as admin:
        return admin.execute(
            'SELECT attempts, "nextAttemptAt" IS NULL, "lastError"'
            ' FROM monitor."AlertNotification" WHERE "deliveredAt" IS NULL'
        ).fetchall()


async def test_a_webhook_that_never_answers_is_given_up_and_that_is_said(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # The path may be a secret, and is not for the log.
    options = {"alert_webhook_url": "http://127.0.0.1:9/hush", "alert_webhook_secret": SECRET}
    async with told(database, tmp_path, **options) as story:
        await story.change(for_seconds=0)
        story.use(WARNING)
        await story.report()
        for _ in range(ATTEMPTS_MAX + 1):
            await deliver(story)
            story.clock.ahead += timedelta(hours=1)
        ((attempts, given_up, error),) = await left(story)
        assert (attempts, given_up) == (ATTEMPTS_MAX, True)
        assert error.startswith("ClientConnectorError")
    said = [record.message for record in caplog.records if "webhook" in record.message]
    assert said == ["the webhook does not take an alert"] * 9 + ["the webhook is given up"]
    assert "hush" not in caplog.text + error


def test_a_webhook_without_a_secret_is_refused_at_the_start(monkeypatch: Any) -> None:
    for name, value in (
        ("LISTEN", "127.0.0.1:0"),
        ("DSN", "x"),
        ("JWKS", "x"),
        ("PAGE_TOKEN_KEY", "x" * 32),
        ("ALERT_WEBHOOK_URL", "https://hooks.example/alerts"),
    ):
        monkeypatch.setenv(f"DRIVEFLOW_{name}", value)
    with pytest.raises(SettingsError, match="DRIVEFLOW_ALERT_WEBHOOK_SECRET: missing"):
        load(Settings)
    monkeypatch.setenv("DRIVEFLOW_ALERT_WEBHOOK_SECRET", SECRET)
    assert load(Settings).alert_webhook_secret is not None
