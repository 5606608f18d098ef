"""Checks: a question with thresholds, what was measured, and the verdict."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

EVIDENCE_MAX = 10
"""Lines of a check; more are counted in the last one."""


class Verdict(StrEnum):
    """How a check came out."""

    OK = "ok"
    UNKNOWN = "unknown"
    WARNING = "warning"
    CRITICAL = "critical"


SEVERITY = {Verdict.OK: 0, Verdict.UNKNOWN: 1, Verdict.WARNING: 1, Verdict.CRITICAL: 2}


class Direction(StrEnum):
    """On which side of a threshold it is bad; the threshold itself is."""

    ABOVE = "above"
    BELOW = "below"


class Unmeasurable(Exception):
    """There is no figure; the message, a sentence for operators, says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """When a figure is bad, and when that is an alert."""

    direction: Direction = Direction.ABOVE
    warning_at: float | None = None
    critical_at: float | None = None
    clear_at: float | None = None
    """Hysteresis; None: as warning_at."""
    for_s: int = 0
    """How long it must hold before it fires."""
    clear_s: int = 300
    """How long it must be well before it is resolved."""

    def passed(self, figure: float, threshold: float | None) -> bool:
        """Whether a figure is on the bad side."""
        if threshold is None:
            return False
        return figure >= threshold if self.direction is Direction.ABOVE else figure <= threshold

    def verdict(self, figure: float | None) -> Verdict:
        """Of what was measured; nothing to measure is well."""
        if figure is None:
            return Verdict.OK
        if self.passed(figure, self.critical_at):
            return Verdict.CRITICAL
        return Verdict.WARNING if self.passed(figure, self.warning_at) else Verdict.OK

    def is_clear(self, figure: float | None) -> bool:
        """Whether an open alert may begin to end."""
        if figure is None:
            return True
        if self.verdict(figure) is not Verdict.OK:
            return False
        return self.clear_at is None or not self.passed(figure, self.clear_at)

    @property
    def threshold(self) -> float | None:
        """The first one."""
        return self.critical_at if self.warning_at is None else self.warning_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a check asks, and why."""

    name: str
    """snake_case."""
    title: str
    unit: str
    """count, percent, ms, seconds, days, bytes, ratio."""
    why: str
    next_step: str
    command: str
    """A line for a shell, by `grpcurl` below."""
    thresholds: Thresholds
    """As it comes; the alert rule's count once there is one."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The answer to a question, before it is judged."""

    figure: float | None
    """None: there is nothing to measure, and that is well."""
    summary: str
    """A sentence with the figure; nothing of a school."""
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A question with its answer."""

    question: Question
    verdict: Verdict
    figure: float | None
    threshold: float | None
    summary: str
    evidence: tuple[str, ...] = ()
    duration_ms: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The answers to all questions at one time."""

    at: datetime
    checks: tuple[Check, ...]
    duration_ms: float
    id: str = ""
    """UUID; empty while it is not kept."""
    status: Verdict = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "status", worst(check.verdict for check in self.checks))
        ordered = sorted(self.checks, key=lambda c: (-SEVERITY[c.verdict], c.question.name))
        object.__setattr__(self, "checks", tuple(ordered))


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst of them; what is unknown is a warning."""
    found = max(verdicts, key=SEVERITY.__getitem__, default=Verdict.OK)
    return Verdict.WARNING if found is Verdict.UNKNOWN else found


def judged(question: Question, thresholds: Thresholds, measured: Measured) -> Check:
    """The answer with its verdict."""
    return Check(
        question=replace(question, thresholds=thresholds),
        verdict=thresholds.verdict(measured.figure),
        figure=measured.figure,
        threshold=thresholds.threshold,
        summary=measured.summary,
        evidence=shortened(measured.evidence),
    )


def unknown(question: Question, thresholds: Thresholds, reason: str) -> Check:
    """A question that could not be asked."""
    return Check(
        question=replace(question, thresholds=thresholds),
        verdict=Verdict.UNKNOWN,
        figure=None,
        threshold=thresholds.threshold,
        summary=reason,
    )


def shortened(lines: Iterable[str]) -> tuple[str, ...]:
    """At most EVIDENCE_MAX lines; the last one counts those left out."""
    lines = tuple(lines)
    if len(lines) <= EVIDENCE_MAX:
        return lines
    return (*lines[: EVIDENCE_MAX - 1], f"and {len(lines) - EVIDENCE_MAX + 1} more")


def grpcurl(method: str, request: Mapping[str, object] | None = None) -> str:
    """The line that asks a method of MonitorService, as an operator types it."""
    body = "" if not request else f" -d '{json.dumps(request)}'"
    return (
        'grpcurl -plaintext -H "authorization: Bearer $DRIVEFLOW_OPS_TOKEN"'
        f'{body} "$DRIVEFLOW_MONITOR_ADDR" driveflow.monitor.v1.MonitorService/{method}'
    )
