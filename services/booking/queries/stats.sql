-- name: get_instructor_stats
-- An instructor's figures; the view shows those of the school alone.
SELECT {columns}
  FROM instructor_stats_of_org
 WHERE "orgId" = %(org_id)s::uuid AND "instructorId" = %(instructor_id)s::uuid;

-- name: list_instructor_stats
-- A page of the figures of the school's instructors, behind the row instructorId.
SELECT {columns}
  FROM instructor_stats_of_org
 WHERE "orgId" = %(org_id)s::uuid AND "instructorId" > %(after_id)s::uuid
 ORDER BY "instructorId"
 LIMIT %(limit)s::int;

-- name: allow_long_refresh
-- platform: for this transaction, which reads all schools' figures and belongs to none.
SELECT set_config('driveflow.org_id', %(org_id)s::text, true),
       set_config('statement_timeout', %(timeout_ms)s::text, true),
       set_config('lock_timeout', %(timeout_ms)s::text, true),
       set_config('transaction_timeout', '0', true);

-- name: last_refresh
-- When the figures were last computed; the audit log has it, for every process to see.
SELECT (after ->> 'refresh_time')::timestamptz
  FROM "AuditLog"
 WHERE "orgId" = %(org_id)s::uuid AND "entityType" = 'instructor_stats' AND action = 'refresh'
 ORDER BY id DESC
 LIMIT 1;

-- name: lock_refresh
-- One refresh at a time, so that who waited can see that it was done meanwhile.
SELECT pg_advisory_xact_lock(%(lock)s::bigint);

-- name: refresh_instructor_stats
-- platform: computes the figures of all schools anew; the old ones stay readable meanwhile.
REFRESH MATERIALIZED VIEW CONCURRENTLY instructor_stats;

-- name: refresh_time
-- The time that the figures of this transaction carry.
SELECT now();
