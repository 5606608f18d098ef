"""Page sizes and page tokens."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driveflow.tracking.v1 import tracking_pb2 as pb
from libs import pages
from libs.errors import InvalidArgument
from libs.pages import Pages
from tests.serving import OTHER_SCHOOL, SCHOOL

PAGES = Pages(b"k" * 32)
REQUEST = pb.ListTripsRequest(lesson_id=str(uuid.UUID(int=1)), page_size=10)
VALUES = ["2026-01-01T00:00:00+00:00", str(uuid.UUID(int=2)), 7]


def with_token(token: str, **changes: object) -> pb.ListTripsRequest:
    request = pb.ListTripsRequest()
    request.CopyFrom(REQUEST)
    request.page_token = token
    for name, value in changes.items():
        setattr(request, name, value)
    return request


def refused(request: object, page_tokens: Pages = PAGES, org_id: uuid.UUID = SCHOOL) -> bool:
    try:
        page_tokens.start(request, org_id, [])
    except InvalidArgument as error:
        return error.reason == "PAGE_TOKEN_INVALID"
    return False


TOKEN = PAGES.token(REQUEST, SCHOOL, VALUES)


def test_a_token_brings_back_where_the_page_ended() -> None:
    assert PAGES.start(with_token(TOKEN), SCHOOL, []) == VALUES


def test_the_first_page_has_no_token() -> None:
    assert PAGES.start(REQUEST, SCHOOL, ["first"]) == ["first"]


def test_the_size_of_the_pages_may_change_on_the_way() -> None:
    assert PAGES.start(with_token(TOKEN, page_size=3), SCHOOL, []) == VALUES


def test_a_token_is_of_one_request_one_school_one_method_and_one_key() -> None:
    assert refused(with_token(TOKEN, lesson_id=str(uuid.UUID(int=3))))
    assert refused(with_token(TOKEN), org_id=OTHER_SCHOOL)
    assert refused(pb.ListRejectedPointsRequest(page_token=TOKEN))
    assert refused(with_token(TOKEN), Pages(b"l" * 32))


@given(st.integers(0, len(TOKEN) - 1), st.characters(codec="utf-8"))
def test_a_token_with_any_changed_character_is_refused(place: int, character: str) -> None:
    changed = TOKEN[:place] + character + TOKEN[place + 1 :]
    assert changed == TOKEN or refused(with_token(changed))


@given(st.integers(0, len(TOKEN)), st.text(min_size=1, max_size=8))
def test_a_token_with_anything_added_is_refused(place: int, added: str) -> None:
    assert refused(with_token(TOKEN[:place] + added + TOKEN[place:]))


@given(st.integers(1, len(TOKEN) - 1))
def test_a_part_of_a_token_is_refused(length: int) -> None:
    assert refused(with_token(TOKEN[:length]))


@given(st.text(min_size=1, max_size=200))
def test_any_other_text_is_refused(token: str) -> None:
    assert token == TOKEN or refused(with_token(token))


@pytest.mark.parametrize(("asked", "given"), [(0, 20), (1, 1), (1000, 1000), (5000, 1000)])
def test_the_size_of_a_page_has_a_default_and_a_limit(asked: int, given: int) -> None:
    assert pages.size(pb.ListTripsRequest(page_size=asked)) == given


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Pages(b"k" * 31)
