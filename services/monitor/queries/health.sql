-- name: keep_report
-- A report of the schedule.
INSERT INTO "HealthReport" (at, status, checks, "durationMs")
VALUES (%(at)s::timestamptz, %(status)s::text, %(checks)s::jsonb, %(duration_ms)s::float8)
RETURNING id::text;

-- name: last_report_at
-- When the schedule last kept a report, but for what a clock kept that went ahead; null before the first.
SELECT max(at) FROM "HealthReport" WHERE at <= %(now)s::timestamptz;

-- name: list_reports
-- Reports of a period, latest first.
SELECT {columns} FROM "HealthReport"
 WHERE at >= %(at_from)s::timestamptz AND at < %(at_to)s::timestamptz
   AND (at, id) < (%(before_at)s::timestamptz, %(before_id)s::uuid)
 ORDER BY at DESC, id DESC LIMIT %(limit)s::int;

-- name: forget_reports
-- Deletes reports that are too old, a thousand at a time.
DELETE FROM "HealthReport" WHERE id = ANY (ARRAY(
       SELECT id FROM "HealthReport" WHERE at < %(before)s::timestamptz ORDER BY at LIMIT 1000));
