"""The payments service, which dies by SIGKILL where a file says, and is there again at once.

    FATAL=/some/file python -m tests.payments.chaos.launcher

The file names a method, a place in it and which passing is fatal: `CreatePayment claimed 2`. It is
gone before the service is, so each is fatal once. Beside it, FATAL.pid has the number of the
process that serves. This process only starts the next one: it has imported everything by then,
which takes longer than all else.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from uuid import UUID

from libs import server
from libs.orgs import Orgs
from libs.pooling import Connection
from services.payments import __main__ as service
from services.payments.servicer.payments import PaymentServicer
from services.payments.stripe_gateway import StripeGateway

METHODS = ("CreatePayment", "RefundPayment", "CreatePayout")
CALLS = ("create_intent", "create_refund", "create_transfer")
WRITES = (("claiming", "claimed"), ("recording", "recorded"), ("keeping", "kept"))
"""Of the transactions of a call: inside the block and before COMMIT, and after COMMIT."""
PLACES = ("claiming", "claimed", "called", "recording", "recorded", "keeping", "kept")
"""In the order in which a call passes them; `called`: Stripe has answered."""
SWEEP_S = 0.2


class Fatal:
    """Where this process is to die."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._passed: Counter[str] = Counter()
        self._call: ContextVar[tuple[str, list[int]] | None] = ContextVar("fatal", default=None)

    def install(self) -> None:
        """Have the service's own methods pass by here."""
        for name in METHODS:
            setattr(PaymentServicer, name, self._method(name, getattr(PaymentServicer, name)))
        for name in CALLS:
            setattr(StripeGateway, name, self._stripe(getattr(StripeGateway, name)))
        setattr(Orgs, "write", self._write(Orgs.write))  # noqa: B010 (mypy refuses the other way)

    def _method(
        self, name: str, method: Callable[..., Awaitable[Any]]
    ) -> Callable[..., Awaitable[Any]]:
        @functools.wraps(method)
        async def called(*arguments: Any) -> Any:
            self._call.set((name, [0]))
            return await method(*arguments)

        return called

    def _stripe(self, method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @functools.wraps(method)
        async def asked(*arguments: Any) -> Any:
            answer = await method(*arguments)
            self._pass("called")
            return answer

        return asked

    def _write(self, write: Callable[[Orgs, UUID], Any]) -> Callable[[Orgs, UUID], Any]:
        @asynccontextmanager
        async def written(orgs: Orgs, org_id: UUID) -> AsyncIterator[Connection]:
            before, after = self._next_write()
            async with write(orgs, org_id) as conn:
                yield conn
                self._pass(before)
            self._pass(after)

        return written

    def _next_write(self) -> tuple[str, str]:
        call = self._call.get()
        if call is None:
            return "", ""
        call[1][0] += 1
        return WRITES[min(call[1][0], len(WRITES)) - 1]

    def _pass(self, place: str) -> None:
        call = self._call.get()
        if call is None or not self._path.exists():
            return
        method, fatal, passing = self._path.read_text().split()
        if (method, fatal) != (call[0], place):
            return
        self._passed[f"{method} {fatal}"] += 1
        if self._passed[f"{method} {fatal}"] == int(passing):
            self._path.unlink()
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> int:
    """Serve, and once more after each SIGKILL; the exit code of another end."""
    path = Path(os.environ["FATAL"])
    status: int = signal.SIGKILL
    while os.WTERMSIG(status) == signal.SIGKILL:
        pid = os.fork()
        if pid == 0:
            _serve(path)
        _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def _serve(path: Path) -> None:
    written = path.with_suffix(".new")
    written.write_text(str(os.getpid()))
    written.rename(path.with_suffix(".pid"))
    service.SWEEP_S = SWEEP_S
    Fatal(path).install()
    server.run("payments", service.Settings, service.main)
    sys.exit(0)


if __name__ == "__main__":
    sys.exit(main())
