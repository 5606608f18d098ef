-- name: read_head
-- platform: the last event that may be sent, of any school; only its place and whose it is.
SELECT "xactId"::text AS number, id
  FROM "Outbox"
 WHERE "xactId" < pg_snapshot_xmin(pg_current_snapshot())
 ORDER BY "xactId" DESC, id DESC
 LIMIT 1;

-- name: look_ahead
-- platform: whose events have become ready behind a place, so that their subscribers are woken.
SELECT "xactId"::text AS number, id, "orgId", topic
  FROM "Outbox"
 WHERE ("xactId", id) > (%(xact)s::text::xid8, %(id)s::bigint)
   AND "xactId" < pg_snapshot_xmin(pg_current_snapshot())
 ORDER BY "xactId", id
 LIMIT %(limit)s::int;

-- name: read_events
-- platform: events of all schools for another service, in order, between two places.
SELECT "xactId"::text AS number, id, "orgId", topic, type, "aggregateType", "aggregateId",
       "aggregateVersion", payload::text, "createdAt", "processedAt"
  FROM "Outbox"
 WHERE ("xactId", id) > (%(xact)s::text::xid8, %(id)s::bigint)
   AND ("xactId", id) <= (%(to_xact)s::text::xid8, %(to_id)s::bigint)
   AND "xactId" < pg_snapshot_xmin(pg_current_snapshot())
   AND (cardinality(%(topics)s::text[]) = 0 OR topic = ANY (%(topics)s::text[]))
 ORDER BY "xactId", id
 LIMIT %(limit)s::int;

-- name: read_events_of_org
-- A school's own events, in order, between two places.
SELECT "xactId"::text AS number, id, "orgId", topic, type, "aggregateType", "aggregateId",
       "aggregateVersion", payload::text, "createdAt", "processedAt"
  FROM "OutboxOfOrg"
 WHERE "orgId" = %(org_id)s::uuid
   AND ("xactId", id) > (%(xact)s::text::xid8, %(id)s::bigint)
   AND ("xactId", id) <= (%(to_xact)s::text::xid8, %(to_id)s::bigint)
   AND "xactId" < pg_snapshot_xmin(pg_current_snapshot())
   AND (cardinality(%(topics)s::text[]) = 0 OR topic = ANY (%(topics)s::text[]))
 ORDER BY "xactId", id
 LIMIT %(limit)s::int;

-- name: check_place
-- platform: whether a place is one that could have been given out, and whether events behind it
-- have been deleted.
SELECT %(xact)s::text::xid8 >= pg_snapshot_xmax(pg_current_snapshot()),
       EXISTS (SELECT FROM "OutboxHorizon"
                WHERE ("xactId", id) > (%(xact)s::text::xid8, %(id)s::bigint)
                  AND (cardinality(%(topics)s::text[]) = 0 OR topic = ANY (%(topics)s::text[])));

-- name: list_events
-- platform: a page of events of all schools, latest first, before a place.
SELECT {columns}
  FROM "Outbox"
 WHERE ("xactId", id) < (%(xact)s::text::xid8, %(id)s::bigint)
   AND "xactId" < pg_snapshot_xmin(pg_current_snapshot())
   AND (%(topic)s::text IS NULL OR topic = %(topic)s::text)
   AND (%(processed)s::boolean IS NULL OR ("processedAt" IS NOT NULL) = %(processed)s::boolean)
 ORDER BY "xactId" DESC, id DESC
 LIMIT %(limit)s::int;

-- name: list_events_of_org
-- A page of a school's events, latest first, before a place.
SELECT {columns}
  FROM "OutboxOfOrg"
 WHERE "orgId" = %(org_id)s::uuid
   AND ("xactId", id) < (%(xact)s::text::xid8, %(id)s::bigint)
   AND "xactId" < pg_snapshot_xmin(pg_current_snapshot())
   AND (%(topic)s::text IS NULL OR topic = %(topic)s::text)
   AND (%(processed)s::boolean IS NULL OR ("processedAt" IS NOT NULL) = %(processed)s::boolean)
 ORDER BY "xactId" DESC, id DESC
 LIMIT %(limit)s::int;

