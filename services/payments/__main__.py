"""The payments service: settings, pool, serve."""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial

from libs import checks, pooling, server
from libs.access import Verifier
from libs.settings import Settings


async def main(settings: Settings) -> None:
    """Serve until told to stop."""
    async with AsyncExitStack() as stack:
        pool = pooling.create("payments", settings.dsn.get_secret_value(), settings)
        await checks.open_pools(stack, settings.start_timeout_s, pool)
        await checks.refuse_wrong_start(pool, "payments")
        probe = partial(checks.answer, pool)
        await server.Server(settings, Verifier.of(settings), probe=probe).serve()


if __name__ == "__main__":
    server.run("payments", Settings, main)
