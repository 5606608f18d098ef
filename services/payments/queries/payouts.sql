-- part: payable
-- An instructor's share that is to be paid. What is about to be given back whole is not; of what
-- the cardholder contests nobody knows.
"shareStatus" = 'due' AND "payoutId" IS NULL
   AND status IN ('succeeded', 'partially_refunded') AND "refundedCents" < "capturedCents"

-- part: within
-- Asked for from a time on, latest first, behind a row.
"createdAt" >= %(from_at)s::timestamptz
   AND ("createdAt", id) < (%(before_at)s::timestamptz, %(before_id)s::uuid)
 ORDER BY "createdAt" DESC, id DESC
 LIMIT %(limit)s::int

-- name: lock_payments_due
-- What is due to an instructor of lessons completed within a time (idx_payment_share_due), locked
-- in one order. Whoever waited for a row finds it gone when it was paid out meanwhile.
SELECT {columns} FROM "Payment"
 WHERE "orgId" = %(org_id)s::uuid AND "instructorId" = %(instructor_id)s::uuid
   AND "lessonCompletedAt" >= %(from_at)s::timestamptz
   AND "lessonCompletedAt" < %(to_at)s::timestamptz AND {payable}
 ORDER BY id
 LIMIT %(limit)s::int
   FOR UPDATE;

-- name: lock_payments_named
-- Payments as they are, whatever they are, locked in one order.
SELECT {columns} FROM "Payment"
 WHERE "orgId" = %(org_id)s::uuid AND id = ANY (%(payment_ids)s::uuid[])
 ORDER BY id
   FOR UPDATE;

-- name: lock_payments_of_payout
-- Payments that a payout pays (idx_payment_payout), locked in one order.
SELECT {columns} FROM "Payment"
 WHERE "orgId" = %(org_id)s::uuid AND "payoutId" = %(payout_id)s::uuid
 ORDER BY id
   FOR UPDATE;

-- name: list_instructors_due
-- To whom something is due of lessons completed within a time (idx_payment_share_due).
SELECT "instructorId" FROM "Payment"
 WHERE "orgId" = %(org_id)s::uuid
   AND "lessonCompletedAt" >= %(from_at)s::timestamptz
   AND "lessonCompletedAt" < %(to_at)s::timestamptz AND {payable}
 GROUP BY "instructorId"
 ORDER BY "instructorId"
 LIMIT %(limit)s::int;

-- name: sum_due
-- By currency: what is due to an instructor now (idx_payment_share_due).
SELECT currency::text, sum("instructorShareCents")::bigint FROM "Payment"
 WHERE "orgId" = %(org_id)s::uuid AND "instructorId" = %(instructor_id)s::uuid AND {payable}
 GROUP BY currency;

-- name: add_payout
-- A payout that Stripe knows nothing of yet.
INSERT INTO "Payout" ("orgId", "instructorId", "amountCents", currency, "stripeAccountId",
                      "nextAttemptAt", "createdAt", "updatedAt")
VALUES (%(org_id)s::uuid, %(instructor_id)s::uuid, %(amount_cents)s::bigint, %(currency)s::text,
        %(stripe_account_id)s::text, %(next_attempt_at)s::timestamptz, %(now)s::timestamptz,
        %(now)s::timestamptz)
RETURNING {columns};

-- name: add_payout_items
-- What a payout pays; refused for a payment that another one pays.
INSERT INTO "PayoutItem" ("orgId", "payoutId", "paymentId", "amountCents")
SELECT %(org_id)s::uuid, %(payout_id)s::uuid, item.id, item.cents
  FROM unnest(%(payment_ids)s::uuid[], %(cents)s::bigint[]) AS item (id, cents);

-- name: pay_payments_out
-- Payments are paid out by a payout. Their rows are locked.
UPDATE "Payment"
   SET "payoutId" = %(payout_id)s::uuid, version = version + 1, "updatedAt" = %(now)s::timestamptz
 WHERE "orgId" = %(org_id)s::uuid AND id = ANY (%(payment_ids)s::uuid[]);

