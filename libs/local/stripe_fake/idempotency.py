"""Answers kept under their idempotency keys, by the rules that Stripe documents."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager

from libs.local.stripe_fake.errors import CONFLICT, Json, Refusal
from libs.local.stripe_fake.state import State

KEPT_S, LONGEST_KEY = 24 * 3600, 255


def fingerprint(path: str, values: Json) -> str:
    """What a key is bound to: the endpoint and every parameter."""
    canonical = json.dumps(values, sort_keys=True)
    return hashlib.sha256(f"{path}\n{canonical}".encode()).hexdigest()


class Keys:
    """Keys of requests that are done, in the state, and of those under way."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._under_way: set[str] = set()

    def answer(self, key: str, path: str, digest: str) -> Json | None:
        """The answer saved under a key; None if there is none, or one older than a day.

        Refused: other parameters or another endpoint (400), a request still under way (409).
        """
        if len(key) > LONGEST_KEY:
            raise Refusal(f"Idempotency keys are at most {LONGEST_KEY} characters long")
        if key in self._under_way:
            message = f"There is currently another in-progress request using this key: {key}"
            raise Refusal(
                message, "idempotency_key_in_use", status=CONFLICT, kind="idempotency_error"
            )
        saved = self._state["saved_answer"].by_id.get(key)
        if saved is None or self._state.clock.now() - saved["created"] >= KEPT_S:
            return None
        if saved["fingerprint"] != digest:
            other = "parameters" if saved["path"] == path else f"endpoint ({saved['path']})"
            message = f"This idempotency key was first used with another {other}: {key}"
            raise Refusal(message, kind="idempotency_error")
        return saved

    @contextmanager
    def under_way(self, key: str) -> Iterator[None]:
        """Hold a key while its request is served."""
        self._under_way.add(key)
        try:
            yield
        finally:
            self._under_way.discard(key)

    def save(self, key: str, path: str, digest: str, status: int, body: Json) -> None:
        """Keep the first answer of a key."""
        made = {"id": key, "path": path, "fingerprint": digest, "created": self._state.clock.now()}
        request = {"status": status, "body": body, "request": self._state.request["id"]}
        self._state.put(made | request, "saved_answer")
