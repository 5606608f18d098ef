"""CheckHealth: every question is answered or says why not; thresholds are the rules'."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from driveflow.monitor.v1 import alerts_pb2, health_pb2
from services.monitor.checks import ALL
from tests.monitor.serving import Monitor, serving
from tests.postgres import Database
from tests.tracking.stories import refused
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_every_question_is_answered_with_its_why_and_its_next_step(watcher: Monitor) -> None:
    report = await watcher.stub().CheckHealth(health_pb2.CheckHealthRequest())
    assert {check.name for check in report.checks} == {each.question.name for each in ALL}
    for check in report.checks:
        assert check.verdict != health_pb2.VERDICT_UNSPECIFIED, check.name
        unknown = check.verdict == health_pb2.VERDICT_UNKNOWN
        assert check.summary.endswith(".") != unknown, check
        assert all((check.title, check.why, check.next_step, check.unit)), check.name
        assert check.command.startswith("grpcurl"), check.name


async def test_an_unknown_check_is_refused_with_the_names_there_are(watcher: Monitor) -> None:
    why = await refused(watcher.check("nonsense"))
    assert why.reason == "CHECK_UNKNOWN"
    assert "round_trip" in str(why.fields)


async def test_those_who_ask_at_the_same_time_share_an_answer(watcher: Monitor) -> None:
    stub, request = watcher.stub(), health_pb2.CheckHealthRequest()
    reports = await asyncio.gather(*(stub.CheckHealth(request) for _ in range(10)))
    assert len({report.time.ToNanoseconds() for report in reports}) < 10


async def test_a_threshold_that_a_rule_names_judges_from_then_on(watcher: Monitor) -> None:
    stub = watcher.stub()
    rule = alerts_pb2.AlertRule(name="round_trip", warning_at=0, critical_at=10_000, clear_at=0)
    await stub.UpdateAlertRule(alerts_pb2.UpdateAlertRuleRequest(alert_rule=rule))
    try:
        check = await watcher.check("round_trip")
        assert (check.verdict, check.threshold) == (health_pb2.VERDICT_WARNING, 0)
    finally:
        back = alerts_pb2.AlertRule(name="round_trip", warning_at=50, critical_at=500, clear_at=25)
        await stub.UpdateAlertRule(alerts_pb2.UpdateAlertRuleRequest(alert_rule=back))
    assert (await watcher.check("round_trip")).verdict == health_pb2.VERDICT_OK


async def test_a_database_that_is_gone_is_critical_and_the_report_comes_all_the_same(
    crashable_database: Database, tmp_path: Path
) -> None:
    embedded = crashable_database.server.embedded
    assert embedded is not None
    async with serving(crashable_database, tmp_path) as monitor:
        embedded.kill9()
        report = await monitor.stub().CheckHealth(health_pb2.CheckHealthRequest())
        verdicts = {check.name: check.verdict for check in report.checks}
        assert report.status == health_pb2.VERDICT_CRITICAL
        assert verdicts.pop("round_trip") == health_pb2.VERDICT_CRITICAL
        assert set(verdicts.values()) == {health_pb2.VERDICT_UNKNOWN}
        embedded.start()
        back = await eventually(
            lambda: monitor.check("round_trip"),
            lambda check: check.verdict == health_pb2.VERDICT_OK,
        )
        assert "SELECT 1" in back.summary
