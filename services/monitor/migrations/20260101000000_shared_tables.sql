-- migrate:up
-- The tables that every service has. Made from libs/migrations/shared_tables.sql by
-- ./dev generate; once released it stays as it is, and changes are migrations of their own.

CREATE TABLE monitor."Tenant" (
  "orgId"  uuid    NOT NULL,
  active   boolean NOT NULL DEFAULT true,
  CONSTRAINT tenant_pkey PRIMARY KEY ("orgId")
);
ALTER TABLE monitor."Tenant" OWNER TO monitor_owner;
COMMENT ON TABLE monitor."Tenant" IS
  'The schools this service knows, ids only: the list that work across schools walks.';
GRANT SELECT, INSERT, UPDATE (active) ON monitor."Tenant" TO monitor;


CREATE TABLE monitor."Outbox" (
  id                 bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,
  "xactId"           xid8        NOT NULL DEFAULT pg_current_xact_id(),
  "orgId"            uuid        NOT NULL,
  "aggregateType"    text        NOT NULL,
  "aggregateId"      uuid        NOT NULL,
  "aggregateVersion" integer     NOT NULL,
  topic              text        NOT NULL,
  type               text        NOT NULL,
  payload            jsonb       NOT NULL,
  "createdAt"        timestamptz NOT NULL DEFAULT now(),
  "processedAt"      timestamptz,
  CONSTRAINT outbox_pkey PRIMARY KEY ("xactId", id)
) WITH (
  fillfactor = 80,
  autovacuum_vacuum_scale_factor = 0.01,
  autovacuum_vacuum_insert_scale_factor = 0.05,
  autovacuum_analyze_scale_factor = 0.05
);
ALTER TABLE monitor."Outbox" OWNER TO monitor_owner;
CREATE INDEX idx_outbox_topic_processed ON monitor."Outbox" (topic, "processedAt");
CREATE INDEX idx_outbox_pending_aggregate
  ON monitor."Outbox" ("aggregateType", "aggregateId", "aggregateVersion")
  WHERE "processedAt" IS NULL;
COMMENT ON TABLE monitor."Outbox" IS
  'Events, written in the transaction of the change they tell of. Read in the order ("xactId", id)
below the oldest running transaction, so that a slow commit loses none. Kept 14 days.';
COMMENT ON COLUMN monitor."Outbox".payload IS 'No personal data beyond ids.';
COMMENT ON COLUMN monitor."Outbox"."processedAt" IS
  'When every consumer of "EventConsumer" had passed it.';
GRANT SELECT, INSERT, UPDATE ("processedAt"), DELETE ON monitor."Outbox" TO monitor;

-- What calls on behalf of a school read instead of the table.
CREATE VIEW monitor."OutboxOfOrg" WITH (security_barrier) AS
  SELECT id, "xactId", "orgId", "aggregateType", "aggregateId", "aggregateVersion",
         topic, type, payload, "createdAt", "processedAt"
  FROM monitor."Outbox"
  WHERE "orgId" = (SELECT NULLIF(current_setting('driveflow.org_id', true), '')::uuid);
ALTER VIEW monitor."OutboxOfOrg" OWNER TO monitor_owner;
COMMENT ON VIEW monitor."OutboxOfOrg" IS 'Events of the school that the transaction is for.';
GRANT SELECT ON monitor."OutboxOfOrg" TO monitor;


CREATE TABLE monitor."EventConsumer" (
  consumer             text        NOT NULL,
  topics               text[]      NOT NULL,
  "acknowledgedXactId" xid8,
  "acknowledgedId"     bigint,
  "registeredAt"       timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT event_consumer_pkey PRIMARY KEY (consumer),
  CONSTRAINT event_consumer_cursor_whole
    CHECK (("acknowledgedXactId" IS NULL) = ("acknowledgedId" IS NULL))
);
ALTER TABLE monitor."EventConsumer" OWNER TO monitor_owner;
COMMENT ON TABLE monitor."EventConsumer" IS
  'Who must have passed an event of this service before it counts as processed.';
GRANT SELECT, INSERT, UPDATE (topics, "acknowledgedXactId", "acknowledgedId"), DELETE
  ON monitor."EventConsumer" TO monitor;


CREATE TABLE monitor."EventCursor" (
  producer text   NOT NULL,
  consumer text   NOT NULL,
  "xactId" xid8   NOT NULL,
  id       bigint NOT NULL,
  CONSTRAINT event_cursor_pkey PRIMARY KEY (producer, consumer)
);
ALTER TABLE monitor."EventCursor" OWNER TO monitor_owner;
COMMENT ON TABLE monitor."EventCursor" IS
  'How far this service has taken in another''s events; moved in the transaction of the effect.';
