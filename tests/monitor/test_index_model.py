"""Which indexes are needless, whatever they are made of; shares of what was read."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.monitor.model.indexes import (
    COLD_TABLES_MAX,
    ForeignKey,
    Shape,
    TableReads,
    cold,
    duplicates,
    index_hit_percent,
    table_hit_percent,
)

PLAIN = Shape(
    id=1,
    table_id=1,
    schema="booking",
    table="Booking",
    name="one",
    method="btree",
    keys=[1, 2],
    included=[],
    classes=[10, 10],
    collations=[0, 0],
    options=[0, 0],
    predicate="",
    expressions="",
    keeps_rule=False,
)
WIDER = replace(
    PLAIN, id=2, name="two", keys=[1, 2, 3], classes=[10] * 3, collations=[0] * 3, options=[0] * 3
)


@st.composite
def shapes(draw: st.DrawFn) -> list[Shape]:
    found = []
    for number in range(draw(st.integers(0, 7))):
        places = draw(st.integers(1, 3))
        found.append(
            replace(
                PLAIN,
                id=number,
                name=f"index_{number}",
                table_id=draw(st.integers(1, 2)),
                method=draw(st.sampled_from(["btree", "gist"])),
                keys=draw(st.lists(st.integers(1, 2), min_size=places, max_size=places)),
                classes=[10] * places,
                collations=[0] * places,
                options=draw(st.lists(st.integers(0, 1), min_size=places, max_size=places)),
                included=draw(st.lists(st.integers(1, 3), max_size=1)),
                predicate=draw(st.sampled_from(["", "p"])),
                keeps_rule=draw(st.booleans()),
            )
        )
    return found


@given(shapes(), st.sets(st.integers(0, 6)))
def test_without_all_that_could_go_each_is_still_covered_and_every_rule_kept(
    found: list[Shape], guides: set[int]
) -> None:
    ledger = {("booking", f"index_{number}"): ["an RPC"] for number in guides}
    could_go = duplicates(found, ledger)
    gone = {each.shape.id for each in could_go}
    assert len(gone) == len(could_go)
    left = [shape for shape in found if shape.id not in gone]
    for shape in found:
        if shape.keeps_rule:
            assert shape in left
        if shape.id in gone:
            assert any(other.table_id == shape.table_id and other.covers(shape) for other in left)
        # Nothing that is left is needless.
        others = [other for other in left if other.table_id == shape.table_id]
        if shape in left and not shape.keeps_rule:
            assert not any(other.covers(shape) for other in others if other.id != shape.id)


@pytest.mark.parametrize(
    "other",
    [
        replace(WIDER, method="gist"),
        replace(WIDER, keys=[2, 1, 3]),
        replace(WIDER, classes=[10, 11, 10]),
        replace(WIDER, collations=[0, 9, 0]),
        replace(WIDER, options=[0, 3, 0]),
        replace(WIDER, predicate="p"),
        replace(WIDER, expressions="e"),
    ],
)
def test_an_index_that_differs_in_anything_covers_nothing(other: Shape) -> None:
    assert WIDER.covers(PLAIN)
    assert not other.covers(PLAIN)


def test_what_is_included_must_be_there_as_well() -> None:
    including = replace(PLAIN, included=[3])
    assert WIDER.covers(including)
    assert not PLAIN.covers(including)


def test_of_two_that_are_the_same_the_guides_stays() -> None:
    same = replace(PLAIN, id=2, name="two")
    (found,) = duplicates([PLAIN, same], {})
    assert (found.shape.name, found.note) == ("two", "")
    (found,) = duplicates([PLAIN, same], {("booking", "two"): ["an RPC"]})
    assert (found.shape.name, found.note) == ("one", "")
    (found,) = duplicates([PLAIN, WIDER], {("booking", "one"): ["an RPC"]})
    assert (found.shape.name, found.note) == ("one", "one of the guide's, for an RPC")


def test_the_remedy_of_a_partitioned_table_does_without_concurrently_there() -> None:
    key = ForeignKey("tracking", "TripPoint", "point_of_trip", ["orgId", "ts"], partitioned=False)
    index = 'idx_point_of_trip ON tracking."TripPoint" ("orgId", ts)'
    assert key.remedy == f"CREATE INDEX CONCURRENTLY {index}"
    remedy = replace(key, partitioned=True).remedy
    only = index.replace("ON tracking", "ON ONLY tracking")
    assert remedy.startswith(f"CREATE INDEX {only}; then")


def reads(table: str, index: tuple[int, int], own: tuple[int, int] = (0, 0)) -> TableReads:
    return TableReads("booking", table, 0, 0, 0, 0, own[1], own[0], index[1], index[0])


def test_shares_are_of_tables_that_were_read_enough_and_the_coldest_come_first() -> None:
    warm, cool = reads("warm", (9_990, 10_000), (5_000, 10_000)), reads("cool", (9_000, 10_000))
    little = reads("little", (0, 999), (0, 999))
    assert index_hit_percent([little]) is None
    assert index_hit_percent([warm, cool, little]) == pytest.approx(94.95)
    assert table_hit_percent([warm, cool, little]) == 50
    colder = reads("colder", (0, 1_000))
    assert [table.table for table in cold([warm, cool, colder])] == ["colder", "cool"]
    assert len(cold([cool] * 50)) == COLD_TABLES_MAX
