-- name: add_webhook_event
-- An event that comes for the first time, until it is ended. No row when it is known.
-- platform: an event is the platform's; its school is only a column.
INSERT INTO "WebhookEvent"
       ("eventId", provider, account, livemode, type, payload, state, error,
        "nextAttemptAt", "receivedAt", "processedAt")
VALUES (%(event_id)s::text, %(provider)s::text, %(account)s::text, %(livemode)s::boolean,
        %(type)s::text, %(payload)s::jsonb, 'ignored', '',
        NULL, %(now)s::timestamptz, %(now)s::timestamptz)
ON CONFLICT ("eventId", provider, account, livemode) DO NOTHING
RETURNING id;

-- name: lock_webhook_event
-- An event that is known, locked; Stripe's name of it.
-- platform: an event is the platform's.
SELECT {columns} FROM "WebhookEvent"
 WHERE "eventId" = %(event_id)s::text AND provider = %(provider)s::text
   AND account = %(account)s::text AND livemode = %(livemode)s::boolean
   FOR UPDATE;

-- name: find_webhook_event
-- An event by our number of it.
-- platform: an event is the platform's.
SELECT {columns} FROM "WebhookEvent" WHERE id = %(id)s::bigint;

-- name: find_payload
-- What an event said.
-- platform: an event is the platform's.
SELECT payload FROM "WebhookEvent" WHERE id = %(id)s::bigint;

-- name: end_webhook_event
-- What became of an event, this time.
-- platform: an event is the platform's.
UPDATE "WebhookEvent"
   SET "orgId" = coalesce(%(org_id)s::uuid, "orgId"), state = %(state)s::text,
       error = %(error)s::text, attempts = attempts + %(again)s::int,
       "nextAttemptAt" = %(next_attempt_at)s::timestamptz,
       "processedAt" = CASE WHEN %(state)s::text = 'failed' THEN NULL
                            ELSE coalesce("processedAt", %(now)s::timestamptz) END
 WHERE id = %(id)s::bigint
RETURNING {columns};

-- name: list_webhook_events
-- Events, latest received first, behind a row.
-- platform: events are the platform's.
SELECT {columns} FROM "WebhookEvent"
 WHERE id < %(before_id)s::bigint
   AND (%(provider)s::text = '' OR provider = %(provider)s::text)
 ORDER BY id DESC
 LIMIT %(limit)s::int;

-- name: list_webhook_events_with_state
-- Those in a state, latest received first, behind a row (idx_webhook_state). The first two lines say
-- that they are in it; in this order no other index can tell them: a plan for any state would
-- look for the few that failed among all events, from the latest on.
-- platform: events are the platform's.
SELECT {columns} FROM "WebhookEvent"
 WHERE state >= %(state)s::text
   AND (state, id) < (%(state)s::text, %(before_id)s::bigint)
   AND (%(provider)s::text = '' OR provider = %(provider)s::text)
 ORDER BY state DESC, id DESC
 LIMIT %(limit)s::int;

-- name: list_due_webhook_events
-- Events whose effect failed and is to be tried again.
-- platform: events are the platform's.
SELECT id FROM "WebhookEvent"
 WHERE "nextAttemptAt" <= %(now)s::timestamptz
 ORDER BY "nextAttemptAt"
 LIMIT %(limit)s::int;

-- name: delete_webhook_events
-- Events that were dealt with long ago, some at a time.
-- platform: events are the platform's.
DELETE FROM "WebhookEvent"
 WHERE id IN (
   SELECT id FROM "WebhookEvent"
    WHERE provider = 'stripe' AND "processedAt" < %(before)s::timestamptz
    ORDER BY "processedAt"
    LIMIT %(limit)s::int);
