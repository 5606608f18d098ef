-- name: server_figures
-- What this database did since its statistics began, and its oldest transaction.
SELECT d.xact_commit, d.xact_rollback, d.blks_hit, d.blks_read, d.deadlocks, d.temp_bytes,
       (SELECT w.wal_bytes::float8 FROM pg_stat_wal AS w), current_setting('max_connections')::int,
       (SELECT coalesce(pg_catalog.extract('epoch', clock_timestamp() - min(a.xact_start)), 0)::float8
          FROM pg_stat_activity AS a
         WHERE a.datid = d.datid AND a.backend_type = 'client backend' AND a.pid <> pg_backend_pid())
  FROM pg_stat_database AS d WHERE d.datname = current_database();

-- name: session_counts
-- Clients of this database by what they are doing.
SELECT coalesce(state, 'unknown'), count(*)
  FROM pg_stat_activity
 WHERE datname = current_database() AND backend_type = 'client backend' GROUP BY 1;

-- name: replica_lags
-- How far each replica is behind; of several with one name, the last. Nothing on a replica.
SELECT application_name, coalesce(max(pg_catalog.extract('epoch', replay_lag)), 0)::float8,
       coalesce(max(pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)), 0)::float8
  FROM pg_stat_replication WHERE NOT pg_is_in_recovery() GROUP BY 1;

-- name: table_figures
-- Bytes and dead rows of each table, with its indexes, its long values and its partitions.
SELECT n.nspname::text, t.relname::text, sum(pg_total_relation_size(c.oid))::float8,
       sum(pg_stat_get_dead_tuples(c.oid))::float8
  FROM pg_class AS c
  JOIN pg_class AS t ON t.oid = coalesce(pg_partition_root(c.oid), c.oid)
  JOIN pg_namespace AS n ON n.oid = t.relnamespace
 WHERE c.relkind IN ('r', 'm') AND n.nspname = ANY (%(schemas)s::name[])
 GROUP BY 1, 2;

-- name: database_size
-- Bytes of this database.
SELECT pg_database_size(current_database())::float8;

-- name: open_alerts
-- Alerts that have fired and are not resolved, by severity.
SELECT severity, count(*) FROM "Alert" WHERE state = 'open' GROUP BY 1;

-- name: partition_runways
-- How many seconds from now there are partitions without a gap, for each table that has them by time.
SELECT n.nspname::text, t.relname::text,
       (SELECT coalesce(max(pg_catalog.extract('epoch', upper(span) - %(now)s::timestamptz)), 0)::float8
          FROM unnest(covered.spans) AS span WHERE span @> %(now)s::timestamptz)
  FROM (SELECT i.inhparent, range_agg(tstzrange(b.bound[1]::timestamptz, b.bound[2]::timestamptz)) AS spans
          FROM pg_inherits AS i
          JOIN pg_partitioned_table AS p ON p.partrelid = i.inhparent AND p.partstrat = 'r'
          JOIN pg_class AS c ON c.oid = i.inhrelid AND NOT i.inhdetachpending
          CROSS JOIN regexp_match(pg_get_expr(c.relpartbound, c.oid),
                                  'FROM \(''(.+)''\) TO \(''(.+)''\)') AS b (bound)
         GROUP BY 1) AS covered
  JOIN pg_class AS t ON t.oid = covered.inhparent
  JOIN pg_namespace AS n ON n.oid = t.relnamespace
 WHERE n.nspname = ANY (%(schemas)s::name[]);
