-- part: paid
-- Payments asked for within the time and paid, of one currency (idx_payment_org_created_status).
p."orgId" = %(org_id)s::uuid
       AND p."createdAt" >= %(from_at)s::timestamptz AND p."createdAt" < %(to_at)s::timestamptz
       AND p.status IN ('succeeded', 'partially_refunded', 'refunded', 'disputed')
       AND p.currency = %(currency)s::text

-- name: revenue
-- What came in and went back, by buckets of the school's wall clock; empty ones are there as well.
-- A bucket is named by what that clock reads when it begins: added up in wall-clock time, days are
-- 23 or 25 hours long where they are. Refunds are added up by themselves: a join would count a
-- payment once for each.
WITH bucket AS (
  SELECT generate_series(
           date_trunc(%(bucket)s::text, %(from_at)s::timestamptz AT TIME ZONE %(zone)s::text),
           %(last_at)s::timestamptz AT TIME ZONE %(zone)s::text,
           make_interval(months => %(months)s::int, days => %(days)s::int)) AS starts
), paid AS (
  SELECT date_trunc(%(bucket)s::text, p."createdAt" AT TIME ZONE %(zone)s::text) AS starts,
         count(*) AS payments, sum(p."capturedCents") AS captured,
         sum(p."applicationFeeCents") AS fee
    FROM "Payment" AS p
   WHERE {paid}
   GROUP BY 1
), given_back AS (
  SELECT date_trunc(%(bucket)s::text, p."createdAt" AT TIME ZONE %(zone)s::text) AS starts,
         sum(r."amountCents") AS refunded, sum(r."feeCents") AS fee
    FROM "Payment" AS p
    JOIN "Refund" AS r ON r."orgId" = %(org_id)s::uuid AND r."paymentId" = p.id
                      AND r.status = 'succeeded'
   WHERE {paid}
   GROUP BY 1
)
SELECT bucket.starts::date, coalesce(paid.payments, 0)::bigint,
       coalesce(paid.captured, 0)::bigint, coalesce(given_back.refunded, 0)::bigint,
       (coalesce(paid.fee, 0) - coalesce(given_back.fee, 0))::bigint
  FROM bucket
  LEFT JOIN paid ON paid.starts = bucket.starts
  LEFT JOIN given_back ON given_back.starts = bucket.starts
 ORDER BY bucket.starts;
