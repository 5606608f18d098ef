-- name: lock_alerting
-- One process at a time makes alerts of reports: an old leader may not know yet that it is none.
SELECT pg_advisory_xact_lock(%(lock)s::bigint);

-- name: unresolved_alerts
-- Alerts that are pending or open, one for each rule at most.
SELECT {columns} FROM "Alert" WHERE state <> 'resolved';

-- name: add_alert
-- A condition that holds, or one that fires at once.
INSERT INTO "Alert" (rule, state, severity, summary, figure, threshold, unit, evidence, "nextStep",
                     command, "startedAt", "firedAt", "clearAt", "resolvedAt", muted, told)
VALUES (%(rule)s::text, %(state)s::text, %(severity)s::text, %(summary)s::text, %(figure)s::float8,
        %(threshold)s::float8, %(unit)s::text, %(evidence)s::text[], %(next_step)s::text,
        %(command)s::text, %(started_at)s::timestamptz, %(fired_at)s::timestamptz,
        %(clear_at)s::timestamptz, %(resolved_at)s::timestamptz, %(muted)s::bool, %(told)s::bool)
RETURNING {columns};

-- name: update_alert
-- What became of an alert; who looks after it is not touched.
UPDATE "Alert"
   SET state = %(state)s::text, severity = %(severity)s::text, summary = %(summary)s::text,
       figure = %(figure)s::float8, threshold = %(threshold)s::float8, unit = %(unit)s::text,
       evidence = %(evidence)s::text[], "nextStep" = %(next_step)s::text,
       command = %(command)s::text, "firedAt" = %(fired_at)s::timestamptz,
       "clearAt" = %(clear_at)s::timestamptz, "resolvedAt" = %(resolved_at)s::timestamptz,
       muted = %(muted)s::bool, told = %(told)s::bool, version = version + 1, "updatedAt" = now()
 WHERE id = %(id)s::uuid
RETURNING {columns};

-- name: drop_pending
-- A condition that went before it fired.
DELETE FROM "Alert" WHERE id = %(id)s::uuid AND state = 'pending';

-- name: list_alerts
-- A page of the alerts that have fired, latest first.
SELECT {columns} FROM "Alert"
 WHERE state <> 'pending' AND (%(state)s::text = '' OR state = %(state)s::text)
   AND (%(rule)s::text = '' OR rule = %(rule)s::text)
   AND ("firedAt", id) < (%(before_at)s::timestamptz, %(before_id)s::uuid)
 ORDER BY "firedAt" DESC, id DESC LIMIT %(limit)s::int;

-- name: watched_alerts
-- Alerts that are open, or changed so lately that a watcher may not have seen it: also by a
-- transaction that took as long as one may.
SELECT {columns} FROM "Alert"
 WHERE state = 'open'
    OR state = 'resolved' AND "updatedAt" >= now() - make_interval(secs => %(lately_s)s::float8)
 ORDER BY "firedAt", id;

-- name: lock_alert
-- An alert that has fired and is about to be acknowledged.
SELECT {columns} FROM "Alert" WHERE id = %(id)s::uuid AND state <> 'pending' FOR UPDATE;

-- name: acknowledge_alert
-- Notes who looks after an alert.
UPDATE "Alert"
   SET "acknowledgedBy" = %(by)s::text, "acknowledgedAt" = %(at)s::timestamptz,
       note = %(note)s::text, version = version + 1, "updatedAt" = now()
 WHERE id = %(id)s::uuid
RETURNING {columns};

-- name: add_notification
-- What the webhook is to be told.
INSERT INTO "AlertNotification" ("alertId", kind, payload, "createdAt", "nextAttemptAt")
VALUES (%(alert_id)s::uuid, %(kind)s::text, %(payload)s::jsonb, %(at)s::timestamptz,
        %(at)s::timestamptz);

-- name: claim_notifications
-- Takes those that are due, of each alert only the first that is not done. Each is due again later,
-- unless it is noted that it was delivered or given up.
UPDATE "AlertNotification" AS n
   SET attempts = attempts + 1,
       "nextAttemptAt" = %(now)s::timestamptz
         + least(%(pause_s)s::float8 * 2 ^ attempts, %(pause_s_max)s::float8) * '1 second'::interval
 WHERE id IN (
       SELECT w.id FROM "AlertNotification" AS w
        WHERE w."nextAttemptAt" <= %(now)s::timestamptz
          AND NOT EXISTS (SELECT FROM "AlertNotification" AS e
                           WHERE e."alertId" = w."alertId" AND e.id < w.id
                             AND e."nextAttemptAt" IS NOT NULL)
        ORDER BY w."nextAttemptAt" LIMIT %(limit)s::int FOR UPDATE SKIP LOCKED)
RETURNING id::text, kind, payload, attempts;

-- name: note_delivered
-- The webhook took it.
UPDATE "AlertNotification"
   SET "deliveredAt" = %(at)s::timestamptz, "nextAttemptAt" = NULL, "lastError" = ''
 WHERE id = %(id)s::uuid;

-- name: note_failed
-- The webhook did not take it; after the last attempt it is given up.
UPDATE "AlertNotification"
   SET "lastError" = %(error)s::text,
       "nextAttemptAt" = CASE WHEN NOT %(give_up)s::bool THEN "nextAttemptAt" END
 WHERE id = %(id)s::uuid;

-- name: forget_alerts
-- Deletes alerts that were resolved long ago, a thousand at a time.
DELETE FROM "Alert" WHERE id = ANY (ARRAY(
       SELECT id FROM "Alert" WHERE "resolvedAt" < %(before)s::timestamptz LIMIT 1000));

-- name: forget_notifications
-- Deletes notifications that are done or given up and old, a thousand at a time.
DELETE FROM "AlertNotification" WHERE id = ANY (ARRAY(
       SELECT id FROM "AlertNotification"
        WHERE "createdAt" < %(before)s::timestamptz AND "nextAttemptAt" IS NULL
        ORDER BY "createdAt" LIMIT 1000));
