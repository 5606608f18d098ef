"""Texts of statements leave without anybody's data."""

from __future__ import annotations

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.monitor.model.texts import TEXT_MAX, name_of, scrubbed, shown
from tests.postgres import Server

SECRET = "Svensson4711"


def quoted(body: str) -> str:
    return "'" + body.replace("'", "''") + "'"


def escaped(body: str) -> str:
    return "E'" + body.replace("\\", "\\\\").replace("'", r"\'") + "'"


def dollars(tag: str, body: str) -> str:
    return f"${tag}${body.replace('$', '')}${tag}$"


NOISE = st.text(st.sampled_from("'\"\\$-/* \n;eE?xé1"), max_size=8)
BODIES = st.builds("{}{}{}".format, NOISE, st.just(SECRET), NOISE)
# In a plain literal a backslash in front of a quote means one thing or another, by a setting.
PLAIN = BODIES.map(lambda body: body.replace("\\", ""))
LITERALS = st.one_of(
    PLAIN.map(quoted),
    BODIES.map(escaped),
    st.builds(dollars, st.sampled_from(["", "a", "body_1", "é"]), BODIES),
    st.builds("{}\n  {}".format, PLAIN.map(quoted), PLAIN.map(quoted)),
    st.builds("{} -- and\n {}".format, BODIES.map(escaped), BODIES.map(lambda b: escaped(b)[1:])),
    st.sampled_from(["4711", "0x4711", "4711.5e3", ".4711", "4_711"]),
    BODIES.map(lambda body: f"/* {body.replace('*', '').replace('/', '')} */ 1"),
    BODIES.map(lambda body: f"/* a /* {body.replace('*', '').replace('/', '')} */ b */ 1"),
    BODIES.map(lambda body: "-- " + body.replace("\n", " ") + "\n 1"),
)
KEPT = st.sampled_from(['"Booking"', "b1", "a$1", "$1", "u8.x", '"a""b\'c"', "t.id", "'' || x"])
PIECES = st.lists(st.one_of(LITERALS, KEPT), min_size=1, max_size=8)


@given(PIECES)
def test_literals_and_comments_never_appear(pieces: list[str]) -> None:
    text = scrubbed("SELECT /* booking.find */ " + ", ".join(pieces) + " FROM t")
    assert "Svensson" not in text
    assert "4711" not in text
    assert text.startswith("SELECT /* booking.find */ ")


@given(PIECES, st.integers(0, 200))
def test_a_text_that_was_cut_gives_nothing_away_either(pieces: list[str], cut: int) -> None:
    text = scrubbed(("SELECT " + ", ".join(pieces))[:cut])
    assert "Sven" not in text
    assert "4711" not in text


@given(st.lists(st.one_of(KEPT, LITERALS), max_size=6))
def test_what_was_scrubbed_stays_as_it_is(pieces: list[str]) -> None:
    once = scrubbed("SELECT " + ", ".join(pieces))
    assert scrubbed(once) == once


def test_names_of_tables_columns_and_parameters_stay() -> None:
    text = 'SELECT b1."a\'b", x2 FROM "Booking" b1 WHERE id = $1 AND note$1 = $12'
    assert scrubbed(text) == text


def test_a_quote_that_a_setting_could_escape_takes_the_rest_with_it() -> None:
    assert scrubbed(r"SELECT 'a\' || ' Svensson' || 'b'") == "SELECT ?"


def test_a_name_is_that_of_a_queries_file_behind_the_first_keyword() -> None:
    assert name_of("WITH /* booking.list_bookings */ a AS (SELECT 1)") == "booking.list_bookings"
    for other in (
        "SELECT /* svensson.anna */ 1",
        "SELECT 1 /* booking.list_bookings */",
        "SELECT /* booking.list_bookings Svensson */ 1",
    ):
        assert name_of(other) == ""
        assert "/*" not in scrubbed(other)


def test_a_long_text_is_cut() -> None:
    assert len(shown("SELECT " + "a, " * TEXT_MAX)) == TEXT_MAX


@pytest.mark.parametrize(
    "literal",
    [
        quoted(f"{SECRET}'\"--"),
        escaped(f"{SECRET}\\'/*"),
        dollars("b", f"{SECRET}'"),
        f"E'a'\n'b\\'{SECRET}'",
        f"U&'{SECRET}'",
        f"/* /* */ {SECRET} */ 'a'",
    ],
)
def test_postgresql_reads_a_literal_as_the_scrubber_does(
    postgres_server: Server, literal: str
) -> None:
    with psycopg.connect(postgres_server.admin_dsn) as conn:
        conn.execute(f"SELECT {literal}, 1".encode())
    assert scrubbed(f"SELECT {literal}, 1").endswith("?, ?")
