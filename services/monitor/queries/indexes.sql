-- part: usage
-- Each index of the services' schemas, its partitions summed under it. Sizes are asked for where they
-- are wanted: that waits for whoever has locked the table.
SELECT s.id, n.nspname::text AS schema, t.relname::text AS "table", i.relname::text AS index,
       s.scans, s.tuples_read, s.tuples_fetched, s.last_scan, s.bytes, s.partitions,
       x.indisunique OR x.indisprimary OR x.indisexclusion OR x.indisreplident AS keeps_rule,
       x.indisvalid AS valid, x.indrelid AS table_id
  FROM (SELECT CASE WHEN c.relispartition THEN pg_partition_root(c.oid)::oid ELSE c.oid END AS id,
               sum(pg_stat_get_numscans(c.oid))::int8 AS scans,
               sum(pg_stat_get_tuples_returned(c.oid))::int8 AS tuples_read,
               sum(pg_stat_get_tuples_fetched(c.oid))::int8 AS tuples_fetched,
               max(pg_stat_get_lastscan(c.oid)) AS last_scan,
               (count(*) FILTER (WHERE c.relispartition))::int AS partitions,
               sum({columns})::int8 AS bytes
          FROM pg_class AS c
         WHERE c.relkind IN ('i', 'I') AND c.relnamespace IN (
               SELECT oid FROM pg_namespace WHERE nspname = ANY (%(schemas)s::text[]))
         GROUP BY 1) AS s
  JOIN pg_index AS x ON x.indexrelid = s.id
  JOIN pg_class AS i ON i.oid = s.id
  JOIN pg_class AS t ON t.oid = x.indrelid
  JOIN pg_namespace AS n ON n.oid = i.relnamespace

-- name: index_usage
-- How often each index was used since the statistics began, and its size.
{usage} WHERE %(table)s::text IN ('', t.relname);

-- name: statistics_since
-- When the statistics of this database began. What counts all of the server begins anew after a
-- crash, as all statistics do; the oldest of those was not reset by hand since. A database's own time
-- is set by pg_stat_reset() alone.
SELECT greatest(
       (SELECT stats_reset FROM pg_stat_database WHERE datname = current_database()),
       least((SELECT stats_reset FROM pg_stat_checkpointer),
             (SELECT stats_reset FROM pg_stat_bgwriter),
             (SELECT stats_reset FROM pg_stat_wal),
             (SELECT stats_reset FROM pg_stat_archiver)));

-- name: first_seen
-- Since when each index is known, by the latest snapshot.
SELECT "indexId", "firstSeenAt" FROM "IndexSnapshot"
 WHERE day = (SELECT max(day) FROM "IndexSnapshot");

-- name: capture_indexes
-- Keeps the counters of all indexes for a day, unless that was done; one that was made anew since
-- takes the place of the one before.
INSERT INTO "IndexSnapshot" AS kept
       (day, schema, "table", index, "indexId", scans, bytes, "firstSeenAt")
SELECT %(day)s::date, u.schema, u."table", u.index, u.id, u.scans, u.bytes,
       coalesce(b."firstSeenAt", %(at)s::timestamptz)
  FROM ({usage}) AS u
  LEFT JOIN "IndexSnapshot" AS b
    ON b.schema = u.schema AND b.index = u.index AND b."indexId" = u.id
       AND b.day = (SELECT max(day) FROM "IndexSnapshot" WHERE day <= %(day)s::date)
    ON CONFLICT (day, schema, index) DO UPDATE
   SET "table" = excluded."table", "indexId" = excluded."indexId", scans = excluded.scans,
       bytes = excluded.bytes, "firstSeenAt" = excluded."firstSeenAt"
 WHERE kept."indexId" <> excluded."indexId";

-- name: count_captured
-- How many indexes are kept for a day.
SELECT count(*) FROM "IndexSnapshot" WHERE day = %(day)s::date;

-- name: index_days
-- What is kept of these indexes, day by day.
SELECT "indexId", day, scans, bytes FROM "IndexSnapshot"
 WHERE "indexId"::int8 = ANY (%(ids)s::int8[]) ORDER BY day;

-- name: forget_index_snapshots
-- Deletes snapshots of indexes that are too old.
DELETE FROM "IndexSnapshot" WHERE day < %(before)s::date;

-- name: ledger
-- The indexes of the guide, with the RPCs and loops that each was made for.
SELECT schema, index, array_agg(DISTINCT rpc ORDER BY rpc) FROM "IndexLedger" GROUP BY 1, 2;

-- name: index_definitions
-- Indexes as one would make them.
SELECT i.id, pg_get_indexdef(i.id::oid) FROM unnest(%(ids)s::int8[]) AS i (id);

-- name: index_sizes
-- Sizes of indexes, their partitions summed.
SELECT i.id, (pg_relation_size(i.id::oid) + coalesce(
       (SELECT sum(pg_relation_size(p.relid)) FROM pg_partition_tree(i.id::oid) AS p
         WHERE p.isleaf), 0))::int8
  FROM unnest(%(ids)s::int8[]) AS i (id);

-- name: table_sizes
-- Sizes of tables without indexes, their partitions summed.
SELECT t.id, (pg_table_size(t.id::oid) + coalesce(
       (SELECT sum(pg_table_size(p.relid)) FROM pg_partition_tree(t.id::oid) AS p
         WHERE p.isleaf), 0))::int8
  FROM unnest(%(ids)s::int8[]) AS t (id);

