-- part: locked
-- Tables whose size would have to be waited for: something is, or is about to be, alone with them.
SELECT coalesce(x.indrelid, l.relation)
  FROM pg_locks AS l LEFT JOIN pg_index AS x ON x.indexrelid = l.relation
 WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock'
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())

-- part: relations
-- Tables and their parts (c) with the table that counts (r, in n) and their sizes; of a locked one
-- those that its last VACUUM saw.
FROM pg_class AS c
JOIN pg_class AS r
  ON r.oid = CASE WHEN c.relispartition THEN pg_partition_root(c.oid)::oid ELSE c.oid END
JOIN pg_namespace AS n
  ON n.oid = r.relnamespace
 AND n.nspname = ANY (ARRAY['booking', 'payments', 'tracking', 'monitor']::name[])
LEFT JOIN pg_class AS t ON t.oid = c.reltoastrelid
CROSS JOIN LATERAL (
     SELECT CASE WHEN c.oid IN ({locked})
            THEN (c.relpages + coalesce(t.relpages, 0))::int8
                 * current_setting('block_size')::int8
            ELSE pg_table_size(c.oid) END,
            CASE WHEN c.oid IN ({locked})
            THEN (SELECT coalesce(sum(y.relpages), 0)::int8 FROM pg_index AS x
                    JOIN pg_class AS y ON y.oid = x.indexrelid WHERE x.indrelid = c.oid)
                 * current_setting('block_size')::int8
            ELSE pg_indexes_size(c.oid) END) AS s (table_bytes, index_bytes)

-- part: join_growth
-- Bytes a day by the snapshots of a week, where they span a day.
LEFT JOIN (
     SELECT w.schema, w."table",
            regr_slope(w."totalBytes", pg_catalog.extract('epoch', w.at) / 86400) AS slope
       FROM "TableSnapshot" AS w WHERE w.at >= %(since)s::timestamptz
      GROUP BY w.schema, w."table" HAVING max(w.at) - min(w.at) >= '1 day'::interval) AS g
  ON g.schema = n.nspname AND g."table" = r.relname

-- part: upkeep
-- Tables and partitions (c, in n) with how long ago, in seconds of the server's own clock, they were
-- seen to, and where autovacuum would begin.
FROM pg_class AS c
JOIN pg_namespace AS n
  ON n.oid = c.relnamespace
 AND n.nspname = ANY (ARRAY['booking', 'payments', 'tracking', 'monitor']::name[])
CROSS JOIN LATERAL (
     SELECT greatest(pg_stat_get_last_vacuum_time(c.oid), pg_stat_get_last_autovacuum_time(c.oid)),
            greatest(pg_stat_get_last_analyze_time(c.oid),
                     pg_stat_get_last_autoanalyze_time(c.oid)),
            -- When the statistics began: a crash loses them.
            greatest(pg_postmaster_start_time(), (SELECT stats_reset FROM pg_stat_wal),
                     (SELECT stats_reset FROM pg_stat_database
                       WHERE datname = current_database()))) AS w (vacuumed, analyzed, known)
CROSS JOIN LATERAL (
     SELECT pg_catalog.extract('epoch', now() - w.vacuumed)::float8,
            pg_catalog.extract('epoch', now() - w.analyzed)::float8,
            pg_catalog.extract('epoch', now() - w.known)::float8) AS k (vacuumed_s, analyzed_s, known_s)
CROSS JOIN LATERAL (
     SELECT coalesce(max(o.option_value) FILTER (WHERE o.option_name = 'autovacuum_enabled'),
                     'true') IN ('true', 'on', 'yes', '1'),
            coalesce(max(o.option_value)
                       FILTER (WHERE o.option_name = 'autovacuum_vacuum_threshold'),
                     current_setting('autovacuum_vacuum_threshold'))::float8
            + coalesce(max(o.option_value)
                         FILTER (WHERE o.option_name = 'autovacuum_vacuum_scale_factor'),
                       current_setting('autovacuum_vacuum_scale_factor'))::float8
              * greatest(c.reltuples, 0),
            coalesce(max(o.option_value)
                       FILTER (WHERE o.option_name = 'autovacuum_analyze_threshold'),
                     current_setting('autovacuum_analyze_threshold'))::float8
            + coalesce(max(o.option_value)
                         FILTER (WHERE o.option_name = 'autovacuum_analyze_scale_factor'),
                       current_setting('autovacuum_analyze_scale_factor'))::float8
              * greatest(c.reltuples, 0)
       FROM pg_options_to_table(c.reloptions) AS o) AS a (enabled, vacuum_at, analyze_at)