-- name: register_consumer
-- A consumer that events wait for. Its topics are known once it subscribes; all until then.
INSERT INTO "EventConsumer" (consumer, topics)
VALUES (%(consumer)s::text, ARRAY[]::text[])
ON CONFLICT (consumer) DO NOTHING;

-- name: unregister_consumers
-- Consumers that the settings name no more hold nothing back.
DELETE FROM "EventConsumer" WHERE consumer <> ALL (%(consumers)s::text[]);

-- name: note_topics
-- What a registered consumer subscribes to.
UPDATE "EventConsumer" SET topics = %(topics)s::text[]
 WHERE consumer = %(consumer)s::text AND topics <> %(topics)s::text[];

-- name: note_acknowledged
-- How far a registered consumer is; two subscriptions of one consumer never take it back.
UPDATE "EventConsumer"
   SET "acknowledgedXactId" = %(xact)s::text::xid8, "acknowledgedId" = %(id)s::bigint
 WHERE consumer = %(consumer)s::text
   AND ("acknowledgedXactId" IS NULL
        OR ("acknowledgedXactId", "acknowledgedId") < (%(xact)s::text::xid8, %(id)s::bigint));

-- name: list_consumers
-- How far the registered consumers are.
SELECT consumer, topics, "acknowledgedXactId"::text, "acknowledgedId"
  FROM "EventConsumer" ORDER BY consumer;

-- name: next_topic
-- platform: the topic behind another, of all that there are events of.
SELECT topic FROM "Outbox" WHERE topic > %(topic)s::text ORDER BY topic LIMIT 1;

-- name: mark_processed
-- platform: events of a topic that every consumer has passed, a few at a time. Only those that may
-- be sent: an event that is processed no longer keeps those of slower transactions behind it. And
-- only those behind a place up to which all are marked: while an old snapshot is about somewhere,
-- the index goes on naming them.
WITH passed AS (
  SELECT "xactId", id FROM "Outbox"
   WHERE "processedAt" IS NULL AND topic = %(topic)s::text
     AND ("xactId", id) > (%(from_xact)s::text::xid8, %(from_id)s::bigint)
     AND ("xactId", id) <= (%(xact)s::text::xid8, %(id)s::bigint)
     AND "xactId" < pg_snapshot_xmin(pg_current_snapshot())
   ORDER BY "xactId", id
   LIMIT %(limit)s::int
     FOR UPDATE SKIP LOCKED
), marked AS (
  UPDATE "Outbox" AS o SET "processedAt" = %(now)s::timestamptz
    FROM passed
   WHERE o."xactId" = passed."xactId" AND o.id = passed.id
  RETURNING o."xactId", o.id
)
SELECT "xactId"::text AS number, id FROM marked ORDER BY "xactId" DESC, id DESC LIMIT 1;

-- name: delete_processed
-- platform: events of a topic past their keeping, a few at a time; notes how far it has deleted.
WITH old AS (
  SELECT "xactId", id FROM "Outbox"
   WHERE topic = %(topic)s::text AND "processedAt" < %(before)s::timestamptz
   ORDER BY "processedAt"
   LIMIT %(limit)s::int
     FOR UPDATE SKIP LOCKED
), gone AS (
  DELETE FROM "Outbox" AS o USING old
   WHERE o."xactId" = old."xactId" AND o.id = old.id
  RETURNING o.topic, o."xactId", o.id
), noted AS (
  INSERT INTO "OutboxHorizon" AS h (topic, "xactId", id)
  SELECT DISTINCT ON (topic) topic, "xactId", id FROM gone ORDER BY topic, "xactId" DESC, id DESC
  ON CONFLICT (topic) DO UPDATE SET "xactId" = EXCLUDED."xactId", id = EXCLUDED.id
   WHERE (h."xactId", h.id) < (EXCLUDED."xactId", EXCLUDED.id)
)
SELECT count(*) FROM gone;

