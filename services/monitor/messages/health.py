"""Reports and checks as messages."""

from __future__ import annotations

from typing import Any

from driveflow.monitor.v1 import health_pb2 as pb
from libs.messages import stamp
from services.monitor.model.checks import Check, Report, Verdict

VERDICTS = {
    Verdict.OK: pb.VERDICT_OK,
    Verdict.WARNING: pb.VERDICT_WARNING,
    Verdict.CRITICAL: pb.VERDICT_CRITICAL,
    Verdict.UNKNOWN: pb.VERDICT_UNKNOWN,
}


def report(of: Report) -> pb.HealthReport:
    """A report with its checks."""
    return pb.HealthReport(
        id=of.id,
        status=VERDICTS[of.status],
        checks=[check(each) for each in of.checks],
        time=stamp(of.at),
        duration_ms=of.duration_ms,
    )


def check(of: Check) -> pb.Check:
    """A question with its answer."""
    return pb.Check(
        name=of.question.name,
        title=of.question.title,
        verdict=VERDICTS[of.verdict],
        figure=of.figure,
        unit=of.question.unit,
        threshold=of.threshold,
        summary=of.summary,
        why=of.question.why,
        next_step=of.question.next_step,
        command=of.question.command,
        evidence=of.evidence,
        duration_ms=of.duration_ms,
    )


def recalled(of: dict[str, Any]) -> pb.Check:
    """A check of a kept report, from the JSON that store.health made of it."""
    return pb.Check(**{**of, "verdict": VERDICTS[Verdict(of["verdict"])]})
