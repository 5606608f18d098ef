-- migrate:up
-- Payments, what was given back of them, and what cardholders contest.

CREATE TABLE payments."Payment" (
  "orgId"                 uuid        NOT NULL,
  id                      uuid        NOT NULL DEFAULT uuidv7(),
  "bookingId"             uuid        NOT NULL,
  "studentId"             uuid,
  "instructorId"          uuid        NOT NULL,
  "amountCents"           bigint      NOT NULL,
  currency                char(3)     NOT NULL,
  "applicationFeeCents"   bigint      NOT NULL,
  "instructorShareCents"  bigint      NOT NULL,
  status                  text        NOT NULL DEFAULT 'unknown',
  "stripePaymentIntentId" text,
  "capturedCents"         bigint      NOT NULL DEFAULT 0,
  "refundedCents"         bigint      NOT NULL DEFAULT 0,
  "capturedAt"            timestamptz,
  "failureCode"           text        NOT NULL DEFAULT '',
  "stripeStateAt"         timestamptz,
  "cancelRequestedAt"     timestamptz,
  "lessonCompletedAt"     timestamptz,
  "shareStatus"           text        NOT NULL DEFAULT 'none',
  "payoutId"              uuid,
  "keyGeneration"         integer     NOT NULL DEFAULT 0,
  attempts                integer     NOT NULL DEFAULT 0,
  "nextAttemptAt"         timestamptz,
  version                 integer     NOT NULL DEFAULT 1,
  "createdAt"             timestamptz NOT NULL DEFAULT now(),
  "updatedAt"             timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT payment_pkey PRIMARY KEY ("orgId", id),
  CONSTRAINT payment_amount_positive CHECK ("amountCents" > 0),
  CONSTRAINT payment_currency_is_iso CHECK (currency ~ '^[A-Z]{3}$'),
  CONSTRAINT payment_shares_within_amount CHECK (
    "applicationFeeCents" >= 0 AND "instructorShareCents" >= 0
    AND "applicationFeeCents" + "instructorShareCents" <= "amountCents"),
  CONSTRAINT payment_status_known CHECK (status IN (
    'unknown', 'intent_created', 'processing', 'succeeded', 'failed', 'cancelled',
    'partially_refunded', 'refunded', 'disputed')),
  CONSTRAINT payment_refunds_within_capture
    CHECK (0 <= "refundedCents" AND "refundedCents" <= "capturedCents"),
  CONSTRAINT payment_capture_has_time CHECK (("capturedCents" > 0) = ("capturedAt" IS NOT NULL)),
  CONSTRAINT payment_share_status_known CHECK ("shareStatus" IN ('none', 'due', 'void')),
  CONSTRAINT payment_paid_out_share_is_due CHECK ("payoutId" IS NULL OR "shareStatus" = 'due')
) WITH (
  fillfactor = 85,
  autovacuum_vacuum_scale_factor = 0.05,
  autovacuum_analyze_scale_factor = 0.05
);
ALTER TABLE payments."Payment" OWNER TO payments_owner;
ALTER TABLE payments."Payment" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY org_only ON payments."Payment"
  USING ("orgId" = (SELECT NULLIF(current_setting('driveflow.org_id', true), '')::uuid));
CREATE INDEX idx_payment_org_status ON payments."Payment" ("orgId", status, id);
CREATE INDEX idx_payment_org_created_status ON payments."Payment" ("orgId", "createdAt", status);
CREATE UNIQUE INDEX idx_payment_stripe_intent
  ON payments."Payment" ("stripePaymentIntentId", "orgId");
CREATE INDEX idx_payment_booking ON payments."Payment" ("orgId", "bookingId", id);
CREATE INDEX idx_payment_captured ON payments."Payment" ("orgId", "capturedAt")
  WHERE "capturedAt" IS NOT NULL;
-- A booking is asked for once at a time. Not those that were paid: one of which all was given back
-- may be paid again after all, when its refund fails while another is asked for.
CREATE UNIQUE INDEX payment_one_per_booking ON payments."Payment" ("orgId", "bookingId")
  WHERE status IN ('unknown', 'intent_created', 'processing', 'failed');
CREATE INDEX idx_payment_due ON payments."Payment" ("orgId", "nextAttemptAt")
  WHERE "nextAttemptAt" IS NOT NULL;
CREATE INDEX idx_payment_share_due
  ON payments."Payment" ("orgId", "instructorId", "lessonCompletedAt")
  WHERE "shareStatus" = 'due' AND "payoutId" IS NULL;
CREATE INDEX idx_payment_payout ON payments."Payment" ("orgId", "payoutId");
COMMENT ON TABLE payments."Payment" IS 'The price of a booking, asked for and maybe paid.';
COMMENT ON COLUMN payments."Payment"."refundedCents" IS 'Refunds that have not failed, pending ones too.';
COMMENT ON COLUMN payments."Payment"."stripeStateAt" IS
  'When Stripe made the event that processing or failed was learnt from; older ones change nothing.';
