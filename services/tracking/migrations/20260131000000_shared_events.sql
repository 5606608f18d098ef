-- migrate:up
-- What the delivery of events needs. Made from libs/migrations/shared_events.sql by ./dev generate;
-- once released it stays as it is, and changes are migrations of their own.

-- A school that comes back after days reads its own events and no others.
CREATE INDEX idx_outbox_org ON tracking."Outbox" ("orgId", "xactId", id);
-- What consumers have not passed yet, topic by topic, in the order of delivery.
CREATE INDEX idx_outbox_pending ON tracking."Outbox" (topic, "xactId", id)
  WHERE "processedAt" IS NULL;


CREATE TABLE tracking."OutboxHorizon" (
  topic    text   NOT NULL,
  "xactId" xid8   NOT NULL,
  id       bigint NOT NULL,
  CONSTRAINT outbox_horizon_pkey PRIMARY KEY (topic)
);
ALTER TABLE tracking."OutboxHorizon" OWNER TO tracking_owner;
COMMENT ON TABLE tracking."OutboxHorizon" IS
  'The last event of each topic that was deleted: whoever is not past it has lost events.';
GRANT SELECT, INSERT, UPDATE ("xactId", id) ON tracking."OutboxHorizon" TO tracking;

-- Not led by "orgId": on a young table the planner would take it for the key, and read all of a
-- school's requests to find one.
DROP INDEX tracking.idx_idempotency_key_expires;
CREATE INDEX idx_idempotency_key_expires ON tracking."IdempotencyKey" ("expiresAt", "orgId");

-- migrate:down
