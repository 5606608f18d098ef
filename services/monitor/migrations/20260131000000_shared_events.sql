-- migrate:up
-- What the delivery of events needs. Made from libs/migrations/shared_events.sql by ./dev generate;
-- once released it stays as it is, and changes are migrations of their own.

-- A school that comes back after days reads its own events and no others.
CREATE INDEX idx_outbox_org ON monitor."Outbox" ("orgId", "xactId", id);
-- What consumers have not passed yet, topic by topic, in the order of delivery.
CREATE INDEX idx_outbox_pending ON monitor."Outbox" (topic, "xactId", id)
  WHERE "processedAt" IS NULL;


CREATE TABLE monitor."OutboxHorizon" (
  topic    text   NOT NULL,
  "xactId" xid8   NOT NULL,
  id       bigint NOT NULL,
  CONSTRAINT outbox_horizon_pkey PRIMARY KEY (topic)
);
ALTER TABLE monitor."OutboxHorizon" OWNER TO monitor_owner;
COMMENT ON TABLE monitor."OutboxHorizon" IS
  'The last event of each topic that was deleted: whoever is not past it has lost events.';
GRANT SELECT, INSERT, UPDATE ("xactId", id) ON monitor."OutboxHorizon" TO monitor;

-- Not led by "orgId": on a young table the planner would take it for the key, and read all of a
-- school's requests to find one.
DROP INDEX monitor.idx_idempotency_key_expires;
CREATE INDEX idx_idempotency_key_expires ON monitor."IdempotencyKey" ("expiresAt", "orgId");

-- migrate:down
