"""The fake as a process."""

from __future__ import annotations

import argparse
import asyncio
import signal
from pathlib import Path

from libs.local.stripe_fake.fake import ATTEMPTS, RETRY_BASE_S, StripeFake


def main() -> None:
    """Serve until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(prog="libs.local.stripe_fake", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    parser.add_argument("--webhook-url")
    parser.add_argument("--webhook-secret", action="append", default=[], help="may be repeated")
    parser.add_argument("--state", type=Path, help="a file that outlives the process")
    parser.add_argument("--retry-base-s", type=float, default=RETRY_BASE_S)
    parser.add_argument("--attempts", type=int, default=ATTEMPTS)
    asyncio.run(_serve(parser.parse_args()))


async def _serve(options: argparse.Namespace) -> None:
    fake = StripeFake(
        port=options.port,
        webhook_url=options.webhook_url,
        webhook_secrets=options.webhook_secret,
        state=options.state,
        retry_base_s=options.retry_base_s,
        attempts=options.attempts,
    )
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with fake:
        print(f"stripe fake: {fake.url}", flush=True)
        await ended.wait()


if __name__ == "__main__":
    main()
