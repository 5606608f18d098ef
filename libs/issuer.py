"""Tokens: an Ed25519 key signs them, its public half (JWKS) verifies them.

For the local stack, tests, operators and services' own tokens; users' tokens come from the
school's own sign-in.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from libs.failures import Failure

ALGORITHM = "EdDSA"
ISSUER = "https://driveflow.example/"
AUDIENCE = "driveflow"
TENANT_SCOPES = (
    "booking:read",
    "booking:write",
    "booking:admin",
    "payments:read",
    "payments:write",
    "tracking:read",
    "tracking:write",
    "tracking:import",
    "events:subscribe",
)
OPS_SCOPES = ("monitor:read", "ops:write")


class KeyUnusable(Failure):
    """The text is not the PEM of an Ed25519 private key."""


def new_key() -> str:
    """A private key, as PEM without a passphrase."""
    key = Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def write_private(path: Path, text: str) -> None:
    """Write a secret that only its owner may read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


def jwks(*keys: str) -> str:
    """The public halves of private keys (PEM), as the JSON that services read."""
    return json.dumps({"keys": [_public(_load(key)) for key in keys]}, indent=2) + "\n"


def make_keys(folder: Path, services: Iterable[str]) -> None:
    """Write jwks.json with the public halves of token_key.pem and of each <service>_key.pem.

    Private keys that are missing are made; those that are there stay.
    """
    paths = [folder / "token_key.pem", *(folder / f"{name}_key.pem" for name in services)]
    for path in paths:
        if not path.exists():
            write_private(path, new_key())
    (folder / "jwks.json").write_text(jwks(*(path.read_text() for path in paths)))


def sign(
    key: str,
    *,
    subject: str,
    scopes: Iterable[str],
    ttl: timedelta,
    org_id: uuid.UUID | None = None,
    issuer: str = ISSUER,
    audience: str = AUDIENCE,
) -> str:
    """A token for `subject`, of one school or (without `org_id`) of the platform."""
    private = _load(key)
    now = datetime.now(UTC)
    claims: dict[str, Any] = {
        "iss": issuer,
        "aud": audience,
        "sub": subject,
        "iat": now,
        "exp": now + ttl,
        "scope": " ".join(scopes),
    }
    if org_id is not None:
        claims["org_id"] = str(org_id)
    return jwt.encode(claims, private, ALGORITHM, headers={"kid": _public(private)["kid"]})


def _load(key: str) -> Ed25519PrivateKey:
    try:
        private = load_pem_private_key(key.encode(), password=None)
    except (ValueError, TypeError) as error:
        raise KeyUnusable("not the PEM of a private key without a passphrase") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise KeyUnusable("not an Ed25519 key")
    return private


def _public(key: Ed25519PrivateKey) -> dict[str, str]:
    x = _base64(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))
    # The key's id is its thumbprint (RFC 7638), so that the same key has the same id everywhere.
    thumbprint = json.dumps({"crv": "Ed25519", "kty": "OKP", "x": x}, separators=(",", ":"))
    kid = _base64(hashlib.sha256(thumbprint.encode()).digest())
    return {"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": x, "alg": ALGORITHM, "use": "sig"}


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
