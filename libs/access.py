"""Access: a bearer token becomes a caller, and a method's options say who may call it."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
from google.protobuf.descriptor import MethodDescriptor

from driveflow.access.v1 import access_pb2
from libs.calls import Caller
from libs.errors import PermissionDenied, Unauthenticated
from libs.settings import Settings

ALGORITHMS = ("EdDSA", "ES256", "RS256")
NIL_ORG = uuid.UUID(int=0)
VERIFIED_MAX_S = 60
VERIFIED_MAX_TOKENS = 10_000
JWKS_REFRESH_S = 30.0
JWKS_FRESH_S = 300.0
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, jwt.PyJWTError)
"""What reading keys raises when their file or URL is not there or is no JWKS."""


class AccessUndeclared(Exception):
    """A method says not who may call it; the server must not start."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Who may call a method."""

    scope: str
    platform: bool
    for_services: bool = False
    """Beside schools' tokens, services' own may call it, for all schools."""

    def allow(self, caller: Caller) -> None:
        """Raise PermissionDenied unless the caller may."""
        if self.scope not in caller.scopes:
            raise PermissionDenied(
                "SCOPE_MISSING",
                f"The token lacks the scope {self.scope}.",
                metadata={"scope": self.scope},
            )
        if self.platform and caller.org_id is not None:
            raise PermissionDenied("ORG_REFUSED", "A school's token can't act on the platform.")
        if not self.platform and caller.org_id is None and not self._service(caller):
            raise PermissionDenied("ORG_REQUIRED", "The token names no school.")

    def _service(self, caller: Caller) -> bool:
        return self.for_services and caller.service is not None


def rule(method: MethodDescriptor) -> Rule:
    """The rule that the method's options declare; raises AccessUndeclared without one."""
    options = method.GetOptions()
    scope = options.Extensions[access_pb2.scope]
    if scope == access_pb2.SCOPE_UNSPECIFIED:
        raise AccessUndeclared(f"{method.full_name} declares no scope")
    reach = options.Extensions[access_pb2.reach]
    return Rule(
        scope_name(scope), reach == access_pb2.REACH_PLATFORM, reach == access_pb2.REACH_ANY
    )


def scope_name(scope: access_pb2.Scope.ValueType) -> str:
    """SCOPE_TRACKING_WRITE is `tracking:write` in tokens."""
    return access_pb2.Scope.Name(scope).removeprefix("SCOPE_").lower().replace("_", ":")


class Verifier:
    """Turns tokens into callers.

    Keys are read from a JWKS file or URL and read again, at most every 30 s, when a token names
    a key that is not among them, and every 5 minutes, so that a key taken away stops counting.
    Verified tokens are remembered for up to 60 s.
    """

    def __init__(self, jwks: str, *, issuer: str, audience: str) -> None:
        self._jwks = jwks
        self._issuer = issuer
        self._audience = audience
        self._keys: dict[str, jwt.PyJWK] = {}
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()
        self._verified: dict[str, tuple[Caller, float]] = {}

    @classmethod
    def of(cls, settings: Settings) -> Verifier:
        """By the settings of a service."""
        return cls(settings.jwks, issuer=settings.token_issuer, audience=settings.token_audience)

    async def caller(self, header: str) -> Caller:
        """The caller that an `authorization` proves; Unauthenticated with the reason otherwise."""
        return self.remembered(header) or self._remember(header, await self.verify(bearer(header)))

    async def verify(self, token: str) -> Caller:
        """The caller that a token proves; Unauthenticated with the reason otherwise."""
        caller = await self._verify(token)
        if caller.expires_at <= time.time():
            raise expired()
        return caller

    def _remember(self, header: str, caller: Caller) -> Caller:
        if len(self._verified) >= VERIFIED_MAX_TOKENS:
            self._verified.clear()
        self._verified[header] = caller, time.monotonic() + VERIFIED_MAX_S
        return caller

    def remembered(self, header: str) -> Caller | None:
        """The caller, where the same header was proved lately; Unauthenticated once it expired."""
        found = self._verified.get(header)
        if found is None or found[1] < time.monotonic():
            return None
        caller = found[0]
        if caller.expires_at <= time.time():
            raise expired()
        return caller

    async def load(self) -> None:
        """Read the keys; raises one of UNREADABLE. Called once before serving."""
        text = await asyncio.to_thread(self._fetch)
        keys = [jwt.PyJWK(entry) for entry in json.loads(text)["keys"]]
        self._keys = {key.key_id: key for key in keys if key.key_id}
        self._read_at = time.monotonic()

    async def _verify(self, token: str) -> Caller:
        try:
            key = await self._key(jwt.get_unverified_header(token))
            claims = jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],
                issuer=self._issuer,
                audience=self._audience,
                options={"require": ["exp", "iat", "aud", "iss", "sub"]},
            )
            return _caller(claims)
        except jwt.ExpiredSignatureError:
            raise expired() from None
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError):
            raise Unauthenticated("TOKEN_INVALID", "The token is not valid.") from None

    async def _key(self, header: dict[str, Any]) -> jwt.PyJWK:
        kid = header.get("kid")
        if kid not in self._keys or time.monotonic() - self._read_at > JWKS_FRESH_S:
            await self._reload()
        key = self._keys.get(kid) if isinstance(kid, str) else None
        # The algorithm is the key's, never the token's choice.
        if key is None or key.algorithm_name not in ALGORITHMS:
            raise jwt.InvalidKeyError("unknown key")
        if header.get("alg") != key.algorithm_name:
            raise jwt.InvalidAlgorithmError("not the key's algorithm")
        return key

    async def _reload(self) -> None:
        async with self._reading:
            if time.monotonic() - self._read_at < JWKS_REFRESH_S:
                return
            try:
                await self.load()
            except UNREADABLE:
                self._read_at = time.monotonic()

    def _fetch(self) -> str:
        if self._jwks.startswith(("http://", "https://")):
            with urllib.request.urlopen(self._jwks, timeout=5) as answer:  # noqa: S310
                text: str = answer.read().decode()
                return text
        return Path(self._jwks).read_text(encoding="utf-8")


def _caller(claims: dict[str, Any]) -> Caller:
    org = claims.get("org_id")
    org_id = None if org is None else uuid.UUID(org)
    if org_id == NIL_ORG:
        raise ValueError("the nil UUID names the platform, not a school")
    subject = claims["sub"]
    if not subject or len(subject) > 200 or not subject.isprintable():
        raise ValueError("sub")
    return Caller(
        subject=subject,
        org_id=org_id,
        scopes=frozenset(claims.get("scope", "").split()),
        expires_at=float(claims["exp"]),
    )


def expired() -> Unauthenticated:
    return Unauthenticated("TOKEN_EXPIRED", "The token has expired.")


def bearer(header: str) -> str:
    """The token of an `authorization`; Unauthenticated when there is none."""
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise missing()
    return token.strip()


def missing() -> Unauthenticated:
    return Unauthenticated("TOKEN_MISSING", "No bearer token in the metadata `authorization`.")
