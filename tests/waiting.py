"""Patience: what a test waits for is looked at until it is so, and nothing is slept away.

Much comes true after the call that caused it has returned: a refused call's line in the log and its
span end behind its status, events are heard later, and another process writes when it likes.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

PATIENCE_S = 20.0
EVERY_S = 0.01
SeenT = TypeVar("SeenT")


@overload
async def eventually(
    look: Callable[[], Awaitable[SeenT]],
    is_so: Callable[[SeenT], object] = bool,
    *,
    within_s: float = PATIENCE_S,
) -> SeenT: ...


@overload
async def eventually(
    look: Callable[[], SeenT],
    is_so: Callable[[SeenT], object] = bool,
    *,
    within_s: float = PATIENCE_S,
) -> SeenT: ...


async def eventually(
    look: Callable[[], Any],
    is_so: Callable[[Any], object] = bool,
    *,
    within_s: float = PATIENCE_S,
) -> Any:
    """What is seen once it is as it should be; fails when that takes too long."""
    give_up = time.monotonic() + within_s
    while True:
        seen = look()
        if inspect.isawaitable(seen):
            seen = await seen
        if is_so(seen):
            return seen
        assert time.monotonic() < give_up, f"after {within_s:g} s still {seen!r}"
        await asyncio.sleep(EVERY_S)
