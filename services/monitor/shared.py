"""An answer for all who ask at the same time: the questions of one report ask side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Shared(Generic[T]):
    """Asks once for all who come while the answer is under way; who comes later asks anew."""

    def __init__(self, ask: Callable[[], Awaitable[T]]) -> None:
        self._ask = ask
        self._under_way: asyncio.Task[T] | None = None

    async def __call__(self) -> T:
        """The answer; raises what asking raises, for all who wait."""
        task = self._under_way
        if task is None or task.done():
            task = self._under_way = asyncio.create_task(self._answer())
        # One who gives up does not take the answer from the others.
        return await asyncio.shield(task)

    async def _answer(self) -> T:
        return await self._ask()
