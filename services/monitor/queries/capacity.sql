-- part: sequences
-- Sequences with their last value and the greatest that they, or their column, can have; those that
-- count down turned round.
FROM pg_sequence AS s
JOIN pg_class AS c ON c.oid = s.seqrelid
JOIN pg_namespace AS n
  ON n.oid = c.relnamespace
 AND n.nspname = ANY (ARRAY['booking', 'payments', 'tracking', 'monitor']::name[])
LEFT JOIN pg_depend AS d
  ON d.classid = 'pg_class'::regclass AND d.objid = s.seqrelid AND d.objsubid = 0
 AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0
LEFT JOIN pg_class AS o ON o.oid = d.refobjid
LEFT JOIN pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
CROSS JOIN LATERAL (
     SELECT coalesce(sign(s.seqincrement) * pg_sequence_last_value(s.seqrelid::regclass), 0)::int8,
            CASE WHEN s.seqincrement > 0
            THEN least(s.seqmax, CASE a.atttypid WHEN 'int2'::regtype THEN 32767::bigint
                                 WHEN 'int4'::regtype THEN 2147483647::bigint END)::float8
            ELSE -(s.seqmin::float8) END) AS u (used, most)

-- name: capacity_now
-- How large the database is, and how old the oldest row of the server that is not frozen.
SELECT pg_database_size(current_database()), max(age(datfrozenxid)) FROM pg_database;

-- name: oldest_databases
-- How old the oldest rows of each database are that are not frozen, and when they would be.
SELECT datname::text, age(datfrozenxid), mxid_age(datminmxid),
       current_setting('autovacuum_freeze_max_age')::int
  FROM pg_database ORDER BY 2 DESC, 1 LIMIT 100;

-- name: last_captured_at
-- When the last snapshot was taken, but for those of a clock that went ahead; null before the first.
SELECT max(at) FROM "CapacitySnapshot" WHERE at <= %(now)s::timestamptz;

-- name: capture_capacity
-- Takes down the size of the database, and the WAL and transaction ids that were used up to now.
INSERT INTO "CapacitySnapshot" (at, "databaseBytes", "walBytes", "transactionIds")
VALUES (%(at)s::timestamptz, pg_database_size(current_database()),
        pg_current_wal_lsn() - '0/0'::pg_lsn, pg_snapshot_xmax(pg_current_snapshot())::text::int8);

-- name: capture_sequences
-- Takes down how far each sequence is.
INSERT INTO "SequenceSnapshot" (at, schema, sequence, used)
SELECT %(at)s::timestamptz, n.nspname, c.relname, u.used
{sequences}
 WHERE NOT s.seqcycle;

-- name: capacity_snapshots
-- The snapshots of a window.
SELECT at, "databaseBytes", "walBytes", "transactionIds"
  FROM "CapacitySnapshot" WHERE at >= %(since)s::timestamptz ORDER BY at;

-- name: sequence_snapshots
-- How far the sequences were, in a window.
SELECT schema, sequence, at, used
  FROM "SequenceSnapshot" WHERE at >= %(since)s::timestamptz ORDER BY schema, sequence, at;

-- name: list_sequences
-- How far the sequences are now, and how far they can go; by their columns, if they have one.
SELECT n.nspname::text, c.relname::text,
       n.nspname || '."' || coalesce(o.relname || '".' || a.attname, c.relname || '"'),
       u.used, u.most
{sequences}
 WHERE NOT s.seqcycle ORDER BY u.used / u.most DESC, 3;

-- name: thin_snapshots
-- Deletes snapshots that are too old, and of old days all but the first; a hundred at a time.
DELETE FROM "CapacitySnapshot" WHERE at = ANY (ARRAY(
       SELECT s.at FROM "CapacitySnapshot" AS s
        WHERE s.at < %(before)s::timestamptz
           OR s.at < %(daily_before)s::timestamptz
          AND EXISTS (SELECT FROM "CapacitySnapshot" AS e
                       WHERE e.at < s.at AND e.at >= date_trunc('day', s.at, 'UTC'))
        ORDER BY s.at LIMIT 100));