-- name: list_tables
-- Which tables are largest: a page of them.
SELECT {columns}
{relations}
{joins}
 WHERE c.relkind IN ('r', 'm', 'p')
   AND (%(schema)s::text = '' OR n.nspname = %(schema)s::text)
 GROUP BY n.nspname, r.relname
HAVING (-sum(s.table_bytes + s.index_bytes), n.nspname::text, r.relname::text)
       > (-(%(after_bytes)s::int8), %(after_schema)s::text, %(after_table)s::text)
 ORDER BY -sum(s.table_bytes + s.index_bytes), n.nspname::text, r.relname::text
 LIMIT %(limit)s::int;

-- name: capture_tables
-- Takes down the size and the rows of each table.
INSERT INTO "TableSnapshot" (at, schema, "table", "totalBytes", "indexBytes", "liveRows", "deadRows")
SELECT %(at)s::timestamptz, n.nspname, r.relname, sum(s.table_bytes + s.index_bytes),
       sum(s.index_bytes), sum(pg_stat_get_live_tuples(c.oid)), sum(pg_stat_get_dead_tuples(c.oid))
{relations}
 WHERE c.relkind IN ('r', 'm', 'p')
 GROUP BY n.nspname, r.relname;

-- name: bloated_tables
-- Which tables and partitions have many dead rows, in number and in share.
SELECT n.nspname::text, c.relname::text, pg_stat_get_dead_tuples(c.oid),
       pg_stat_get_live_tuples(c.oid), k.vacuumed_s
{upkeep}
 WHERE c.relkind IN ('r', 'm') AND pg_stat_get_dead_tuples(c.oid) > %(dead_rows)s::int8
   AND pg_stat_get_dead_tuples(c.oid)
       > %(share)s::float8 * (pg_stat_get_dead_tuples(c.oid) + pg_stat_get_live_tuples(c.oid))
 ORDER BY 3 DESC, 1, 2 LIMIT %(limit)s::int;

-- name: overdue_vacuums
-- Which tables are well past the point where autovacuum begins, and were not vacuumed for long.
SELECT n.nspname::text, c.relname::text, pg_stat_get_dead_tuples(c.oid), a.vacuum_at, k.vacuumed_s,
       a.enabled
{upkeep}
 WHERE c.relkind IN ('r', 'm')
   AND pg_stat_get_dead_tuples(c.oid)
       > 2 * least(a.vacuum_at,
                   nullif(current_setting('autovacuum_vacuum_max_threshold')::float8, -1))
   AND coalesce(k.vacuumed_s, k.known_s) >= %(after_s)s::float8
 ORDER BY 3 DESC, 1, 2 LIMIT %(limit)s::int;

-- name: stale_statistics
-- Which tables changed much and were not analyzed for long; which parents of partitions were not.
SELECT n.nspname::text, c.relname::text, pg_stat_get_mod_since_analyze(c.oid), k.analyzed_s,
       a.enabled, c.relkind = 'p'
{upkeep}
 WHERE CASE c.relkind WHEN 'p'
       THEN coalesce(k.analyzed_s, k.known_s) >= %(parents_after_s)s::float8
       ELSE pg_stat_get_mod_since_analyze(c.oid) > 2 * a.analyze_at
            AND coalesce(k.analyzed_s, k.known_s) >= %(after_s)s::float8 END
   AND c.relkind IN ('r', 'm', 'p')
 ORDER BY 3 DESC, 1, 2 LIMIT %(limit)s::int;

-- name: oldest_tables
-- Which tables have the oldest rows that are not frozen.
SELECT n.nspname::text, c.relname::text, greatest(age(c.relfrozenxid), age(t.relfrozenxid)),
       greatest(mxid_age(c.relminmxid), mxid_age(t.relminmxid))
  FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
  LEFT JOIN pg_class AS t ON t.oid = c.reltoastrelid
 WHERE c.relkind IN ('r', 'm')
 ORDER BY 3 DESC, 1, 2 LIMIT %(limit)s::int;
