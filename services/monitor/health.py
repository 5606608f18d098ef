"""Asking everything at once, side by side: each with its own time, none stopping the others."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import psycopg_pool
from psycopg import errors as pg

from libs import telemetry
from services.monitor.checks.asked import Asked
from services.monitor.model.checks import (
    Check,
    Measured,
    Report,
    Thresholds,
    Unmeasurable,
    judged,
    unknown,
)
from services.monitor.servicer.desk import Desk
from services.monitor.store import rules as store

log = logging.getLogger(__name__)

CHECK_TIMEOUT_S = 2.0
_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (
        pg.InsufficientPrivilege,
        "the role monitor lacks a privilege: run `driveflow bootstrap`, which grants pg_monitor",
    ),
    (
        pg.ObjectNotInPrerequisiteState,
        "pg_stat_statements is not loaded: put it into shared_preload_libraries and restart",
    ),
    (
        pg.UndefinedTable,
        "an extension or a migration is missing: run `driveflow bootstrap` and `driveflow migrate`",
    ),
    (
        pg.UndefinedFunction,
        "an extension or a migration is missing: run `driveflow bootstrap` and `driveflow migrate`",
    ),
    (pg.LockNotAvailable, "something it reads is locked: GetLockTree says by whom"),
    (pg.QueryCanceled, "the database took too long to answer it"),
    (TimeoutError, f"no answer within {CHECK_TIMEOUT_S:g} s"),
    (psycopg_pool.PoolTimeout, "the monitor's own connections are all in use"),
    (psycopg_pool.TooManyRequests, "the monitor's own connections are all in use"),
    (pg.OperationalError, "the database can't be reached"),
)


class Health:
    """Asks the questions of CheckHealth."""

    def __init__(self, desk: Desk, asked: Sequence[Asked]) -> None:
        self._desk = desk
        self._asked = {each.question.name: each for each in asked}

    @property
    def names(self) -> Collection[str]:
        """Of all questions."""
        return self._asked.keys()

    async def make_rules(self) -> None:
        """A rule for each question that has none yet."""
        async with self._desk.write() as conn:
            for each in self._asked.values():
                await store.add_rule(conn, each.question)

    async def report(self, names: Collection[str] = ()) -> Report:
        """Ask the named questions, all without names; never raises for what it finds."""
        started = time.perf_counter()
        at = self._desk.clock()
        thresholds = await self._thresholds()
        asked = [each for name, each in self._asked.items() if not names or name in names]
        checks = await asyncio.gather(*(self._ask(each, thresholds) for each in asked))
        return Report(at=at, checks=tuple(checks), duration_ms=_ms_since(started))

    async def _thresholds(self) -> Mapping[str, Thresholds]:
        """Of the rules; as they come while the database does not answer."""
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S), self._desk.read() as conn:
                return {rule.name: rule.thresholds for rule in await store.all_rules(conn)}
        except Exception as error:  # noqa: BLE001 (the checks say what is wrong)
            log.warning("rules not read", extra={"exception": telemetry.describe(error)})
            return {}

    async def _ask(self, asked: Asked, rules: Mapping[str, Thresholds]) -> Check:
        question = asked.question
        thresholds = rules.get(question.name, question.thresholds)
        started = time.perf_counter()
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                measured: Measured = await asked.measure(self._desk)
            check = judged(question, thresholds, measured)
        except Exception as error:  # noqa: BLE001 (one that can't be asked stops no other)
            check = unknown(question, thresholds, reason(error))
            if not isinstance(error, Unmeasurable):
                exception = telemetry.describe(error)
                log.warning("not checked", extra={"check": question.name, "exception": exception})
        return replace(check, duration_ms=_ms_since(started))


def reason(error: Exception) -> str:
    """Why a question has no answer, in a sentence of ours."""
    if isinstance(error, Unmeasurable):
        return str(error)
    for kind, sentence in _REASONS:
        if isinstance(error, kind):
            return sentence
    return f"the check itself failed ({type(error).__name__}); the monitor's log says where"


def _ms_since(started: float) -> float:
    return (time.perf_counter() - started) * 1000
