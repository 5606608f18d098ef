"""The replicas that the settings name: what they alone know."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import psycopg

from libs import leader
from libs.pooling import Connection

TIMEOUT_S = 1.5
"""A check that asks them has two seconds."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Asked(Generic[T]):
    """What they answered, by name."""

    answers: Mapping[str, T]
    silent: Mapping[str, str]
    """Those that did not, with the reason."""


class Replicas:
    """Connections to replicas are opened for each question: it is asked seldom."""

    def __init__(self, dsns: Mapping[str, str]) -> None:
        self._dsns = dsns

    @property
    def names(self) -> list[str]:
        """As they are configured."""
        return list(self._dsns)

    async def ask(self, question: Callable[[Connection], Awaitable[T]]) -> Asked[T]:
        """Ask all of them, side by side."""
        found = await asyncio.gather(*(self._ask(dsn, question) for dsn in self._dsns.values()))
        named = dict(zip(self._dsns, found, strict=True))
        return Asked(
            {name: each[0] for name, each in named.items() if isinstance(each, tuple)},
            {name: each for name, each in named.items() if isinstance(each, str)},
        )

    async def _ask(
        self, dsn: str, question: Callable[[Connection], Awaitable[T]]
    ) -> tuple[T] | str:
        try:
            async with asyncio.timeout(TIMEOUT_S), leader.connect(dsn, "monitor") as conn:
                return (await question(conn),)
        except (psycopg.Error, OSError, TimeoutError) as error:
            return type(error).__name__
