"""Asking everything at once, side by side: each with its own time, none stopping the others."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial

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
from services.monitor.shared import Shared
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
        # However many watch: the database is asked once for all who want everything now.
        self._whole = Shared(partial(self._report, self._asked.values()))

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
        if not names:
            return await self._whole()
        return await self._report([each for name, each in self._asked.items() if name in names])

    async def _report(self, asked: Collection[Asked]) -> Report:
        started = time.perf_counter()
        at = self._desk.clock()
        # Not one behind the other: a database that does not answer is waited for once.
        answers = asyncio.gather(*map(self._ask, asked))
        rules, answered = await asyncio.gather(self._rules(), answers)
        checks = [
            self._judged(each, rules, measured, duration_ms)
            for each, (measured, duration_ms) in zip(asked, answered, strict=True)
        ]
        return Report(at=at, checks=tuple(checks), duration_ms=_ms_since(started))

    async def _rules(self) -> Mapping[str, Thresholds]:
        """Thresholds by check; as they come while the database does not answer."""
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S), self._desk.read() as conn:
                return {rule.name: rule.thresholds for rule in await store.all_rules(conn)}
        except Exception as error:  # noqa: BLE001 (the checks say what is wrong)
            log.warning("rules not read", extra={"exception": telemetry.describe(error)})
            return {}

    async def _ask(self, asked: Asked) -> tuple[Measured | Exception, float]:
        """What was measured, or why nothing was, and the ms that it took."""
        started = time.perf_counter()
        measured: Measured | Exception
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                measured = await asked.measure(self._desk)
        except Exception as error:  # noqa: BLE001 (one that can't be asked stops no other)
            measured = error
            if not isinstance(error, Unmeasurable):
                extra = {"check": asked.question.name, "exception": telemetry.describe(error)}
                log.warning("not checked", extra=extra)
        return measured, _ms_since(started)

    def _judged(
        self,
        asked: Asked,
        rules: Mapping[str, Thresholds],
        measured: Measured | Exception,
        duration_ms: float,
    ) -> Check:
        thresholds = rules.get(asked.question.name, asked.question.thresholds)
        if isinstance(measured, Measured):
            check = judged(asked.question, thresholds, measured)
        else:
            check = unknown(asked.question, thresholds, reason(measured))
        return replace(check, duration_ms=duration_ms)


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