COMMENT ON COLUMN payments."Payment"."shareStatus" IS
  'Of the instructor''s share: none, due (in the ledger), void (taken back by a full refund).';
COMMENT ON COLUMN payments."Payment"."keyGeneration" IS
  'Part of the idempotency key at Stripe; raised only when Stripe has kept a failure under the old one.';
COMMENT ON COLUMN payments."Payment"."nextAttemptAt" IS
  'When Stripe is to be asked again; null when nothing is open there.';
GRANT SELECT, INSERT, UPDATE ON payments."Payment" TO payments;


CREATE TABLE payments."Refund" (
  "orgId"          uuid        NOT NULL,
  id               uuid        NOT NULL DEFAULT uuidv7(),
  "paymentId"      uuid        NOT NULL,
  "amountCents"    bigint      NOT NULL,
  "feeCents"       bigint      NOT NULL DEFAULT 0,
  currency         char(3)     NOT NULL,
  status           text        NOT NULL DEFAULT 'pending',
  cause            text        NOT NULL,
  reason           text        NOT NULL DEFAULT '',
  "stripeRefundId" text,
  "failureCode"    text        NOT NULL DEFAULT '',
  "keyGeneration"  integer     NOT NULL DEFAULT 0,
  attempts         integer     NOT NULL DEFAULT 0,
  "nextAttemptAt"  timestamptz,
  "createdAt"      timestamptz NOT NULL DEFAULT now(),
  "updatedAt"      timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT refund_pkey PRIMARY KEY ("orgId", id),
  CONSTRAINT refund_of_payment
    FOREIGN KEY ("orgId", "paymentId") REFERENCES payments."Payment" ("orgId", id),
  CONSTRAINT refund_amount_positive CHECK ("amountCents" > 0),
  CONSTRAINT refund_fee_within_amount CHECK ("feeCents" BETWEEN 0 AND "amountCents"),
  CONSTRAINT refund_status_known CHECK (status IN ('pending', 'succeeded', 'failed')),
  CONSTRAINT refund_cause_known
    CHECK (cause IN ('requested', 'booking_cancelled', 'booking_unfulfillable', 'stripe'))
);
ALTER TABLE payments."Refund" OWNER TO payments_owner;
ALTER TABLE payments."Refund" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY org_only ON payments."Refund"
  USING ("orgId" = (SELECT NULLIF(current_setting('driveflow.org_id', true), '')::uuid));
CREATE INDEX idx_refund_payment ON payments."Refund" ("orgId", "paymentId", id);
CREATE UNIQUE INDEX idx_refund_stripe ON payments."Refund" ("stripeRefundId", "orgId");
CREATE INDEX idx_refund_due ON payments."Refund" ("orgId", "nextAttemptAt")
  WHERE "nextAttemptAt" IS NOT NULL;
COMMENT ON COLUMN payments."Refund"."feeCents" IS
  'What the platform gives back of its share; set when the refund succeeds.';
GRANT SELECT, INSERT, UPDATE ON payments."Refund" TO payments;


CREATE TABLE payments."Dispute" (
  "orgId"           uuid        NOT NULL,
  id                uuid        NOT NULL DEFAULT uuidv7(),
  "paymentId"       uuid        NOT NULL,
  "amountCents"     bigint      NOT NULL,
  currency          char(3)     NOT NULL,
  status            text        NOT NULL,
  reason            text        NOT NULL DEFAULT '',
  "stripeDisputeId" text        NOT NULL,
  "stripeStateAt"   timestamptz NOT NULL,
  "closedAt"        timestamptz,
  "createdAt"       timestamptz NOT NULL DEFAULT now(),
  "updatedAt"       timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT dispute_pkey PRIMARY KEY ("orgId", id),
  CONSTRAINT dispute_of_payment
    FOREIGN KEY ("orgId", "paymentId") REFERENCES payments."Payment" ("orgId", id),
  CONSTRAINT dispute_amount_positive CHECK ("amountCents" > 0)
);
ALTER TABLE payments."Dispute" OWNER TO payments_owner;
ALTER TABLE payments."Dispute" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY org_only ON payments."Dispute"
  USING ("orgId" = (SELECT NULLIF(current_setting('driveflow.org_id', true), '')::uuid));
CREATE INDEX idx_dispute_payment ON payments."Dispute" ("orgId", "paymentId", id);
CREATE UNIQUE INDEX idx_dispute_stripe ON payments."Dispute" ("stripeDisputeId", "orgId");
COMMENT ON COLUMN payments."Dispute".status IS 'Stripe''s word.';
GRANT SELECT, INSERT, UPDATE ON payments."Dispute" TO payments;

-- migrate:down