-- name: count_pending
-- platform: how many events a consumer has not passed, up to a limit, and since when.
SELECT count(*), min("createdAt")
  FROM (SELECT "createdAt" FROM "Outbox"
         WHERE ("xactId", id) > (%(xact)s::text::xid8, %(id)s::bigint)
           AND (cardinality(%(topics)s::text[]) = 0 OR topic = ANY (%(topics)s::text[]))
         ORDER BY "xactId", id
         LIMIT %(limit)s::int) AS pending;

-- name: count_pending_of_topic
-- platform: how many events of a topic a consumer has not passed, up to a limit, and since when.
-- None of them is processed, which would take every consumer.
SELECT count(*), min("createdAt")
  FROM (SELECT "createdAt" FROM "Outbox"
         WHERE topic = %(topic)s::text AND "processedAt" IS NULL
           AND ("xactId", id) > (%(xact)s::text::xid8, %(id)s::bigint)
         ORDER BY "xactId", id
         LIMIT %(limit)s::int) AS pending;

-- name: count_processed
-- platform: how many events of a topic are processed and still kept, up to a limit.
SELECT count(*)
  FROM (SELECT FROM "Outbox"
         WHERE topic = %(topic)s::text AND "processedAt" IS NOT NULL
         LIMIT %(limit)s::int) AS processed;

-- name: count_held_back
-- platform: events that a transaction under way somewhere keeps from being sent, up to a limit, and
-- since when.
SELECT count(*), min("createdAt")
  FROM (SELECT "createdAt" FROM "Outbox"
         WHERE "xactId" >= pg_snapshot_xmin(pg_current_snapshot())
         LIMIT %(limit)s::int) AS held;

-- name: find_horizon_holder
-- platform: whose transaction is the oldest of the cluster that writes; all that its role hides is
-- what it does and since when.
SELECT pid, coalesce(usename, '')::text AS usename, application_name
  FROM pg_stat_activity
 WHERE backend_xid = pg_snapshot_xmin(pg_current_snapshot())::xid
 UNION ALL
SELECT 0, owner::text, gid
  FROM pg_prepared_xacts
 WHERE transaction = pg_snapshot_xmin(pg_current_snapshot())::xid
 LIMIT 1;

-- name: read_cursor
-- How far this service has taken in a producer's events.
SELECT "xactId"::text AS number, id FROM "EventCursor"
 WHERE producer = %(producer)s::text AND consumer = %(consumer)s::text;

-- name: begin_cursor
-- The place before all events of a producer, at the first sight of it.
INSERT INTO "EventCursor" (producer, consumer, "xactId", id)
VALUES (%(producer)s::text, %(consumer)s::text, '0'::xid8, 0)
ON CONFLICT (producer, consumer) DO NOTHING;

-- name: lock_cursor
-- The same, held until the transaction ends: effects of a producer's events happen one by one.
SELECT "xactId"::text AS number, id FROM "EventCursor"
 WHERE producer = %(producer)s::text AND consumer = %(consumer)s::text
   FOR UPDATE;

-- name: move_cursor
-- In the transaction of the effects.
UPDATE "EventCursor" SET "xactId" = %(xact)s::text::xid8, id = %(id)s::bigint
 WHERE producer = %(producer)s::text AND consumer = %(consumer)s::text;

-- name: parked_aggregates
-- Which of these have events parked, so that later ones must wait behind them.
SELECT DISTINCT p."aggregateType", p."aggregateId"
  FROM "ParkedEvent" AS p
  JOIN unnest(%(types)s::text[], %(ids)s::uuid[]) AS a (type, id)
    ON a.type = p."aggregateType" AND a.id = p."aggregateId"
 WHERE p.producer = %(producer)s::text AND p.consumer = %(consumer)s::text;

