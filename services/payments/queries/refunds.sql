-- name: add_refund
-- A refund that is asked for; one made past us is known by Stripe's name already.
INSERT INTO "Refund"
       ("orgId", "paymentId", "amountCents", currency, cause, reason, "stripeRefundId",
        "nextAttemptAt", "createdAt", "updatedAt")
VALUES (%(org_id)s::uuid, %(payment_id)s::uuid, %(amount_cents)s::bigint, %(currency)s::text,
        %(cause)s::text, %(reason)s::text, %(stripe_refund_id)s::text,
        %(next_attempt_at)s::timestamptz, %(now)s::timestamptz, %(now)s::timestamptz)
RETURNING {columns};

-- name: find_refund
-- A refund as it is.
SELECT {columns} FROM "Refund"
 WHERE "orgId" = %(org_id)s::uuid AND id = %(refund_id)s::uuid;

-- name: lock_refund
-- A refund as it is now, locked until the transaction ends. Its payment is locked before.
SELECT {columns} FROM "Refund"
 WHERE "orgId" = %(org_id)s::uuid AND id = %(refund_id)s::uuid
   FOR UPDATE;

-- name: lookup_refund
-- A refund by Stripe's name of it, locked.
SELECT {columns} FROM "Refund"
 WHERE "orgId" = %(org_id)s::uuid AND "stripeRefundId" = %(stripe_refund_id)s::text
   FOR UPDATE;

-- name: save_refund
-- A refund after a change.
UPDATE "Refund"
   SET status = %(status)s::text, "feeCents" = %(fee_cents)s::bigint,
       "stripeRefundId" = %(stripe_refund_id)s::text, "failureCode" = %(failure_code)s::text,
       "keyGeneration" = %(key_generation)s::int, attempts = %(attempts)s::int,
       "nextAttemptAt" = %(next_attempt_at)s::timestamptz, "updatedAt" = %(now)s::timestamptz
 WHERE "orgId" = %(org_id)s::uuid AND id = %(refund_id)s::uuid
RETURNING {columns};

-- name: erase_reasons
-- What was written beside a student's refunds is forgotten.
UPDATE "Refund" AS r SET reason = ''
  FROM "Payment" AS p
 WHERE r."orgId" = %(org_id)s::uuid AND p."orgId" = %(org_id)s::uuid
   AND p."studentId" = %(student_id)s::uuid AND r."paymentId" = p.id AND r.reason <> '';

-- name: sum_refunds
-- What was given back of a payment so far.
SELECT coalesce(sum("amountCents"), 0)::bigint
  FROM "Refund"
 WHERE "orgId" = %(org_id)s::uuid AND "paymentId" = %(payment_id)s::uuid
   AND status = 'succeeded';

-- name: sum_policy_refunds
-- What a cancelled booking's policy gave back of a payment, or is about to.
SELECT coalesce(sum("amountCents"), 0)::bigint
  FROM "Refund"
 WHERE "orgId" = %(org_id)s::uuid AND "paymentId" = %(payment_id)s::uuid
   AND cause = 'booking_cancelled' AND status <> 'failed';

-- name: list_refunds
-- Refunds, latest first, behind a row.
SELECT {columns} FROM "Refund"
 WHERE "orgId" = %(org_id)s::uuid AND id < %(before_id)s::uuid
 ORDER BY id DESC
 LIMIT %(limit)s::int;

-- name: list_refunds_of_payment
-- Those of a payment, latest first, behind a row.
SELECT {columns} FROM "Refund"
 WHERE "orgId" = %(org_id)s::uuid AND "paymentId" = %(payment_id)s::uuid
   AND id < %(before_id)s::uuid
 ORDER BY id DESC
 LIMIT %(limit)s::int;

-- name: add_dispute
-- A dispute that Stripe tells of for the first time. No row when it was known.
INSERT INTO "Dispute"
       ("orgId", "paymentId", "amountCents", currency, status, reason, "stripeDisputeId",
        "stripeStateAt", "closedAt", "createdAt", "updatedAt")
VALUES (%(org_id)s::uuid, %(payment_id)s::uuid, %(amount_cents)s::bigint, %(currency)s::text,
        %(status)s::text, %(reason)s::text, %(stripe_dispute_id)s::text, %(at)s::timestamptz,
        %(closed_at)s::timestamptz, %(now)s::timestamptz, %(now)s::timestamptz)
ON CONFLICT ("stripeDisputeId", "orgId") DO NOTHING
RETURNING {columns};

-- name: lock_dispute
-- A dispute by Stripe's name of it, locked.
SELECT {columns} FROM "Dispute"
 WHERE "orgId" = %(org_id)s::uuid AND "stripeDisputeId" = %(stripe_dispute_id)s::text
   FOR UPDATE;

-- name: save_dispute
-- A dispute after a change.
UPDATE "Dispute"
   SET status = %(status)s::text, "stripeStateAt" = %(stripe_state_at)s::timestamptz,
       "closedAt" = %(closed_at)s::timestamptz, "updatedAt" = %(now)s::timestamptz
 WHERE "orgId" = %(org_id)s::uuid AND id = %(dispute_id)s::uuid
RETURNING {columns};

-- name: is_held_back
-- Whether a dispute of the payment is open, or was lost; inquiries hold nothing back.
SELECT EXISTS (
  SELECT FROM "Dispute"
   WHERE "orgId" = %(org_id)s::uuid AND "paymentId" = %(payment_id)s::uuid
     AND status NOT IN ('won', 'prevented') AND NOT starts_with(status, 'warning_'));

-- name: list_disputes
-- Disputes, latest first, behind a row.
SELECT {columns} FROM "Dispute"
 WHERE "orgId" = %(org_id)s::uuid AND id < %(before_id)s::uuid
 ORDER BY id DESC
 LIMIT %(limit)s::int;

-- name: list_disputes_of_payment
-- Those of a payment, latest first, behind a row.
SELECT {columns} FROM "Dispute"
 WHERE "orgId" = %(org_id)s::uuid AND "paymentId" = %(payment_id)s::uuid
   AND id < %(before_id)s::uuid
 ORDER BY id DESC
 LIMIT %(limit)s::int;
