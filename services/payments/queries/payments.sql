-- name: is_org_active
-- Whether the school may begin something new; no row for one that was never heard of.
-- platform: the list of schools is not a school's.
SELECT active FROM "Tenant" WHERE "orgId" = %(org_id)s::uuid;

-- name: add_payment
-- A payment that Stripe knows nothing of yet. No row when the booking is asked for already.
INSERT INTO "Payment"
       ("orgId", "bookingId", "studentId", "instructorId", "amountCents", currency,
        "applicationFeeCents", "instructorShareCents", "nextAttemptAt", "createdAt", "updatedAt")
VALUES (%(org_id)s::uuid, %(booking_id)s::uuid, %(student_id)s::uuid, %(instructor_id)s::uuid,
        %(amount_cents)s::bigint, %(currency)s::text, %(application_fee_cents)s::bigint,
        %(instructor_share_cents)s::bigint, %(next_attempt_at)s::timestamptz,
        %(now)s::timestamptz, %(now)s::timestamptz)
ON CONFLICT ("orgId", "bookingId")
      WHERE status IN ('unknown', 'intent_created', 'processing', 'failed') DO NOTHING
RETURNING {columns};

-- name: get_payment
-- What is asked for of a payment.
SELECT {columns} FROM "Payment"
 WHERE "orgId" = %(org_id)s::uuid AND id = %(payment_id)s::uuid;

-- name: get_payment_of_intent
-- What is asked for of a payment, by Stripe's name of it.
SELECT {columns} FROM "Payment"
 WHERE "orgId" = %(org_id)s::uuid AND "stripePaymentIntentId" = %(intent_id)s::text;

-- name: find_payment
-- A payment as it is.
SELECT {columns} FROM "Payment"
 WHERE "orgId" = %(org_id)s::uuid AND id = %(payment_id)s::uuid;

-- name: lock_payment
-- A payment as it is now, locked until the transaction ends.
SELECT {columns} FROM "Payment"
 WHERE "orgId" = %(org_id)s::uuid AND id = %(payment_id)s::uuid
   FOR UPDATE;

-- name: lock_payments_of_booking
-- All payments of a booking, locked in one order.
SELECT {columns} FROM "Payment"
 WHERE "orgId" = %(org_id)s::uuid AND "bookingId" = %(booking_id)s::uuid
 ORDER BY id
   FOR UPDATE;

-- name: find_live_payment
-- The payment that stands in the way of this one for the booking.
SELECT {columns} FROM "Payment"
 WHERE "orgId" = %(org_id)s::uuid AND "bookingId" = %(booking_id)s::uuid
   AND status NOT IN ('cancelled', 'refunded') AND id <> %(payment_id)s::uuid
 ORDER BY id
 LIMIT 1;

-- name: lookup_payment
-- A payment by Stripe's name of it.
SELECT {columns} FROM "Payment"
 WHERE "orgId" = %(org_id)s::uuid AND "stripePaymentIntentId" = %(intent_id)s::text;

-- name: save_payment
-- A payment after a change. Its row is locked; the version is checked all the same.
UPDATE "Payment"
   SET "instructorId" = %(instructor_id)s::uuid, status = %(status)s::text,
       "stripePaymentIntentId" = %(stripe_payment_intent_id)s::text,
       "capturedCents" = %(captured_cents)s::bigint, "refundedCents" = %(refunded_cents)s::bigint,
       "capturedAt" = %(captured_at)s::timestamptz, "failureCode" = %(failure_code)s::text,
       "stripeStateAt" = %(stripe_state_at)s::timestamptz,
       "cancelRequestedAt" = %(cancel_requested_at)s::timestamptz,
       "lessonCompletedAt" = %(lesson_completed_at)s::timestamptz,
       "instructorShareCents" = %(instructor_share_cents)s::bigint,
       "shareStatus" = %(share_status)s::text, "shareSourceId" = %(share_source_id)s::uuid,
       "payoutId" = %(payout_id)s::uuid,
       "keyGeneration" = %(key_generation)s::int, attempts = %(attempts)s::int,
       "nextAttemptAt" = %(next_attempt_at)s::timestamptz,
       version = version + 1, "updatedAt" = %(now)s::timestamptz
 WHERE "orgId" = %(org_id)s::uuid AND id = %(payment_id)s::uuid AND version = %(version)s::int
RETURNING {columns};

-- name: list_payments
-- Payments asked for within a time, latest first, behind a row; with a status, or with any
-- (idx_payment_org_created_status).
SELECT {columns} FROM "Payment"
 WHERE "orgId" = %(org_id)s::uuid
   AND (%(status)s::text IS NULL OR status = %(status)s::text)
   AND "createdAt" >= %(from_at)s::timestamptz AND "createdAt" < %(to_at)s::timestamptz
   AND ("createdAt", id) < (%(before_at)s::timestamptz, %(before_id)s::uuid)
 ORDER BY "createdAt" DESC, id DESC
 LIMIT %(limit)s::int;

-- name: list_payments_with_status
-- Those with a status, whenever they were asked for, latest first, behind a row
-- (idx_payment_org_status). A range of times would lead the server to another index, and a sort.
SELECT {columns} FROM "Payment"
 WHERE "orgId" = %(org_id)s::uuid AND status = %(status)s::text
   AND id < %(before_id)s::uuid
 ORDER BY id DESC
 LIMIT %(limit)s::int;

-- name: list_payments_of_booking
-- Those of a booking, latest first, behind a row; with a status, or with any.
SELECT {columns} FROM "Payment"
 WHERE "orgId" = %(org_id)s::uuid AND "bookingId" = %(booking_id)s::uuid
   AND (%(status)s::text IS NULL OR status = %(status)s::text)
   AND "createdAt" >= %(from_at)s::timestamptz AND "createdAt" < %(to_at)s::timestamptz
   AND id < %(before_id)s::uuid
 ORDER BY id DESC
 LIMIT %(limit)s::int;

-- name: list_due
-- What is open at Stripe and due to be asked about: payments, refunds, payouts.
SELECT 'payment' AS kind, id FROM "Payment"
 WHERE "orgId" = %(org_id)s::uuid AND "nextAttemptAt" <= %(now)s::timestamptz
UNION ALL
SELECT 'refund', id FROM "Refund"
 WHERE "orgId" = %(org_id)s::uuid AND "nextAttemptAt" <= %(now)s::timestamptz
UNION ALL
SELECT 'payout', id FROM "Payout"
 WHERE "orgId" = %(org_id)s::uuid AND "nextAttemptAt" <= %(now)s::timestamptz
 LIMIT %(limit)s::int;
