-- migrate:up
-- Our books against Stripe's.

CREATE TABLE payments."ReconciliationRun" (
  "orgId"       uuid        NOT NULL,
  id            uuid        NOT NULL DEFAULT uuidv7(),
  "fromAt"      timestamptz NOT NULL,
  "toAt"        timestamptz NOT NULL,
  "dryRun"      boolean     NOT NULL,
  status        text        NOT NULL DEFAULT 'running',
  compared      bigint      NOT NULL DEFAULT 0,
  matched       bigint      NOT NULL DEFAULT 0,
  discrepancies bigint      NOT NULL DEFAULT 0,
  failure       text        NOT NULL DEFAULT '',
  attempts      integer     NOT NULL DEFAULT 0,
  "createdAt"   timestamptz NOT NULL DEFAULT now(),
  "endedAt"     timestamptz,
  CONSTRAINT reconciliation_run_pkey PRIMARY KEY ("orgId", id),
  CONSTRAINT reconciliation_run_period_in_order CHECK ("fromAt" < "toAt"),
  CONSTRAINT reconciliation_run_status_known CHECK (status IN ('running', 'done', 'failed')),
  CONSTRAINT reconciliation_run_ends CHECK ((status = 'running') = ("endedAt" IS NULL))
);
ALTER TABLE payments."ReconciliationRun" OWNER TO payments_owner;
ALTER TABLE payments."ReconciliationRun" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY org_only ON payments."ReconciliationRun"
  USING ("orgId" = (SELECT NULLIF(current_setting('driveflow.org_id', true), '')::uuid));
CREATE INDEX idx_reconciliation_run_running ON payments."ReconciliationRun" ("orgId", id)
  WHERE status = 'running';
GRANT SELECT, INSERT, UPDATE ON payments."ReconciliationRun" TO payments;


CREATE TABLE payments."Discrepancy" (
  "orgId"      uuid        NOT NULL,
  id           uuid        NOT NULL DEFAULT uuidv7(),
  "runId"      uuid        NOT NULL,
  kind         text        NOT NULL,
  "objectType" text        NOT NULL,
  "objectId"   uuid,
  "stripeId"   text        NOT NULL DEFAULT '',
  here         text        NOT NULL DEFAULT '',
  there        text        NOT NULL DEFAULT '',
  note         text        NOT NULL DEFAULT '',
  "resolvedBy" text        NOT NULL DEFAULT '',
  "resolvedAt" timestamptz,
  "createdAt"  timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT discrepancy_pkey PRIMARY KEY ("orgId", id),
  CONSTRAINT discrepancy_of_run
    FOREIGN KEY ("orgId", "runId") REFERENCES payments."ReconciliationRun" ("orgId", id),
  CONSTRAINT discrepancy_kind_known
    CHECK (kind IN ('missing_here', 'missing_there', 'amount', 'currency', 'status')),
  CONSTRAINT discrepancy_object_known CHECK ("objectType" IN ('payment', 'payout')),
  CONSTRAINT discrepancy_resolved_with_note CHECK (("resolvedAt" IS NULL) = (note = ''))
);
ALTER TABLE payments."Discrepancy" OWNER TO payments_owner;
ALTER TABLE payments."Discrepancy" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY org_only ON payments."Discrepancy"
  USING ("orgId" = (SELECT NULLIF(current_setting('driveflow.org_id', true), '')::uuid));
CREATE INDEX idx_discrepancy_run ON payments."Discrepancy" ("orgId", "runId", id);
GRANT SELECT, INSERT, UPDATE (note, "resolvedBy", "resolvedAt"), DELETE
  ON payments."Discrepancy" TO payments;

-- migrate:down
