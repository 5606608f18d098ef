"""`driveflow health` beside a monitor: a table, JSON, and an exit code by the verdict."""

from __future__ import annotations

import pytest

from driveflow.monitor.v1 import alerts_pb2
from tests import commands
from tests.commands import Done
from tests.monitor.serving import Monitor

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def health(watcher: Monitor, *arguments: str, **more: str) -> Done:
    environment = {
        "DRIVEFLOW_MONITOR_ADDR": watcher.address,
        "DRIVEFLOW_OPS_TOKEN": watcher.ops_token,
        **more,
    }
    return await commands.driveflow(environment, "health", *arguments)


async def test_what_is_well_is_a_table_and_exit_code_0(watcher: Monitor) -> None:
    done = await health(watcher, "settings", "round_trip")
    assert (done.code, done.stderr) == (0, "")
    assert "No setting endangers data." in done.stdout
    assert "ok: 2 of 2 checks are well" in done.stdout


async def test_a_warning_and_what_is_critical_have_exit_codes_and_say_what_to_do(
    watcher: Monitor,
) -> None:
    stub = watcher.stub()
    for critical_at, code in ((10_000.0, 1), (0.0, 2)):
        rule = alerts_pb2.AlertRule(
            name="round_trip", warning_at=0, clear_at=0, critical_at=critical_at
        )
        await stub.UpdateAlertRule(alerts_pb2.UpdateAlertRuleRequest(alert_rule=rule))
        done = await health(watcher, "round_trip")
        assert done.code == code
        assert "Look whether PostgreSQL runs" in done.stdout
        assert "GetConnectionStats" in done.stdout
    rule = alerts_pb2.AlertRule(name="round_trip", warning_at=50, critical_at=500, clear_at=25)
    await stub.UpdateAlertRule(alerts_pb2.UpdateAlertRuleRequest(alert_rule=rule))


async def test_json_is_what_the_rpc_answers(watcher: Monitor) -> None:
    report = (await health(watcher, "settings", "--json")).json()
    assert report["status"] == "VERDICT_OK"
    assert [check["name"] for check in report["checks"]] == ["settings"]


async def test_no_answer_is_exit_code_3_and_says_why(watcher: Monitor) -> None:
    done = await health(watcher, "nonsense")
    assert (done.code, "CHECK_UNKNOWN" in done.stderr) == (3, True)
    done = await health(watcher, DRIVEFLOW_MONITOR_ADDR="127.0.0.1:9")
    assert (done.code, "is the service running there?" in done.stderr) == (3, True)
    done = await health(watcher, DRIVEFLOW_OPS_TOKEN=watcher.token())
    assert (done.code, "monitor:read" in done.stderr) == (3, True)
