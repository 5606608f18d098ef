"""Alerts: what a check's verdict makes of the alert of its rule, from one report to the next.

A condition is pending from the first bad verdict on; when it has held for the rule's `for_s` it
fires. An open alert is resolved when its figure has been clear for `clear_s`. Reports come minutes
apart: what is the same in two of them counts as the same in between.

A check without an answer (UNKNOWN) changes nothing. It is no reason to wake anybody for what was
asked about, nor to call it well, and it shows in every report as what it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from services.monitor.model.checks import Check, Verdict
from services.monitor.model.rules import Rule


class State(StrEnum):
    """Where an alert is; each state follows the one before."""

    PENDING = "pending"
    OPEN = "open"
    RESOLVED = "resolved"


class Kind(StrEnum):
    """What is told of an alert."""

    FIRED = "fired"
    ESCALATED = "escalated"
    RESOLVED = "resolved"


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One of a rule; what it looked like stays as it was when it fired."""

    id: str = ""
    """UUID; empty before it is stored."""
    rule: str
    state: State
    severity: Verdict
    """The worst that it came to."""
    summary: str = ""
    figure: float | None = None
    threshold: float | None = None
    unit: str = ""
    evidence: tuple[str, ...] = ()
    next_step: str = ""
    command: str = ""
    started_at: datetime
    """Since when it holds."""
    fired_at: datetime | None = None
    clear_at: datetime | None = None
    """Since when an open one is well, without a break."""
    resolved_at: datetime | None = None
    muted: bool = False
    """No sink was told when it fired."""
    told: bool = False
    """A sink heard of it, and so must hear of its end."""
    acknowledged_by: str = ""
    acknowledged_at: datetime | None = None
    note: str = ""
    version: int = 1


@dataclass(frozen=True, slots=True)
class Step:
    """What became of an alert."""

    alert: Alert | None
    """None: there is none (any more)."""
    kind: Kind | None = None
    """What there is to tell."""
    to_sinks: bool = False
    """Whether to others than the log."""


def step(alert: Alert | None, check: Check, rule: Rule | None, at: datetime) -> Step:
    """What the answer at a time makes of the rule's pending or open alert.

    A rule that is disabled, or gone, fires nothing, and what is open is resolved.
    """
    if rule is None or not rule.enabled:
        return retired(alert, at)
    if check.verdict is Verdict.UNKNOWN:
        return Step(alert)
    bad = check.verdict is not Verdict.OK
    if alert is not None and alert.state is State.OPEN:
        return _still(alert, check, rule, at) if bad else _perhaps_well(alert, check, at)
    return _perhaps_fires(alert, check, rule, at) if bad else Step(None)


def retired(alert: Alert | None, at: datetime) -> Step:
    """The end of the alert of a rule that counts no more."""
    if alert is None or alert.state is not State.OPEN:
        return Step(None)
    return _resolved(alert, at)


def _perhaps_fires(alert: Alert | None, check: Check, rule: Rule, at: datetime) -> Step:
    if alert is None:
        alert = Alert(rule=rule.name, state=State.PENDING, severity=check.verdict, started_at=at)
    alert = _worse(alert, check)
    if at - alert.started_at < timedelta(seconds=check.question.thresholds.for_s):
        return Step(alert)
    muted = is_muted(rule, at)
    fired = replace(
        alert,
        state=State.OPEN,
        summary=check.summary,
        figure=check.figure,
        threshold=check.threshold,
        unit=check.question.unit,
        evidence=check.evidence,
        next_step=check.question.next_step,
        command=check.question.command,
        fired_at=at,
        muted=muted,
        told=not muted,
    )
    return Step(fired, Kind.FIRED, to_sinks=not muted)


def _still(alert: Alert, check: Check, rule: Rule, at: datetime) -> Step:
    worse = _worse(replace(alert, clear_at=None), check)
    if worse.severity is alert.severity:
        return Step(worse)
    muted = is_muted(rule, at)
    return Step(replace(worse, told=alert.told or not muted), Kind.ESCALATED, to_sinks=not muted)


def _perhaps_well(alert: Alert, check: Check, at: datetime) -> Step:
    thresholds = check.question.thresholds
    if not thresholds.is_clear(check.figure):
        return Step(replace(alert, clear_at=None))
    well = replace(alert, clear_at=alert.clear_at or at)
    if at - (alert.clear_at or at) < timedelta(seconds=thresholds.clear_s):
        return Step(well)
    return _resolved(well, at)


def _resolved(alert: Alert, at: datetime) -> Step:
    ended = replace(alert, state=State.RESOLVED, resolved_at=at)
    return Step(ended, Kind.RESOLVED, to_sinks=alert.told)


def _worse(alert: Alert, check: Check) -> Alert:
    critical = Verdict.CRITICAL in (alert.severity, check.verdict)
    return replace(alert, severity=Verdict.CRITICAL if critical else Verdict.WARNING)


def is_muted(rule: Rule, at: datetime) -> bool:
    """Whether the rule's alerts reach no sink at that time."""
    return rule.muted_until is not None and at < rule.muted_until
