"""Slot tokens: a free slot at its price, signed, so that nobody can name a price of his own.

A token is bound to its school and good for 15 minutes. It keeps no slot: HoldSlot does.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import struct
import uuid
from datetime import UTC, datetime, timedelta

from libs.errors import InvalidArgument
from services.booking.model.slots import Quote, Slot

GOOD_FOR = timedelta(minutes=15)
_LAYOUT = struct.Struct(">16s16sqqqiq")
_MAC_BYTES = 16
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class SlotTokens:
    """Makes and reads slot tokens."""

    def __init__(self, key: bytes) -> None:
        self._key = hmac.digest(key, b"slot tokens", "sha256")

    def token(self, org_id: uuid.UUID, service_id: uuid.UUID, slot: Slot, now: datetime) -> str:
        body = _LAYOUT.pack(
            service_id.bytes,
            slot.instructor_id.bytes,
            (slot.start_at - _EPOCH) // _MICROSECOND,
            (slot.end_at - _EPOCH) // _MICROSECOND,
            slot.price_cents,
            slot.calendar_version,
            (now + GOOD_FOR - _EPOCH) // _MICROSECOND,
        )
        return base64.urlsafe_b64encode(self._mac(org_id, body) + body).decode()

    def read(self, org_id: uuid.UUID, token: str) -> Quote:
        """What the token promises; raises InvalidArgument when it is not one of the school's."""
        try:
            raw = base64.b64decode(token.encode(), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise _invalid() from None
        mac, body = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        if len(body) != _LAYOUT.size or not hmac.compare_digest(mac, self._mac(org_id, body)):
            raise _invalid()
        service, instructor, start, end, price, version, expires = _LAYOUT.unpack(body)
        return Quote(
            service_id=uuid.UUID(bytes=service),
            instructor_id=uuid.UUID(bytes=instructor),
            start_at=_EPOCH + start * _MICROSECOND,
            end_at=_EPOCH + end * _MICROSECOND,
            price_cents=price,
            calendar_version=version,
            expires_at=_EPOCH + expires * _MICROSECOND,
        )

    def _mac(self, org_id: uuid.UUID, body: bytes) -> bytes:
        return hmac.digest(self._key, org_id.bytes + body, "sha256")[:_MAC_BYTES]


def _invalid() -> InvalidArgument:
    return InvalidArgument(
        "SLOT_TOKEN_INVALID",
        "The slot token is not one of this school's.",
        fields=[("slot_token", "is not a token of SearchSlots")],
    )
