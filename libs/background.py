"""Background work of a process: runs as long as the process serves."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any


def run(stack: AsyncExitStack, *work: Coroutine[Any, Any, None]) -> None:
    """Start each as a task; the stack cancels them and waits for their end."""
    tasks = [asyncio.create_task(coroutine) for coroutine in work]

    async def stop() -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    stack.push_async_callback(stop)
