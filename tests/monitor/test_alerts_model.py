"""The life of an alert beside a model that looks at the whole history anew each time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from hypothesis import settings
from hypothesis import strategies as some
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from services.monitor.model.alerts import Alert, Kind, State, step
from services.monitor.model.checks import (
    Check,
    Measured,
    Question,
    Thresholds,
    Verdict,
    judged,
    unknown,
)
from services.monitor.model.rules import Rule

START = datetime(2027, 1, 1, tzinfo=UTC)
WELL, BETWEEN, WARNING, CRITICAL = 10.0, 70.0, 80.0, 95.0
FIGURES = some.sampled_from([WELL, WELL, BETWEEN, WARNING, WARNING, CRITICAL, None])
"""None: the question could not be asked."""
MINUTES = some.sampled_from([0, 1, 5, 5, 5, 60])
RULE = Rule(
    name="full",
    unit="percent",
    enabled=True,
    thresholds=Thresholds(warning_at=WARNING, critical_at=90, clear_s=0),
    muted_until=None,
    version=1,
    updated_at=START,
    updated_by="",
)


@dataclass(frozen=True)
class Seen:
    """What a report said."""

    at: datetime
    figure: float | None


class Life(RuleBasedStateMachine):
    """One rule, its reports, and what was told."""

    @initialize(for_s=some.sampled_from([0, 60, 600]), clear_s=some.sampled_from([0, 60, 600]))
    def begin(self, for_s: int, clear_s: int) -> None:
        self.now = START
        self.thresholds = Thresholds(
            warning_at=WARNING, critical_at=90, clear_at=60, for_s=for_s, clear_s=clear_s
        )
        self.rule = replace(RULE, thresholds=self.thresholds)
        self.alert: Alert | None = None
        # The model's own: what counts for the alert there is now, or for the next one.
        self.history: list[Seen] = []
        self.is_open = False
        self.fired_as: Alert | None = None
        self.heard: list[Kind] = []
        self.sent: list[Kind] = []

    @rule(figure=FIGURES, minutes=MINUTES)
    def report(self, figure: float | None, minutes: int) -> None:
        self.now += timedelta(minutes=minutes)
        became = step(self.alert, check(figure, self.thresholds), self.rule, self.now)
        self.history.append(Seen(self.now, figure))
        expected = self.expected()
        assert became.kind == expected
        muted = self.rule.muted_until is not None and self.now < self.rule.muted_until
        if expected is Kind.RESOLVED:
            assert became.to_sinks == bool(self.sent)
        elif expected is not None:
            assert became.to_sinks == (not muted)
        if expected is Kind.FIRED:
            self.heard, self.sent = [], []
            self.fired_as = became.alert
            assert became.alert is not None
            assert (became.alert.figure, became.alert.muted) == (figure, muted)
        if became.kind is not None:
            self.heard.append(became.kind)
            self.sent += [became.kind] if became.to_sinks else []
        self.alert = became.alert
        if expected is Kind.RESOLVED:
            assert self.alert is not None
            assert (self.alert.state, self.alert.resolved_at) == (State.RESOLVED, self.now)
            self.alert, self.history = None, []

    @rule(on=some.booleans())
    def enable(self, on: bool) -> None:
        self.rule = replace(self.rule, enabled=on)

    @rule(minutes=some.sampled_from([None, 3, 30]))
    def mute(self, minutes: int | None) -> None:
        until = None if minutes is None else self.now + timedelta(minutes=minutes)
        self.rule = replace(self.rule, muted_until=until)

    @invariant()
    def the_alert_is_that_of_the_history(self) -> None:
        if self.is_open:
            assert self.alert is not None
            assert self.fired_as is not None
            assert self.alert.state is State.OPEN
            assert self.alert.severity is self.worst()
            assert self.alert.started_at == self.bad_since()
            # What it looked like stays.
            assert self.alert.summary == self.fired_as.summary
            assert self.heard == [Kind.FIRED, Kind.ESCALATED][: len(self.heard)]
        elif self.alert is not None:
            assert self.alert.state is State.PENDING
            assert self.alert.started_at == self.bad_since()

    # --- the model ---

    def expected(self) -> Kind | None:
        """What the last report makes of it all."""
        known = [seen for seen in self.history if seen.figure is not None]
        if not self.rule.enabled:
            self.history = []
            was_open, self.is_open = self.is_open, False
            return Kind.RESOLVED if was_open else None
        if self.history[-1].figure is None:
            return None
        figure = known[-1].figure or 0.0
        if self.is_open:
            clear = run(known, lambda seen: seen <= 60)
            if clear and self.now - clear[0].at >= timedelta(seconds=self.thresholds.clear_s):
                self.is_open = False
                return Kind.RESOLVED
            critical_before = any(seen.figure == CRITICAL for seen in known[:-1])
            return Kind.ESCALATED if figure == CRITICAL and not critical_before else None
        bad = run(known, lambda seen: seen >= WARNING)
        self.history = bad
        if bad and self.now - bad[0].at >= timedelta(seconds=self.thresholds.for_s):
            self.is_open = True
            return Kind.FIRED
        return None

    def bad_since(self) -> datetime:
        return self.history[0].at

    def worst(self) -> Verdict:
        critical = any(seen.figure == CRITICAL for seen in self.history)
        return Verdict.CRITICAL if critical else Verdict.WARNING


def check(figure: float | None, thresholds: Thresholds) -> Check:
    """A check's answer; None: it could not be asked."""
    question = Question(
        name="full", title="", unit="percent", why="", next_step="", command="",
        thresholds=thresholds,
    )  # fmt: skip
    if figure is None:
        return unknown(question, thresholds, "not asked")
    return judged(question, thresholds, Measured(figure, f"{figure} percent are used"))


def run(known: list[Seen], is_so: Callable[[float], bool]) -> list[Seen]:
    """The last ones, without a break."""
    found: list[Seen] = []
    for seen in reversed(known):
        if seen.figure is None or not is_so(seen.figure):
            break
        found.insert(0, seen)
    return found


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)


def test_a_sink_that_only_heard_that_it_became_worse_hears_of_its_end() -> None:
    muted = replace(RULE, muted_until=START + timedelta(minutes=1))
    fired = step(None, check(WARNING, RULE.thresholds), muted, START)
    assert (fired.kind, fired.to_sinks) == (Kind.FIRED, False)
    later = START + timedelta(minutes=1)
    worse = step(fired.alert, check(CRITICAL, RULE.thresholds), muted, later)
    assert (worse.kind, worse.to_sinks) == (Kind.ESCALATED, True)
    ended = step(worse.alert, check(WELL, RULE.thresholds), muted, later)
    assert (ended.kind, ended.to_sinks) == (Kind.RESOLVED, True)
