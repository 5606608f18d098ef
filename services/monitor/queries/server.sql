-- name: dangerous_settings
-- Settings with which a crash, or a mistake of the disk, loses or hides data.
SELECT name, setting, consequence
  FROM (VALUES
       ('fsync', 'on', 'a power cut loses or corrupts data'),
       ('full_page_writes', 'on', 'a power cut corrupts tables'),
       ('autovacuum', 'on', 'tables rot, and transaction ids run out'),
       ('track_counts', 'on', 'autovacuum does not know where to work'),
       ('zero_damaged_pages', 'off', 'damaged pages are emptied without a word'),
       ('ignore_checksum_failure', 'off', 'damaged pages are read as if they were well'),
       ('ignore_invalid_pages', 'off', 'recovery passes over damage')) AS w (name, wanted, consequence)
  JOIN pg_settings AS s USING (name)
 WHERE s.setting <> w.wanted
 UNION ALL
SELECT 'synchronous_commit', 'off', 'a crash loses what was just acknowledged'
  FROM pg_settings AS s WHERE s.name = 'synchronous_commit' AND s.setting IN ('off', 'false')
 UNION ALL
SELECT 'synchronous_commit of ' || coalesce(r.rolname, d.datname), 'off',
       'a crash loses what was just acknowledged'
  FROM pg_db_role_setting AS s
  LEFT JOIN pg_roles AS r ON r.oid = s.setrole
  LEFT JOIN pg_database AS d ON d.oid = s.setdatabase
 WHERE s.setconfig && ARRAY['synchronous_commit=off', 'synchronous_commit=false']
 ORDER BY 1;

-- name: storage
-- How long a block takes from disk, and what the planner thinks of that.
SELECT sum(reads)::int8, sum(read_time)::float8, current_setting('track_io_timing') = 'on',
       current_setting('random_page_cost')::float8, current_setting('effective_io_concurrency')::int
  FROM pg_stat_io
 WHERE object = 'relation' AND context = 'normal' AND backend_type = 'client backend';

-- name: memory
-- Blocks found in shared_buffers and not, its size, and that of the database.
SELECT blks_hit, blks_read, pg_size_bytes(current_setting('shared_buffers')),
       pg_database_size(datname)
  FROM pg_stat_database WHERE datname = current_database();

-- name: active_backends
-- Sessions at work, the monitor's own left out; waiting for a client or a lock is no work.
SELECT count(*)
  FROM pg_stat_activity
 WHERE state = 'active' AND backend_type = 'client backend' AND usename IS DISTINCT FROM current_user
   AND coalesce(wait_event_type, '') NOT IN ('Client', 'Lock');

-- name: round_trip
-- Nothing, for the time that it takes.
SELECT 1;