-- name: release_payments
-- The payments of a payout can be paid out by another. Their rows are locked.
UPDATE "Payment"
   SET "payoutId" = NULL, version = version + 1, "updatedAt" = %(now)s::timestamptz
 WHERE "orgId" = %(org_id)s::uuid AND "payoutId" = %(payout_id)s::uuid;

-- name: release_payout_items
-- A payout pays nothing any more.
UPDATE "PayoutItem" SET released = true
 WHERE "orgId" = %(org_id)s::uuid AND "payoutId" = %(payout_id)s::uuid;

-- name: list_payout_items
-- What a payout pays, or paid before it failed or was taken back, in the order of the payments.
SELECT i."paymentId", p."bookingId", i."amountCents"
  FROM "PayoutItem" AS i
  JOIN "Payment" AS p ON p."orgId" = %(org_id)s::uuid AND p.id = i."paymentId"
 WHERE i."orgId" = %(org_id)s::uuid AND i."payoutId" = %(payout_id)s::uuid
 ORDER BY i."paymentId";

-- name: get_payout
-- What is asked for of a payout.
SELECT {columns} FROM "Payout"
 WHERE "orgId" = %(org_id)s::uuid AND id = %(payout_id)s::uuid;

-- name: find_payout
-- A payout as it is.
SELECT {columns} FROM "Payout"
 WHERE "orgId" = %(org_id)s::uuid AND id = %(payout_id)s::uuid;

-- name: lock_payout
-- A payout as it is now, locked until the transaction ends.
SELECT {columns} FROM "Payout"
 WHERE "orgId" = %(org_id)s::uuid AND id = %(payout_id)s::uuid
   FOR UPDATE;

-- name: claim_payout
-- A payout for which Stripe is due to be called, for one caller until a time; no row when it is not
-- due, or when another was faster.
UPDATE "Payout" SET "nextAttemptAt" = %(call_by)s::timestamptz
 WHERE "orgId" = %(org_id)s::uuid AND id = %(payout_id)s::uuid
   AND "nextAttemptAt" <= %(now)s::timestamptz
RETURNING {columns};

-- name: save_payout
-- A payout after a change. Its row is locked; the version is checked all the same.
UPDATE "Payout"
   SET status = %(status)s::text, "stripeTransferId" = %(stripe_transfer_id)s::text,
       "transferredAt" = %(transferred_at)s::timestamptz, "failureCode" = %(failure_code)s::text,
       reversal = %(reversal)s::text, "reversalReason" = %(reversal_reason)s::text,
       "stripeReversalId" = %(stripe_reversal_id)s::text,
       "keyGeneration" = %(key_generation)s::int, attempts = %(attempts)s::int,
       "nextAttemptAt" = %(next_attempt_at)s::timestamptz,
       version = version + 1, "updatedAt" = %(now)s::timestamptz
 WHERE "orgId" = %(org_id)s::uuid AND id = %(payout_id)s::uuid AND version = %(version)s::int
RETURNING {columns};

-- name: lookup_payout
-- A payout by Stripe's name of its transfer (idx_payout_stripe_transfer).
SELECT {columns} FROM "Payout"
 WHERE "orgId" = %(org_id)s::uuid AND "stripeTransferId" = %(transfer_id)s::text;

-- name: list_payouts
-- A page of the school's payouts (idx_payout_org_created).
SELECT {columns} FROM "Payout"
 WHERE "orgId" = %(org_id)s::uuid AND {within};

-- name: list_payouts_of_instructor
-- A page of an instructor's payouts (idx_payout_instructor_created).
SELECT {columns} FROM "Payout"
 WHERE "orgId" = %(org_id)s::uuid AND "instructorId" = %(instructor_id)s::uuid AND {within};
