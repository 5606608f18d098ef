"""Errors in Stripe's shape."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

BAD, UNAUTHORIZED, DECLINED, MISSING, CONFLICT, TOO_MANY, BROKEN = 400, 401, 402, 404, 409, 429, 500


class Refusal(Exception):
    """An answer that is an error. `saved`: work had begun, so an idempotency key keeps it."""

    def __init__(
        self,
        message: str,
        code: str | None = None,
        *,
        param: str | None = None,
        status: int = BAD,
        kind: str = "invalid_request_error",
        saved: bool = False,
        **more: Any,
    ) -> None:
        super().__init__(message)
        self.status, self.saved = status, saved
        fields = {"type": kind, "code": code, "message": message, "param": param, **more}
        self.body: Json = {"error": {k: v for k, v in fields.items() if v is not None}}


def refused(message: str, code: str | None = None, **more: Any) -> Refusal:
    """What the state does not allow: begun work, saved under the request's key."""
    return Refusal(message, code, saved=True, **more)


def missing(what: str, key: str, param: str = "id", status: int = MISSING) -> Refusal:
    """There is no such object; as a parameter of another one it is a 400."""
    return Refusal(f"No such {what}: '{key}'", "resource_missing", param=param, status=status)
