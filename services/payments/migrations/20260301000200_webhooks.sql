-- migrate:up
-- What Stripe tells us: kept with its effect, in one transaction.

CREATE TABLE payments."WebhookEvent" (
  id              bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,
  "eventId"       text        NOT NULL,
  provider        text        NOT NULL,
  account         text        NOT NULL DEFAULT '',
  livemode        boolean     NOT NULL,
  type            text        NOT NULL,
  payload         jsonb       NOT NULL,
  "orgId"         uuid,
  state           text        NOT NULL,
  attempts        integer     NOT NULL DEFAULT 1,
  error           text        NOT NULL DEFAULT '',
  "nextAttemptAt" timestamptz,
  "receivedAt"    timestamptz NOT NULL DEFAULT now(),
  "processedAt"   timestamptz,
  CONSTRAINT webhook_event_pkey PRIMARY KEY (id),
  CONSTRAINT webhook_event_state_known CHECK (state IN ('processed', 'ignored', 'failed')),
  CONSTRAINT webhook_event_failed_is_tried_again
    CHECK ((state = 'failed') = ("processedAt" IS NULL)
           AND (state = 'failed') = ("nextAttemptAt" IS NOT NULL))
) WITH (
  fillfactor = 90,
  autovacuum_vacuum_scale_factor = 0.02,
  autovacuum_vacuum_insert_scale_factor = 0.05,
  autovacuum_analyze_scale_factor = 0.05
);
ALTER TABLE payments."WebhookEvent" OWNER TO payments_owner;
CREATE UNIQUE INDEX idx_webhook_event_id
  ON payments."WebhookEvent" ("eventId", provider, account, livemode);
CREATE INDEX idx_webhook_provider_processed
  ON payments."WebhookEvent" (provider, "processedAt");
CREATE INDEX idx_webhook_state ON payments."WebhookEvent" (state, id);
CREATE INDEX idx_webhook_due ON payments."WebhookEvent" ("nextAttemptAt")
  WHERE "nextAttemptAt" IS NOT NULL;
COMMENT ON TABLE payments."WebhookEvent" IS
  'Of the platform, not of a school: read by operators only. A webhook''s school comes from our own
metadata on the object, compared with the row that is found under that school.';
GRANT SELECT, INSERT,
      UPDATE ("orgId", state, attempts, error, "nextAttemptAt", "processedAt"), DELETE
  ON payments."WebhookEvent" TO payments;

-- migrate:down
