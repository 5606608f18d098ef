-- name: add_run
-- A run that is to be carried out.
INSERT INTO "ReconciliationRun" ("orgId", "fromAt", "toAt", "dryRun", "createdAt")
VALUES (%(org_id)s::uuid, %(from_at)s::timestamptz, %(to_at)s::timestamptz,
        %(dry_run)s::boolean, %(now)s::timestamptz)
RETURNING {columns};

-- name: get_run
-- What is asked for of a run.
SELECT {columns} FROM "ReconciliationRun"
 WHERE "orgId" = %(org_id)s::uuid AND id = %(run_id)s::uuid;

-- name: find_running_run
-- The first run of the school that has not ended (idx_reconciliation_run_running).
SELECT {columns} FROM "ReconciliationRun"
 WHERE "orgId" = %(org_id)s::uuid AND status = 'running'
 ORDER BY id
 LIMIT 1;

-- name: begin_run
-- One more attempt at a run, from its start. No row when another process was faster, or is heard of.
UPDATE "ReconciliationRun"
   SET attempts = attempts + 1, compared = 0, matched = 0, discrepancies = 0,
       "claimedUntil" = now() + %(claim)s::interval
 WHERE "orgId" = %(org_id)s::uuid AND id = %(run_id)s::uuid
   AND status = 'running' AND attempts = %(attempts)s::int
   AND ("claimedUntil" IS NULL OR "claimedUntil" <= now())
RETURNING {columns};

-- name: advance_run
-- What a page more has shown; the claim goes on. No row when another process has taken the run up.
UPDATE "ReconciliationRun"
   SET compared = compared + %(compared)s::bigint, matched = matched + %(matched)s::bigint,
       discrepancies = discrepancies + %(discrepancies)s::bigint,
       "claimedUntil" = now() + %(claim)s::interval
 WHERE "orgId" = %(org_id)s::uuid AND id = %(run_id)s::uuid
   AND status = 'running' AND attempts = %(attempts)s::int
RETURNING id;

-- name: end_run
-- A run is done, or given up. No row when another process has taken it up.
UPDATE "ReconciliationRun"
   SET status = %(status)s::text, failure = %(failure)s::text, "endedAt" = %(now)s::timestamptz
 WHERE "orgId" = %(org_id)s::uuid AND id = %(run_id)s::uuid
   AND status = 'running' AND attempts = %(attempts)s::int
RETURNING {columns};

-- name: delete_discrepancies
-- What an attempt that was cut off had found.
DELETE FROM "Discrepancy"
 WHERE "orgId" = %(org_id)s::uuid AND "runId" = %(run_id)s::uuid;

-- name: add_discrepancies
-- What a page has shown to be different.
INSERT INTO "Discrepancy"
       ("orgId", "runId", kind, "objectType", "objectId", "stripeId", here, there, "createdAt")
SELECT %(org_id)s::uuid, %(run_id)s::uuid, found.kind, found.object_type, found.object_id,
       found.stripe_id, found.here, found.there, %(now)s::timestamptz
  FROM unnest(%(kinds)s::text[], %(object_types)s::text[], %(object_ids)s::uuid[],
              %(stripe_ids)s::text[], %(heres)s::text[], %(theres)s::text[])
       AS found (kind, object_type, object_id, stripe_id, here, there);

-- part: filters
-- Of a kind or of any; all, or those that nobody has dealt with.
(%(kind)s::text IS NULL OR kind = %(kind)s::text)
   AND (NOT %(unresolved_only)s::boolean OR "resolvedAt" IS NULL)
   AND id < %(before_id)s::uuid
 ORDER BY id DESC
 LIMIT %(limit)s::int

-- name: list_discrepancies
-- Discrepancies of all runs, latest found first, behind a row.
SELECT {columns} FROM "Discrepancy"
 WHERE "orgId" = %(org_id)s::uuid AND {filters};

-- name: list_discrepancies_of_run
-- Those of one run, latest found first, behind a row.
SELECT {columns} FROM "Discrepancy"
 WHERE "orgId" = %(org_id)s::uuid AND "runId" = %(run_id)s::uuid AND {filters};

-- name: lock_discrepancy
-- A discrepancy as it is now, locked until the transaction ends.
SELECT {columns} FROM "Discrepancy"
 WHERE "orgId" = %(org_id)s::uuid AND id = %(discrepancy_id)s::uuid
   FOR UPDATE;

-- name: resolve_discrepancy
-- How a discrepancy was dealt with.
UPDATE "Discrepancy"
   SET note = %(note)s::text, "resolvedBy" = %(resolved_by)s::text,
       "resolvedAt" = %(now)s::timestamptz
 WHERE "orgId" = %(org_id)s::uuid AND id = %(discrepancy_id)s::uuid
RETURNING {columns};

-- part: payment
-- A payment as Stripe should know it: what went back of it, or is about to, and if it is contested.
SELECT p.id, p."stripePaymentIntentId", p.status, p."capturedCents", p.currency::text,
       p."capturedAt", back.succeeded, back.pending,
       EXISTS (SELECT FROM "Dispute" AS d
                WHERE d."orgId" = %(org_id)s::uuid AND d."paymentId" = p.id)
  FROM "Payment" AS p
 CROSS JOIN LATERAL (
   SELECT coalesce(sum(r."amountCents") FILTER (WHERE r.status = 'succeeded'), 0)::bigint,
          coalesce(sum(r."amountCents") FILTER (WHERE r.status = 'pending'), 0)::bigint
     FROM "Refund" AS r
    WHERE r."orgId" = %(org_id)s::uuid AND r."paymentId" = p.id
 ) AS back (succeeded, pending)

-- name: list_payments_by_intent
-- Payments by Stripe's names of them (idx_payment_stripe_intent).
{payment}
 WHERE p."orgId" = %(org_id)s::uuid AND p."stripePaymentIntentId" = ANY (%(intent_ids)s::text[]);

-- name: list_payments_captured
-- Payments that were paid within a time, earliest first, behind a row (idx_payment_captured).
{payment}
 WHERE p."orgId" = %(org_id)s::uuid
   AND p."capturedAt" >= %(from_at)s::timestamptz AND p."capturedAt" < %(to_at)s::timestamptz
   AND (p."capturedAt", p.id) > (%(after_at)s::timestamptz, %(after_id)s::uuid)
 ORDER BY p."capturedAt", p.id
 LIMIT %(limit)s::int;

-- part: payout
-- A payout as Stripe should know it.
SELECT id, "stripeTransferId", status, "amountCents", currency::text, "transferredAt", reversal
  FROM "Payout"

-- name: list_payouts_by_transfer
-- Payouts by Stripe's names of their transfers, or by ours, which the transfers carry.
{payout}
 WHERE "orgId" = %(org_id)s::uuid
   AND ("stripeTransferId" = ANY (%(transfer_ids)s::text[]) OR id = ANY (%(payout_ids)s::uuid[]));

-- name: list_payouts_transferred
-- Payouts that were transferred within a time, earliest first, behind a row (idx_payout_transferred).
{payout}
 WHERE "orgId" = %(org_id)s::uuid
   AND "transferredAt" >= %(from_at)s::timestamptz AND "transferredAt" < %(to_at)s::timestamptz
   AND ("transferredAt", id) > (%(after_at)s::timestamptz, %(after_id)s::uuid)
 ORDER BY "transferredAt", id
 LIMIT %(limit)s::int;
