"""Named SQL files."""

from __future__ import annotations

from pathlib import Path

import pytest

from libs import queries

TEXT = """\
-- name: get_car
-- A car.
SELECT {columns} FROM "Car" WHERE id = %(id)s::uuid;

-- name: count_cars
-- How many cars; a semicolon; in a comment.
SELECT count(*)
  FROM "Car";
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "queries.sql"
    path.write_text(TEXT)
    return path


def test_a_statement_carries_its_name_behind_its_first_keyword(file: Path) -> None:
    named = queries.load("cars", file)
    assert named.count_cars == b'SELECT /* cars.count_cars */ count(*)\n  FROM "Car"'


def test_columns_are_filled_in_from_names_in_code(file: Path) -> None:
    named = queries.load("cars", file)
    statement = named.select("get_car", ("id", '"plateNo"'))
    assert statement.startswith(b'SELECT /* cars.get_car */ id, "plateNo" FROM')
    assert named.select("get_car", ("id", '"plateNo"')) is statement


def test_a_statement_that_is_not_there_is_an_attribute_error(file: Path) -> None:
    named = queries.load("cars", file)
    with pytest.raises(AttributeError, match="cars has no query drive"):
        _ = named.drive
    with pytest.raises(AttributeError):
        _ = named.get_car  # its columns have not been chosen


@pytest.mark.parametrize(
    "text",
    [
        "-- name: get_car\nSELECT 1;\n",
        "-- name: get_car\n-- A car.\nSELECT 1;\n-- name: get_car\n-- A car.\nSELECT 2;\n",
    ],
    ids=["without a purpose", "twice"],
)
def test_a_statement_without_a_purpose_or_twice_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "queries.sql"
    path.write_text(text)
    with pytest.raises(ValueError, match="get_car is there twice or does not say its purpose"):
        queries.load("cars", path)


PARTS = """\
-- part: of_org
-- Of the school.
c."orgId" = %(org_id)s::uuid

-- part: join_driver
-- Who drives.
JOIN "Driver" AS d ON d."orgId" = %(org_id)s::uuid AND d.id = c."driverId"

-- part: join_garage
-- Where it stands.
JOIN "Garage" AS g ON g."orgId" = %(org_id)s::uuid AND g.id = c."garageId"

-- name: list_cars
-- Cars.
SELECT {columns} FROM "Car" AS c {joins} WHERE {of_org};

-- name: count_cars
-- How many.
SELECT count(*) FROM "Car" AS c WHERE {of_org};
"""


@pytest.fixture
def parts(tmp_path: Path) -> queries.Queries:
    path = tmp_path / "parts.sql"
    path.write_text(PARTS)
    return queries.load("cars", path)


def test_a_part_stands_where_statements_name_it(parts: queries.Queries) -> None:
    assert parts.count_cars.endswith(b'WHERE c."orgId" = %(org_id)s::uuid')
    assert list(parts) == ["list_cars", "count_cars"]


def test_only_the_joins_that_are_asked_for_are_in_a_statement(parts: queries.Queries) -> None:
    bare = parts.select("list_cars", ("c.id",))
    driven = parts.select("list_cars", ("c.id", "d.name"), ("driver",))
    assert b"JOIN" not in bare
    assert b'"Driver"' in driven
    assert b'"Garage"' not in driven
    assert parts.select("list_cars", ("c.id",), ("driver", "garage")).count(b"JOIN") == 2


def test_a_join_that_is_not_in_the_file_is_refused(parts: queries.Queries) -> None:
    with pytest.raises(KeyError):
        parts.select("list_cars", ("c.id",), ('driver" ON true; --',))


@pytest.mark.parametrize(
    "text",
    [
        "-- name: list_cars\n-- Cars.\nSELECT {cars};\n",
        "-- name: list_cars\n-- Cars.\nSELECT {cars};\n-- part: cars\n-- Cars.\n1\n",
    ],
    ids=["nowhere", "below"],
)
def test_a_part_that_does_not_stand_above_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "queries.sql"
    path.write_text(text)
    with pytest.raises(ValueError, match="names a part that does not stand above it: cars"):
        queries.load("cars", path)
