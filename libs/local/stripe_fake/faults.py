"""Faults that a test switches on, and when one strikes."""

from __future__ import annotations

import random
from dataclasses import dataclass
from fnmatch import fnmatchcase

from libs.local.stripe_fake.errors import BROKEN, TOO_MANY, Refusal

BEFORE = ("reset_before", "error_unsaved", "rate_limit", "lock_timeout")
WITHIN = ("error_saved", "error_after")
AFTER = ("cut_after", "hang_after")
REFUNDS = ("refund_pending", "refund_failed")
WEBHOOKS = ("webhook_drop", "webhook_late", "webhook_duplicate")
KINDS = (*BEFORE, "latency", *WITHIN, *AFTER, *REFUNDS, *WEBHOOKS)


class Cut(Exception):
    """The connection ends here, without an answer."""


@dataclass
class Fault:
    """Strikes `times` requests (None: all) of this method and path, or events of this type."""

    kind: str
    method: str = "*"
    path: str = "*"
    event: str = "*"
    times: int | None = 1
    delay_s: float = 60.0
    chance: float = 1.0
    hits: int = 0

    def matches(self, method: str, path: str, event: str) -> bool:
        """Whether it is meant for this."""
        return (
            fnmatchcase(method, self.method)
            and fnmatchcase(path, self.path)
            and fnmatchcase(event, self.event)
        )


class Faults:
    """The faults that are on, in the order they were switched on."""

    def __init__(self, seed: int = 0) -> None:
        self.on: list[Fault] = []
        self._random = random.Random(seed)  # noqa: S311

    def add(self, fault: Fault) -> None:
        """Switch one on."""
        if fault.kind not in KINDS:
            raise Refusal(f"No such fault: {fault.kind}; there are {', '.join(KINDS)}")
        self.on.append(fault)

    def take(
        self, kinds: tuple[str, ...], method: str = "", path: str = "", event: str = ""
    ) -> Fault | None:
        """The first of these kinds that strikes now; it counts as a hit."""
        for fault in self.on:
            spent = fault.times is not None and fault.hits >= fault.times
            meant = fault.kind in kinds and fault.matches(method, path, event)
            if meant and not spent and self._random.random() < fault.chance:
                fault.hits += 1
                return fault
        return None

    def refund_outcome(self) -> str:
        """The status of the next refund."""
        fault = self.take(REFUNDS)
        return fault.kind.removeprefix("refund_") if fault else "succeeded"


def strike_before(fault: Fault | None) -> None:
    """Refuse or cut a request that has done nothing yet."""
    if fault is None:
        return
    if fault.kind == "reset_before":
        raise Cut
    if fault.kind == "error_unsaved":
        raise broken()
    code = "rate_limit" if fault.kind == "rate_limit" else "lock_timeout"
    raise Refusal("Too many requests. Try again.", code, status=TOO_MANY)


def broken() -> Refusal:
    """Stripe's own failure."""
    message = "An unknown error occurred"
    return Refusal(message, status=BROKEN, kind="api_error", saved=True)
