"""A token says which write its bearer has seen."""

from __future__ import annotations

import pytest

from libs import consistency, leader
from libs.consistency import Token
from libs.errors import InvalidArgument
from tests.postgres import Database


def test_a_token_is_read_as_it_was_written() -> None:
    token = consistency.parse("0000000A/1/1A2B3C4")
    assert token == Token(10, (1 << 32) + 0x1A2B3C4)
    assert str(token) == "0000000A/1/1A2B3C4"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0/1A2B3C4",
        "1/0/1A2B3C4",
        "00000001/0/",
        "00000001/0/1a2b",
        "00000001/0/1A2B3C4\n",
        "00000001/0/1.2",
        "00000001/0/123456789",
        "00000001/0/1A2B3C4/5",
        "00000001/0/\N{FULLWIDTH DIGIT ONE}",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        consistency.wanted([("driveflow-consistency", text)])
    assert caught.value.reason == "CONSISTENCY_TOKEN_INVALID"


def test_the_latest_of_several_tokens_counts() -> None:
    sent = [(consistency.KEY, f"00000001/{high}/FF") for high in (1, 3, 2)]
    assert consistency.wanted([("authorization", "Bearer x"), *sent]) == Token(1, (3 << 32) + 255)
    assert consistency.wanted([("authorization", "Bearer x")]) is None
    assert consistency.wanted(None) is None


def test_a_read_has_seen_what_lies_before_it_on_its_timeline_alone() -> None:
    assert Token(1, 11).is_past(Token(1, 10))
    assert not Token(1, 10).is_past(Token(1, 10))
    assert not Token(2, 11).is_past(Token(1, 10))
    assert not Token(1, 11).is_past(Token(2, 10))


async def test_the_position_passes_every_commit(database: Database) -> None:
    async with leader.connect(database.dsn("tracking"), "test") as conn:
        before = await consistency.position(conn)
        async with conn.transaction():
            await conn.execute(b"SELECT pg_notify('test', '')")
        assert (await consistency.position(conn)).is_past(before)