GRANT SELECT, INSERT, UPDATE ("xactId", id) ON monitor."EventCursor" TO monitor;


CREATE TABLE monitor."ParkedEvent" (
  producer           text        NOT NULL,
  consumer           text        NOT NULL,
  "xactId"           xid8        NOT NULL,
  "eventId"          bigint      NOT NULL,
  "aggregateType"    text        NOT NULL,
  "aggregateId"      uuid        NOT NULL,
  "aggregateVersion" integer     NOT NULL,
  envelope           bytea       NOT NULL,
  attempts           integer     NOT NULL DEFAULT 1,
  "nextAttemptAt"    timestamptz NOT NULL,
  "lastError"        text        NOT NULL,
  "parkedAt"         timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT parked_event_pkey PRIMARY KEY (producer, consumer, "xactId", "eventId"),
  CONSTRAINT parked_event_attempts_not_negative CHECK (attempts >= 0)
);
ALTER TABLE monitor."ParkedEvent" OWNER TO monitor_owner;
CREATE INDEX idx_parked_event_due ON monitor."ParkedEvent" ("nextAttemptAt");
CREATE INDEX idx_parked_event_aggregate
  ON monitor."ParkedEvent" (producer, consumer, "aggregateType", "aggregateId");
COMMENT ON TABLE monitor."ParkedEvent" IS
  'Events whose effect failed, and later ones of the same aggregate; tried again with backoff.';
COMMENT ON COLUMN monitor."ParkedEvent".envelope IS 'The event as received, protobuf.';
GRANT SELECT, INSERT, UPDATE (attempts, "nextAttemptAt", "lastError"), DELETE
  ON monitor."ParkedEvent" TO monitor;


CREATE TABLE monitor."IdempotencyKey" (
  "orgId"       uuid        NOT NULL,
  subject       text        NOT NULL,
  method        text        NOT NULL,
  "requestId"   uuid        NOT NULL,
  "requestHash" bytea       NOT NULL,
  response      bytea,
  "createdAt"   timestamptz NOT NULL DEFAULT now(),
  "expiresAt"   timestamptz NOT NULL,
  CONSTRAINT idempotency_key_pkey PRIMARY KEY ("orgId", subject, method, "requestId"),
  CONSTRAINT idempotency_key_hash_is_sha256 CHECK (octet_length("requestHash") = 32)
) WITH (
  autovacuum_vacuum_scale_factor = 0.02,
  autovacuum_vacuum_insert_scale_factor = 0.05
);
ALTER TABLE monitor."IdempotencyKey" OWNER TO monitor_owner;
ALTER TABLE monitor."IdempotencyKey" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY org_only ON monitor."IdempotencyKey"
  USING ("orgId" = (SELECT NULLIF(current_setting('driveflow.org_id', true), '')::uuid));
CREATE INDEX idx_idempotency_key_expires ON monitor."IdempotencyKey" ("orgId", "expiresAt");
COMMENT ON TABLE monitor."IdempotencyKey" IS
  'The first answer to a request_id, written in the transaction of its work; kept 24 hours.';
COMMENT ON COLUMN monitor."IdempotencyKey".response IS 'Without secrets; null while under way.';
GRANT SELECT, INSERT, UPDATE ("requestHash", response, "createdAt", "expiresAt"), DELETE
  ON monitor."IdempotencyKey" TO monitor;


CREATE TABLE monitor."AuditLog" (
  "orgId"       uuid        NOT NULL,
  id            uuid        NOT NULL DEFAULT uuidv7(),
  "actorUserId" text        NOT NULL,
  "entityType"  text        NOT NULL,
  "entityId"    text        NOT NULL,
  action        text        NOT NULL,
  before        jsonb,
  after         jsonb,
  "createdAt"   timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT audit_log_pkey PRIMARY KEY ("orgId", id)
);
ALTER TABLE monitor."AuditLog" OWNER TO monitor_owner;
ALTER TABLE monitor."AuditLog" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY org_only ON monitor."AuditLog"
  USING ("orgId" = (SELECT NULLIF(current_setting('driveflow.org_id', true), '')::uuid));
CREATE INDEX idx_audit_org_entity ON monitor."AuditLog" ("orgId", "entityType", "entityId");
CREATE INDEX idx_audit_actor_created ON monitor."AuditLog" ("actorUserId", "createdAt");
COMMENT ON TABLE monitor."AuditLog" IS 'Who changed what, and when. Append-only.';
COMMENT ON COLUMN monitor."AuditLog"."actorUserId" IS 'The token''s subject.';
-- UPDATE of the two contents is for erasure alone.
GRANT SELECT, INSERT, UPDATE (before, after) ON monitor."AuditLog" TO monitor;

-- migrate:down
