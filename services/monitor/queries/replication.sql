-- name: wal_position
-- How far the WAL is, and which standbys commits wait for.
SELECT pg_current_wal_lsn()::text, current_setting('synchronous_standby_names');

-- name: list_replicas
-- Who streams, and how far behind; base backups under way are none.
SELECT application_name, state, sync_state,
       CASE WHEN replay_lsn IS NOT NULL
       THEN greatest(pg_current_wal_lsn() - replay_lsn, 0)::int8 END,
       pg_catalog.extract('epoch', replay_lag)::float8, coalesce(host(client_addr), '')
  FROM pg_stat_replication WHERE state <> 'backup' ORDER BY application_name, pid;

-- name: list_slots
-- Which slots hold how much WAL back.
SELECT slot_name::text, active,
       greatest(pg_current_wal_lsn() - restart_lsn, 0)::int8, coalesce(wal_status, '')
  FROM pg_replication_slots ORDER BY 3 DESC, 1;

-- name: ask_replica
-- Asked of a replica: by which name it streams, and what it has not replayed up to a position that
-- the primary had before: in bytes, and the age of the last transaction that it did replay.
SELECT coalesce(substring(w.conninfo FROM '(?:^| )application_name=''?([^ '']+)'),
                nullif(current_setting('cluster_name'), ''), 'walreceiver'),
       CASE WHEN pg_last_wal_replay_lsn() IS NOT NULL
       THEN greatest(%(position)s::pg_lsn - pg_last_wal_replay_lsn(), 0)::int8 END,
       pg_catalog.extract('epoch', now() - pg_last_xact_replay_timestamp())::float8
  FROM (SELECT max(conninfo) FROM pg_stat_wal_receiver) AS w (conninfo)
 WHERE pg_is_in_recovery();
