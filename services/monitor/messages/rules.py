"""Alert rules as messages, and what a message changes of one."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from google.protobuf.json_format import MessageToDict

from driveflow.monitor.v1 import alerts_pb2 as pb
from libs import masks
from libs.messages import stamp, time
from services.monitor.model.checks import Direction
from services.monitor.model.rules import Rule

DIRECTIONS = {
    Direction.ABOVE: pb.DIRECTION_ABOVE,
    Direction.BELOW: pb.DIRECTION_BELOW,
}
MUTABLE = (
    "enabled",
    "warning_at",
    "critical_at",
    "clear_at",
    "for_seconds",
    "clear_seconds",
    "mute_until_time",
)


def rule(of: Rule) -> pb.AlertRule:
    """A rule."""
    return pb.AlertRule(
        name=of.name,
        enabled=of.enabled,
        direction=DIRECTIONS[of.thresholds.direction],
        unit=of.unit,
        warning_at=of.thresholds.warning_at,
        critical_at=of.thresholds.critical_at,
        clear_at=of.thresholds.clear_at,
        for_seconds=of.thresholds.for_s,
        clear_seconds=of.thresholds.clear_s,
        mute_until_time=stamp(of.muted_until),
        etag=str(of.version),
        update_time=stamp(of.updated_at),
        updated_by=of.updated_by,
    )


def changed(of: Rule, message: pb.AlertRule, paths: Collection[str]) -> Rule:
    """The rule with the values that `paths` name; what is named and unset is taken away."""
    thresholds = of.thresholds
    if "warning_at" in paths:
        value = message.warning_at if message.HasField("warning_at") else None
        thresholds = replace(thresholds, warning_at=value)
    if "critical_at" in paths:
        value = message.critical_at if message.HasField("critical_at") else None
        thresholds = replace(thresholds, critical_at=value)
    if "clear_at" in paths:
        value = message.clear_at if message.HasField("clear_at") else None
        thresholds = replace(thresholds, clear_at=value)
    if "for_seconds" in paths:
        thresholds = replace(thresholds, for_s=message.for_seconds)
    if "clear_seconds" in paths:
        thresholds = replace(thresholds, clear_s=message.clear_seconds)
    if "enabled" in paths:
        of = replace(of, enabled=message.enabled)
    if "mute_until_time" in paths:
        of = replace(of, muted_until=time(message, "mute_until_time"))
    return replace(of, thresholds=thresholds)


def audited(of: Rule, paths: Collection[str]) -> dict[str, object]:
    """What the audit log keeps of a rule: the values that a change names."""
    return MessageToDict(masks.kept(rule(of), list(paths)), preserving_proto_field_name=True)
