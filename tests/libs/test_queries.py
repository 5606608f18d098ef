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