-- name: broken_indexes
-- Indexes that can't be used: their making failed, or is under way.
SELECT n.nspname::text, t.relname::text, i.relname::text, p.pid IS NOT NULL, pg_get_indexdef(i.oid)
  FROM pg_index AS x
  JOIN pg_class AS i ON i.oid = x.indexrelid
  JOIN pg_class AS t ON t.oid = x.indrelid
  JOIN pg_namespace AS n ON n.oid = i.relnamespace
  LEFT JOIN pg_stat_progress_create_index AS p
    ON p.index_relid = i.oid AND p.datname = current_database()
 WHERE n.nspname = ANY (%(schemas)s::text[])
   AND NOT (x.indisvalid AND x.indisready AND x.indislive)
 ORDER BY 1, 2, 3;

-- name: index_shapes
-- What each index is made of, to find those that another one covers; partitions have their parent's.
SELECT i.oid, x.indrelid, n.nspname::text, t.relname::text, i.relname::text, m.amname::text,
       (x.indkey::int2[])[0:x.indnkeyatts - 1], (x.indkey::int2[])[x.indnkeyatts:],
       string_to_array(x.indclass::text, ' ')::int8[],
       string_to_array(x.indcollation::text, ' ')::int8[], x.indoption::int2[],
       coalesce(md5(x.indpred::text), ''), coalesce(md5(x.indexprs::text), ''),
       x.indisunique OR x.indisprimary OR x.indisexclusion OR x.indisreplident
  FROM pg_index AS x
  JOIN pg_class AS i ON i.oid = x.indexrelid
  JOIN pg_am AS m ON m.oid = i.relam
  JOIN pg_class AS t ON t.oid = x.indrelid
  JOIN pg_namespace AS n ON n.oid = i.relnamespace
 WHERE n.nspname = ANY (%(schemas)s::text[]) AND NOT i.relispartition
   AND x.indisvalid AND x.indisready AND x.indislive
 ORDER BY i.oid;

-- name: uncovered_foreign_keys
-- Foreign keys whose columns no index begins with. One of those rows alone that refer to something
-- will do; and so will one that begins with another id than the school's, for that finds the row by
-- itself: no id is used twice.
SELECT n.nspname::text, t.relname::text, k.conname::text,
       ARRAY(SELECT a.attname::text
               FROM unnest(k.conkey) WITH ORDINALITY AS u (number, place)
               JOIN pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = u.number
              ORDER BY u.place),
       t.relkind = 'p'
  FROM pg_constraint AS k
  JOIN pg_class AS t ON t.oid = k.conrelid
  JOIN pg_namespace AS n ON n.oid = t.relnamespace
 WHERE k.contype = 'f' AND k.conparentid = 0 AND n.nspname = ANY (%(schemas)s::text[])
   AND NOT EXISTS (
       SELECT FROM pg_index AS i
         JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
        WHERE i.indrelid = k.conrelid AND i.indisvalid
          AND (i.indpred IS NULL OR NOT a.attnotnull AND
               pg_get_expr(i.indpred, i.indrelid) = '(' || quote_ident(a.attname) || ' IS NOT NULL)')
          AND ((i.indkey::int2[])[0:cardinality(k.conkey) - 1] @> k.conkey
               OR a.attname <> 'orgId' AND cardinality(k.conkey) = 2
                  AND a.attnum = ANY (k.conkey)))
 ORDER BY 1, 2, 3;

-- name: table_reads
-- How each table is read and written, and where its blocks were found, partitions summed.
SELECT n.nspname::text, r.relname::text, s.rows, s.sequential_scans, s.index_scans, s.writes,
       s.table_blocks, s.table_hits, s.index_blocks, s.index_hits
  FROM (SELECT CASE WHEN c.relispartition THEN pg_partition_root(c.oid)::oid ELSE c.oid END AS id,
               sum(greatest(c.reltuples, pg_stat_get_live_tuples(c.oid)))::int8 AS rows,
               sum(pg_stat_get_numscans(c.oid))::int8 AS sequential_scans,
               coalesce(sum(x.scans), 0)::int8 AS index_scans,
               sum(pg_stat_get_tuples_inserted(c.oid) + pg_stat_get_tuples_updated(c.oid)
                   + pg_stat_get_tuples_deleted(c.oid))::int8 AS writes,
               sum(pg_stat_get_blocks_fetched(c.oid))::int8 AS table_blocks,
               sum(pg_stat_get_blocks_hit(c.oid))::int8 AS table_hits,
               coalesce(sum(x.blocks), 0)::int8 AS index_blocks,
               coalesce(sum(x.hits), 0)::int8 AS index_hits
          FROM pg_class AS c
          LEFT JOIN (SELECT indrelid, sum(pg_stat_get_numscans(indexrelid)) AS scans,
                            sum(pg_stat_get_blocks_fetched(indexrelid)) AS blocks,
                            sum(pg_stat_get_blocks_hit(indexrelid)) AS hits
                       FROM pg_index GROUP BY 1) AS x ON x.indrelid = c.oid
         WHERE c.relkind IN ('r', 'm') AND c.relnamespace IN (
               SELECT oid FROM pg_namespace WHERE nspname = ANY (%(schemas)s::text[]))
         GROUP BY 1) AS s
  JOIN pg_class AS r ON r.oid = s.id
  JOIN pg_namespace AS n ON n.oid = r.relnamespace
 ORDER BY 1, 2;