-- name: park_event
-- Keeps an event whose effect failed, or that came behind one.
INSERT INTO "ParkedEvent" (producer, consumer, "xactId", "eventId", "aggregateType", "aggregateId",
                           "aggregateVersion", envelope, attempts, "nextAttemptAt", "lastError",
                           "parkedAt")
VALUES (%(producer)s::text, %(consumer)s::text, %(xact)s::text::xid8, %(id)s::bigint,
        %(aggregate_type)s::text, %(aggregate_id)s::uuid, %(aggregate_version)s::int,
        %(envelope)s::bytea, %(attempts)s::int, %(next_attempt_at)s::timestamptz,
        %(last_error)s::text, %(now)s::timestamptz);

-- name: due_parked_event
-- The first parked event of an aggregate whose time has come.
SELECT p."xactId"::text AS number, p."eventId", p.envelope, p.attempts
  FROM "ParkedEvent" AS p
 WHERE p.producer = %(producer)s::text AND p.consumer = %(consumer)s::text
   AND p."nextAttemptAt" <= %(now)s::timestamptz
   AND NOT EXISTS (
       SELECT FROM "ParkedEvent" AS earlier
        WHERE earlier.producer = %(producer)s::text AND earlier.consumer = %(consumer)s::text
          AND earlier."aggregateType" = p."aggregateType"
          AND earlier."aggregateId" = p."aggregateId"
          AND (earlier."xactId", earlier."eventId") < (p."xactId", p."eventId"))
 ORDER BY p."nextAttemptAt"
 LIMIT 1;

-- name: unpark_event
-- Its effect has happened.
DELETE FROM "ParkedEvent"
 WHERE producer = %(producer)s::text AND consumer = %(consumer)s::text
   AND "xactId" = %(xact)s::text::xid8 AND "eventId" = %(id)s::bigint;

-- name: discard_parked_event
-- It is given up; those behind it are due already, and were only waiting for it.
DELETE FROM "ParkedEvent"
 WHERE producer = %(producer)s::text AND consumer = %(consumer)s::text
   AND "xactId" = %(xact)s::text::xid8 AND "eventId" = %(id)s::bigint
RETURNING producer, "xactId"::text AS number, "eventId", "aggregateType", "aggregateId",
          "aggregateVersion", envelope, attempts, "nextAttemptAt", "lastError", "parkedAt";

-- name: postpone_parked_event
-- Its effect has failed once more.
UPDATE "ParkedEvent"
   SET attempts = %(attempts)s::int, "nextAttemptAt" = %(next_attempt_at)s::timestamptz,
       "lastError" = %(last_error)s::text
 WHERE producer = %(producer)s::text AND consumer = %(consumer)s::text
   AND "xactId" = %(xact)s::text::xid8 AND "eventId" = %(id)s::bigint;

-- name: hasten_parked_events
-- A parked event and those of its aggregate before it are tried now.
UPDATE "ParkedEvent" AS p SET "nextAttemptAt" = %(now)s::timestamptz
  FROM "ParkedEvent" AS named
 WHERE named.producer = %(producer)s::text AND named.consumer = %(consumer)s::text
   AND named."xactId" = %(xact)s::text::xid8 AND named."eventId" = %(id)s::bigint
   AND p.producer = named.producer AND p.consumer = named.consumer
   AND p."aggregateType" = named."aggregateType" AND p."aggregateId" = named."aggregateId"
   AND (p."xactId", p."eventId") <= (named."xactId", named."eventId");

-- name: list_parked_events
-- A page of parked events of all producers, in order, behind a row.
SELECT {columns}
  FROM "ParkedEvent"
 WHERE consumer = %(consumer)s::text
   AND (producer, "xactId", "eventId")
       > (%(after_producer)s::text, %(xact)s::text::xid8, %(id)s::bigint)
 ORDER BY producer, "xactId", "eventId"
 LIMIT %(limit)s::int;

-- name: count_parked
-- How many events are parked, and since when.
SELECT count(*), min("parkedAt") FROM "ParkedEvent" WHERE consumer = %(consumer)s::text;
