-- name: last_backup
-- The last base backup that has a status, or whatever status.
SELECT id::text, "startedAt", "endedAt", status, bytes, location, error
  FROM "BackupRun" WHERE %(status)s::text IN ('', status)
 ORDER BY "startedAt" DESC, id DESC LIMIT 1;

-- name: archiving
-- Whether WAL is archived, and how that goes.
SELECT current_setting('archive_mode') <> 'off', last_archived_time, archived_count, failed_count,
       last_failed_time, stats_reset
  FROM pg_stat_archiver;
