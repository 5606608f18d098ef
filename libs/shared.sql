-- name: claim_request
-- Takes a request id for the call under way, or an expired one over; no row when it is taken.
INSERT INTO "IdempotencyKey" ("orgId", subject, method, "requestId", "requestHash", "expiresAt")
VALUES (%(org_id)s::uuid, %(subject)s::text, %(method)s::text, %(request_id)s::uuid,
        %(request_hash)s::bytea, now() + make_interval(hours => 24))
ON CONFLICT ("orgId", subject, method, "requestId") DO UPDATE
   SET "requestHash" = EXCLUDED."requestHash", response = NULL, "expiresAt" = EXCLUDED."expiresAt"
 WHERE "IdempotencyKey"."orgId" = %(org_id)s::uuid AND "IdempotencyKey"."expiresAt" < now()
RETURNING "requestId";

-- name: find_request
-- What the first call with this request id asked (its hash) and was answered.
SELECT "requestHash", response
  FROM "IdempotencyKey"
 WHERE "orgId" = %(org_id)s::uuid AND subject = %(subject)s::text AND method = %(method)s::text
   AND "requestId" = %(request_id)s::uuid;

-- name: find_answer
-- What the first call with this request id asked (its hash) and was answered, while that counts.
SELECT "requestHash", response
  FROM "IdempotencyKey"
 WHERE "orgId" = %(org_id)s::uuid AND subject = %(subject)s::text AND method = %(method)s::text
   AND "requestId" = %(request_id)s::uuid AND "expiresAt" >= now();

-- name: answer_request
-- Keeps the answer of the call that claimed the request id.
UPDATE "IdempotencyKey" SET response = %(response)s::bytea
 WHERE "orgId" = %(org_id)s::uuid AND subject = %(subject)s::text AND method = %(method)s::text
   AND "requestId" = %(request_id)s::uuid;

-- name: find_requests
-- What was asked under these request ids before (its hash) and answered, and whether it counts no
-- longer; in the order in which they are given, none for an id that is new. LIMIT 1 keeps each
-- look-up one by key.
SELECT k.no, r."requestHash", r.response, r.expired
  FROM unnest(%(subjects)s::text[], %(methods)s::text[], %(request_ids)s::uuid[])
         WITH ORDINALITY AS k (subject, method, id, no)
 CROSS JOIN LATERAL (
       SELECT i."requestHash", i.response, i."expiresAt" < now() AS expired
         FROM "IdempotencyKey" AS i
        WHERE i."orgId" = %(org_id)s::uuid AND i.subject = k.subject AND i.method = k.method
          AND i."requestId" = k.id LIMIT 1) AS r;

-- name: forget_request
-- Makes room for a request id whose answer counts no longer.
DELETE FROM "IdempotencyKey"
 WHERE "orgId" = %(org_id)s::uuid AND subject = %(subject)s::text AND method = %(method)s::text
   AND "requestId" = %(request_id)s::uuid AND "expiresAt" < now();

-- name: remember_requests
-- Takes request ids and keeps their answers, in one step; fails when one of them is taken.
INSERT INTO "IdempotencyKey" ("orgId", subject, method, "requestId", "requestHash", response,
                              "expiresAt")
SELECT %(org_id)s::uuid, k.subject, k.method, k.id, k.hash, k.response,
       now() + make_interval(hours => 24)
  FROM unnest(%(subjects)s::text[], %(methods)s::text[], %(request_ids)s::uuid[],
              %(hashes)s::bytea[], %(responses)s::bytea[])
         AS k (subject, method, id, hash, response);

-- name: delete_expired_requests
-- Sweeps a school's request ids that no longer count, a few at a time.
DELETE FROM "IdempotencyKey"
 WHERE "orgId" = %(org_id)s::uuid AND ctid = ANY (ARRAY(
       SELECT ctid FROM "IdempotencyKey"
        WHERE "orgId" = %(org_id)s::uuid AND "expiresAt" < now() LIMIT 1000));

-- name: record_audit
-- Who changed what, from which values to which.
INSERT INTO "AuditLog" ("orgId", "actorUserId", "entityType", "entityId", action, before, after)
VALUES (%(org_id)s::uuid, %(actor)s::text, %(entity_type)s::text, %(entity_id)s::text,
        %(action)s::text, %(before)s::jsonb, %(after)s::jsonb);

-- name: emit_event
-- An event of the change under way, in its transaction. Its place is behind the last event of the
-- same aggregate, even if this transaction began (had its number) before the one of that event.
INSERT INTO "Outbox" ("xactId", "orgId", "aggregateType", "aggregateId", "aggregateVersion", topic,
                      type, payload)
VALUES (greatest(pg_current_xact_id(),
                 (SELECT max("xactId") FROM "Outbox"
                   WHERE "orgId" = %(org_id)s::uuid
                     AND "aggregateType" = %(aggregate_type)s::text
                     AND "aggregateId" = %(aggregate_id)s::uuid AND "processedAt" IS NULL)),
        %(org_id)s::uuid, %(aggregate_type)s::text, %(aggregate_id)s::uuid,
        %(aggregate_version)s::int, %(topic)s::text, %(type)s::text, %(payload)s::jsonb);

-- name: add_tenant
-- platform: ids of the schools that a service has met, for its sweeps.
INSERT INTO "Tenant" ("orgId") VALUES (%(org_id)s::uuid) ON CONFLICT ("orgId") DO NOTHING;

-- name: list_tenants
-- platform: ids of all schools, for work that then goes school by school; suspended ones too.
SELECT "orgId" FROM "Tenant" ORDER BY "orgId";

-- name: set_tenant_active
-- Whether a school is at work or suspended; known from now on if it was not.
INSERT INTO "Tenant" ("orgId", active) VALUES (%(org_id)s::uuid, %(active)s::boolean)
ON CONFLICT ("orgId") DO UPDATE SET active = EXCLUDED.active
 WHERE "Tenant"."orgId" = %(org_id)s::uuid;
