"""The guide's table of points and ours, for benches: rows go in by `\\copy`, and are counted."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import psycopg
from psycopg import sql

from bench.points import Totals
from libs.local.postgres import binary

# "Time-Based Partitioning for GPS Data" as the guide writes it; its function makes the months.
GUIDE_SQL = """
CREATE SCHEMA bench_guide;
SET search_path = bench_guide, public;
CREATE TABLE "TripPoint" (
  id          UUID DEFAULT gen_random_uuid(),
  trip_id     UUID NOT NULL,
  ts          TIMESTAMP WITH TIME ZONE NOT NULL,
  lat         DECIMAL(9,6) NOT NULL,
  lng         DECIMAL(9,6) NOT NULL,
  speed_kph   DECIMAL(6,2),
  created_at  TIMESTAMP WITH TIME ZONE DEFAULT NOW()
) PARTITION BY RANGE (ts);
CREATE OR REPLACE FUNCTION create_monthly_partition(table_name text, start_date date)
RETURNS void AS $$
DECLARE
  partition_name text;
  end_date date;
BEGIN
  partition_name := table_name || '_' || to_char(start_date, 'YYYY_MM');
  end_date := start_date + interval '1 month';

  EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)',
    partition_name, table_name, start_date, end_date);

  EXECUTE format('CREATE INDEX %I ON %I (trip_id, ts)',
    'idx_' || partition_name || '_trip_ts', partition_name);
END;
$$ LANGUAGE plpgsql;
"""


class CopyFailed(Exception):
    """psql could not copy the rows; the message is its own."""


@dataclass(frozen=True)
class Table:
    """A partitioned table of points."""

    schema: str
    columns: str
    """Those of a file for `\\copy`, in its order."""
    speed: str

    @property
    def name(self) -> sql.Identifier:
        """The table with its schema."""
        return sql.Identifier(self.schema, "TripPoint")

    def copy(self, dsn: str, file: Path) -> float:
        """Have psql copy the rows of a file; seconds that the command took."""
        command = rf"""\copy {self.schema}."TripPoint" ({self.columns}) FROM '{file}'"""
        done = subprocess.run(
            [
                *(binary("psql"), dsn, "-X", "-q", "-v", "ON_ERROR_STOP=1"),
                *("-c", r"\timing on", "-c", command),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        taken = re.search(r"Time: ([\d.]+) ms", done.stdout)
        if done.returncode or taken is None:
            raise CopyFailed(done.stderr or done.stdout)
        return float(taken[1]) / 1e3

    def empty(self, admin: psycopg.Connection) -> None:
        """Without rows and index pages, as if it were new."""
        admin.execute(sql.SQL("TRUNCATE {}").format(self.name))

    def totals(self, admin: psycopg.Connection) -> Totals:
        """What is in it."""
        query = """
            SELECT count(*), coalesce(sum(extract(epoch FROM ts)), 0)::bigint,
                   coalesce(sum(lat) * 1000000, 0)::bigint,
                   coalesce(sum(lng) * 1000000, 0)::bigint,
                   coalesce(sum({speed}) * 100, 0)::bigint
              FROM {table}"""
        statement = sql.SQL(query).format(speed=sql.Identifier(self.speed), table=self.name)
        row = admin.execute(statement).fetchone()
        assert row is not None
        return Totals(*row)

    def size(self, admin: psycopg.Connection) -> int:
        """Bytes on disk with indexes."""
        query = """
            SELECT sum(pg_total_relation_size(relid))::bigint
              FROM pg_partition_tree(to_regclass(%s))"""
        row = admin.execute(query, [f'{self.schema}."TripPoint"']).fetchone()
        assert row is not None
        return int(row[0])


GUIDE = Table("bench_guide", "trip_id, ts, lat, lng, speed_kph", "speed_kph")
OURS = Table("tracking", '"orgId", "tripId", ts, lat, lng, "speedKph"', "speedKph")


def make_guide(admin: psycopg.Connection, first_month: date, months: int) -> None:
    """The guide's table with partitions of consecutive months."""
    admin.execute(GUIDE_SQL)
    month = first_month
    for _ in range(months):
        admin.execute("SELECT create_monthly_partition('TripPoint', %s)", [month])
        month = (month + timedelta(days=31)).replace(day=1)
    admin.execute("RESET search_path")
