"""Alerts as messages, and as what a webhook is told."""

from __future__ import annotations

from typing import Any

from google.protobuf.json_format import MessageToDict

from driveflow.monitor.v1 import alerts_pb2 as pb
from libs.messages import stamp
from services.monitor.messages.health import VERDICTS
from services.monitor.model.alerts import Alert, Kind, State
from services.monitor.model.checks import Check

STATES = {
    pb.ALERT_STATE_UNSPECIFIED: None,
    pb.ALERT_STATE_OPEN: State.OPEN,
    pb.ALERT_STATE_RESOLVED: State.RESOLVED,
}


def alert(of: Alert) -> pb.Alert:
    """An alert that has fired."""
    return pb.Alert(
        id=of.id,
        rule=of.rule,
        severity=VERDICTS[of.severity],
        summary=of.summary,
        figure=of.figure,
        threshold=of.threshold,
        unit=of.unit,
        evidence=of.evidence,
        next_step=of.next_step,
        command=of.command,
        start_time=stamp(of.started_at),
        fire_time=stamp(of.fired_at),
        resolve_time=stamp(of.resolved_at),
        acknowledged_by=of.acknowledged_by,
        acknowledge_time=stamp(of.acknowledged_at),
        note=of.note,
        muted=of.muted,
    )


def notification(of: Alert, kind: Kind, check: Check | None) -> dict[str, Any]:
    """What a webhook is told: the alert as ListAlerts has it, and how it looks at this moment."""
    told: dict[str, Any] = {
        "kind": kind.value,
        "alert": MessageToDict(alert(of), preserving_proto_field_name=True),
    }
    if check is not None:
        told["now"] = {
            "verdict": check.verdict.value,
            "figure": check.figure,
            "summary": check.summary,
        }
    return told
