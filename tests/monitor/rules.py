"""Thresholds of a check, changed for a while as an operator would."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from google.protobuf.field_mask_pb2 import FieldMask

from driveflow.monitor.v1 import alerts_pb2 as pb
from tests.monitor.serving import Monitor

THRESHOLDS = FieldMask(paths=["warning_at", "critical_at", "clear_at"])


@asynccontextmanager
async def warning_at(monitor: Monitor, name: str, threshold: float) -> AsyncIterator[None]:
    """Have a check warn there; its own thresholds are put back at the end."""
    stub = monitor.stub()
    rules = await stub.ListAlertRules(pb.ListAlertRulesRequest(page_size=1_000))
    (before,) = (rule for rule in rules.alert_rules if rule.name == name)
    before.ClearField("etag")
    wanted = pb.AlertRule(name=name, warning_at=threshold)
    await stub.UpdateAlertRule(pb.UpdateAlertRuleRequest(alert_rule=wanted, update_mask=THRESHOLDS))
    try:
        yield
    finally:
        await stub.UpdateAlertRule(
            pb.UpdateAlertRuleRequest(alert_rule=before, update_mask=THRESHOLDS)
        )
