"""Rules: listed, changed under their etag, audited; contradictions are refused."""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from driveflow.monitor.v1 import alerts_pb2 as pb
from services.monitor.checks import ALL
from tests.monitor.serving import Monitor
from tests.serving import at
from tests.tracking.stories import refused

pytestmark = pytest.mark.asyncio(loop_scope="session")
NAME = "storage"


async def rule(watcher: Monitor) -> pb.AlertRule:
    answer = await watcher.stub().ListAlertRules(pb.ListAlertRulesRequest(page_size=1_000))
    (found,) = (each for each in answer.alert_rules if each.name == NAME)
    return found


async def change(
    watcher: Monitor, *paths: str, request_id: str = "", **values: object
) -> pb.AlertRule:
    wanted = pb.AlertRule(name=NAME, **values)  # type: ignore[arg-type]
    mask = FieldMask(paths=paths)
    return await watcher.stub().UpdateAlertRule(
        pb.UpdateAlertRuleRequest(alert_rule=wanted, update_mask=mask, request_id=request_id)
    )


async def reason(call: Awaitable[object]) -> str:
    return (await refused(call)).reason


async def test_every_check_has_a_rule_and_rules_go_by_pages(watcher: Monitor) -> None:
    stub, names, token = watcher.stub(), [], ""
    while True:
        request = pb.ListAlertRulesRequest(
            page_size=4, page_token=token, read_mask=FieldMask(paths=["name"])
        )
        page = await stub.ListAlertRules(request)
        names += [each.name for each in page.alert_rules]
        assert all(each.unit == "" for each in page.alert_rules)
        token = page.next_page_token
        if not token:
            break
    assert names == sorted(each.question.name for each in ALL)


async def test_a_rule_changes_once_for_a_request_and_the_log_knows_who(watcher: Monitor) -> None:
    before = await rule(watcher)
    until = datetime(2030, 1, 1, tzinfo=UTC)
    request_id = str(uuid4())
    values = {"for_seconds": 77, "mute_until_time": at(until), "etag": before.etag}
    changed = await change(
        watcher, "for_seconds", "mute_until_time", request_id=request_id, **values
    )
    again = await change(watcher, "for_seconds", "mute_until_time", request_id=request_id, **values)
    assert changed == again
    assert (changed.for_seconds, changed.updated_by) == (77, "operator")
    assert changed.warning_at == before.warning_at
    assert changed.mute_until_time.ToDatetime(UTC) == until
    assert (
        await reason(change(watcher, "for_seconds", request_id=request_id)) == "REQUEST_ID_REUSED"
    )
    assert await reason(change(watcher, "for_seconds", etag=before.etag)) == "ETAG_MISMATCH"
    with watcher.admin() as admin:
        rows = admin.execute(
            'SELECT "actorUserId", before, after FROM monitor."AuditLog" WHERE "entityId" = %s',
            [NAME],
        ).fetchall()
    assert [row[0] for row in rows] == ["operator"]
    assert rows[0][2]["for_seconds"] == 77
    back = await change(watcher, "for_seconds", "mute_until_time", for_seconds=before.for_seconds)
    assert not back.HasField("mute_until_time")


@pytest.mark.parametrize(
    ("paths", "values", "why"),
    [
        (("critical_at",), {"critical_at": 1.0}, "THRESHOLDS_DISORDERED"),
        (("clear_at",), {"clear_at": 21.0}, "THRESHOLDS_DISORDERED"),
        (("unit",), {"unit": "s"}, "UPDATE_MASK_INVALID"),
        (("warning_at",), {"warning_at": float("nan")}, "INVALID_REQUEST"),
        (("for_seconds",), {"for_seconds": -1}, "INVALID_REQUEST"),
    ],
)
async def test_what_contradicts_itself_changes_nothing(
    watcher: Monitor, paths: tuple[str, ...], values: dict[str, Any], why: str
) -> None:
    before = await rule(watcher)
    assert await reason(change(watcher, *paths, **values)) == why
    assert await rule(watcher) == before


async def test_an_unknown_rule_is_not_found(watcher: Monitor) -> None:
    request = pb.UpdateAlertRuleRequest(alert_rule=pb.AlertRule(name="nonsense", enabled=True))
    assert await reason(watcher.stub().UpdateAlertRule(request)) == "ALERT_RULE_NOT_FOUND"


async def test_schools_and_those_who_may_only_look_change_nothing(watcher: Monitor) -> None:
    request = pb.UpdateAlertRuleRequest(alert_rule=pb.AlertRule(name=NAME, enabled=False))
    looking = watcher.token(None, ("monitor:read",), "looker")
    assert await reason(watcher.stub(looking).UpdateAlertRule(request)) == "SCOPE_MISSING"
    school = watcher.token(scopes=("monitor:read", "ops:write"))
    assert await reason(watcher.stub(school).UpdateAlertRule(request)) == "ORG_REFUSED"
    assert await reason(watcher.stub(school).ListAlertRules(pb.ListAlertRulesRequest())) == (
        "ORG_REFUSED"
    )
