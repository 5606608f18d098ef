"""Read masks."""

from __future__ import annotations

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from hypothesis import given
from hypothesis import strategies as st

from libs import masks
from libs.errors import InvalidArgument

KNOWN = {"id": 1, "name": 2, "summary.length": 3, "summary.box.north": 4}
DEFAULT = ("id", "name")


@pytest.mark.parametrize(
    ("asked", "got"),
    [
        ([], DEFAULT),
        (["name"], ("name",)),
        (["name", "id", "name"], ("id", "name")),
        (["summary"], ("summary.length", "summary.box.north")),
        (["summary.box", "id"], ("id", "summary.box.north")),
        (["*"], tuple(KNOWN)),
    ],
)
def test_a_mask_names_leaves_in_their_own_order(asked: list[str], got: tuple[str, ...]) -> None:
    assert masks.paths(FieldMask(paths=asked), KNOWN, DEFAULT) == got


@pytest.mark.parametrize("path", ["", "i", "ID", "summary.", ".id", "id.x", "na me", "summary.*"])
def test_an_unknown_path_is_refused_by_name(path: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        masks.paths(FieldMask(paths=["id", path]), KNOWN, DEFAULT)
    assert caught.value.reason == "READ_MASK_INVALID"
    assert [field for field, _ in caught.value.fields] == ["read_mask"]


@given(st.lists(st.text(max_size=300), max_size=5))
def test_any_mask_gives_known_paths_or_a_refusal(paths: list[str]) -> None:
    try:
        got = masks.paths(FieldMask(paths=paths), KNOWN, DEFAULT)
    except InvalidArgument:
        return
    assert set(got) <= set(KNOWN)
