"""A service's own tokens: signed by its own key, short, and with the least scopes.

The key's public half is in the JWKS that all services read. Users' tokens are never forwarded.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path

from libs import issuer
from libs.issuer import KeyUnusable
from libs.server import WrongStart
from libs.settings import Settings

TTL = timedelta(minutes=5)
AT_LEAST_S = 60.0
"""A token with less than this to live is not handed out any more."""


class ServiceTokens:
    """Signs tokens of subject `service:<name>`."""

    def __init__(
        self, key: str, service: str, *, issuer_name: str, audience: str, ttl: timedelta = TTL
    ) -> None:
        """`key` is the PEM of an Ed25519 private key. Raises KeyUnusable."""
        self._key = key
        self._subject = f"service:{service}"
        self._issuer = issuer_name
        self._audience = audience
        self._ttl = ttl
        self._sign((), None)

    def source(
        self,
        scopes: Iterable[str],
        org_id: uuid.UUID | None = None,
        *,
        at_least_s: float = AT_LEAST_S,
    ) -> Callable[[], str]:
        """What a connection asks for a token at each call; it lives for `at_least_s` more.

        Of the school `org_id`, for calls on its behalf; without it of no school.
        """
        chosen = tuple(scopes)
        token, good_until = "", float("-inf")

        def ask() -> str:
            nonlocal token, good_until
            now = time.monotonic()
            if now >= good_until:
                token = self._sign(chosen, org_id)
                good_until = now + self._ttl.total_seconds() - at_least_s
            return token

        return ask

    def _sign(self, scopes: tuple[str, ...], org_id: uuid.UUID | None) -> str:
        return issuer.sign(
            self._key,
            subject=self._subject,
            scopes=scopes,
            ttl=self._ttl,
            org_id=org_id,
            issuer=self._issuer,
            audience=self._audience,
        )


def of(settings: Settings, service: str) -> ServiceTokens | None:
    """By the settings of a service; None without a key. Raises WrongStart for an unusable one."""
    if settings.service_key is None:
        return None
    try:
        return ServiceTokens(
            Path(settings.service_key).read_text(encoding="utf-8"),
            service,
            issuer_name=settings.token_issuer,
            audience=settings.token_audience,
        )
    except (OSError, UnicodeDecodeError, KeyUnusable) as error:
        raise WrongStart(
            f"can't sign with {settings.service_key} ({type(error).__name__}): the PEM file of an"
            " Ed25519 private key is wanted (DRIVEFLOW_SERVICE_KEY)"
        ) from error
