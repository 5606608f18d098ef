"""Page sizes and page tokens.

A token is the sort key of the last row, signed and bound to the school, the method and the other
arguments: it can't be forged, carried to another query or used to see another school's rows.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import uuid
from typing import Any

from google.protobuf.message import Message

from libs.errors import InvalidArgument

SIZE_DEFAULT = 20
SIZE_MAX = 1_000
_MAC_BYTES = 16
_JSON = json.JSONEncoder(separators=(",", ":"))


def size(request: Any) -> int:
    """Rows to return: 0 = 20, at most 1,000. Negative sizes are refused by the proto's rule."""
    return min(request.page_size or SIZE_DEFAULT, SIZE_MAX)


class Pages:
    """Makes and reads page tokens."""

    def __init__(self, key: bytes) -> None:
        if len(key) < 32:
            raise ValueError("a page token key has 32 bytes or more")
        # As long as BLAKE2b's own mode with a key takes; half the price of an HMAC.
        self._key = hashlib.blake2b(key, person=b"page tokens").digest()

    def token(self, request: Message, org_id: uuid.UUID, values: list[Any]) -> str:
        """The token that continues `request` behind a row with these sort values (JSON types)."""
        body = _JSON.encode(values).encode()
        return base64.urlsafe_b64encode(self._mac(request, org_id, body) + body).decode()

    def start(self, request: Any, org_id: uuid.UUID, first: list[Any]) -> list[Any]:
        """The sort values to continue behind; `first` for the first page."""
        token = request.page_token
        if not token:
            return first
        try:
            raw = base64.b64decode(token.encode(), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise _bad_token() from None
        # Bits that the last character leaves unused must be those that were sent.
        if base64.urlsafe_b64encode(raw) != token.encode():
            raise _bad_token()
        mac, body = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(request, org_id, body)):
            raise _bad_token()
        values: list[Any] = json.loads(body)
        return values

    def _mac(self, request: Message, org_id: uuid.UUID, body: bytes) -> bytes:
        bound = type(request)()
        bound.CopyFrom(request)
        bound.ClearField("page_token")
        bound.ClearField("page_size")
        arguments = bound.SerializeToString(deterministic=True)
        method = request.DESCRIPTOR.full_name.encode()
        # No two sets of parts give the same text: a name has no NUL, an id 16 bytes.
        size = len(arguments).to_bytes(4, "big")
        text = b"".join((method, b"\0", org_id.bytes, size, arguments, body))
        return hashlib.blake2b(text, key=self._key, digest_size=_MAC_BYTES).digest()


def _bad_token() -> InvalidArgument:
    return InvalidArgument(
        "PAGE_TOKEN_INVALID",
        "The page token is not of this request.",
        fields=[("page_token", "not a token of a request with these arguments")],
    )
