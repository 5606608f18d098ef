-- Schools with their payments, refunds, disputes, payouts, ledger and events, made within the
-- database. %(schools)s of them with %(instructors)s instructors each; %(each)s payments of each
-- school, one an hour up to %(now)s. Ids tell what and whose: see made_id.

-- What was made in order needs no check of its foreign keys.
SET session_replication_role = replica;

-- Kinds: 0a school, 0b instructor, 1a booking, 1b payment, 1c payout.
CREATE FUNCTION pg_temp.made_id(kind text, school int, n int) RETURNS uuid
LANGUAGE sql IMMUTABLE AS $$
  SELECT (kind || '000000-0000-7000-8000-' || lpad(to_hex(school), 6, '0')
          || lpad(to_hex(n), 6, '0'))::uuid
$$;

-- Ten shares a payout; the last of the lessons are not paid out yet.
INSERT INTO payments."Payout" ("orgId", id, "instructorId", "amountCents", currency, status,
       "stripeAccountId", "stripeTransferId", "transferredAt", "nextAttemptAt", "createdAt")
SELECT pg_temp.made_id('0a', s, 0), pg_temp.made_id('1c', s, n),
       pg_temp.made_id('0b', s, n %% %(instructors)s::int), 68000, 'AUD',
       CASE WHEN n > 1 THEN 'paid' ELSE 'in_transit' END, 'acct_' || s,
       CASE WHEN n > 1 THEN 'tr_' || s || '_' || n END, CASE WHEN n > 1 THEN c.at END,
       CASE WHEN n = 1 THEN %(now)s::timestamptz - make_interval(secs => s) END, c.at
  FROM generate_series(1, %(each)s::int / 10) AS n
 CROSS JOIN generate_series(1, %(schools)s::int) AS s
 CROSS JOIN LATERAL (SELECT %(now)s::timestamptz - make_interval(hours => 10 * n) AS at) AS c
 ORDER BY n DESC, s;

-- Written in the order of time, so that a school's rows lie among those of all others. Most were
-- paid; the lessons of those of the last hundred hours are not given yet.
INSERT INTO payments."Payment" ("orgId", id, "bookingId", "instructorId", "amountCents", currency,
       "applicationFeeCents", "instructorShareCents", status, "stripePaymentIntentId",
       "capturedCents", "refundedCents", "capturedAt", "lessonCompletedAt", "shareStatus",
       "payoutId", "nextAttemptAt", "createdAt")
SELECT pg_temp.made_id('0a', s, 0), pg_temp.made_id('1b', s, %(each)s::int - n),
       pg_temp.made_id('1a', s, n), pg_temp.made_id('0b', s, n %% %(instructors)s::int), 8000,
       'AUD', 1200, 6800, status, CASE WHEN status <> 'unknown' THEN 'pi_' || s || '_' || n END,
       CASE WHEN paid THEN 8000 ELSE 0 END,
       CASE status WHEN 'refunded' THEN 8000 WHEN 'partially_refunded' THEN 3000 ELSE 0 END,
       CASE WHEN paid THEN c.at END,
       CASE WHEN paid AND n > 100 THEN c.at + make_interval(hours => 72) END,
       CASE WHEN n > 100 AND status IN ('succeeded', 'partially_refunded') THEN 'due'
            ELSE 'none' END,
       CASE WHEN n > 200 AND status IN ('succeeded', 'partially_refunded')
            THEN pg_temp.made_id('1c', s, 1 + n / 10) END,
       CASE WHEN status = 'unknown' THEN %(now)s::timestamptz - make_interval(secs => n) END, c.at
  FROM generate_series(1, %(each)s::int) AS n
 CROSS JOIN generate_series(1, %(schools)s::int) AS s
 CROSS JOIN LATERAL (
       SELECT %(now)s::timestamptz - make_interval(hours => n) AS at,
              (n * 7 + s * 3) %% 100 AS chance) AS c
 CROSS JOIN LATERAL (
       SELECT CASE WHEN n %% 500 = 1 THEN 'unknown' WHEN chance < 80 THEN 'succeeded'
                   WHEN chance < 84 THEN 'partially_refunded' WHEN chance < 88 THEN 'refunded'
                   WHEN chance < 94 THEN 'cancelled' WHEN chance < 97 THEN 'failed'
                   WHEN chance < 99 THEN 'intent_created' ELSE 'disputed' END AS status) AS b
 CROSS JOIN LATERAL (
       SELECT status IN ('succeeded', 'partially_refunded', 'refunded', 'disputed') AS paid) AS p
 ORDER BY n DESC, s;

INSERT INTO payments."Refund" ("orgId", "paymentId", "amountCents", "feeCents", currency, status,
       cause, "stripeRefundId", "createdAt")
SELECT "orgId", id, "refundedCents", "refundedCents" * 15 / 100, currency, 'succeeded',
       'requested', 're' || "stripePaymentIntentId", "createdAt"
  FROM payments."Payment" WHERE "refundedCents" > 0 ORDER BY id;

INSERT INTO payments."Dispute" ("orgId", "paymentId", "amountCents", currency, status,
       "stripeDisputeId", "stripeStateAt")
SELECT "orgId", id, "amountCents", currency, 'needs_response', 'du' || "stripePaymentIntentId",
       "createdAt"
  FROM payments."Payment" WHERE status = 'disputed' ORDER BY id;

-- Of the last two fifths of the payments.
INSERT INTO payments."LedgerEntry" ("orgId", "transactionId", account, "amountCents", currency,
       kind, "sourceId", "createdAt")
SELECT "orgId", id, side.account, side.cents, currency, side.kind, id, "capturedAt"
  FROM payments."Payment"
 CROSS JOIN LATERAL (VALUES
       ('stripe', 8000, 'charge'), ('platform', -1200, 'charge'), ('school', -6800, 'charge'),
       ('school', 6800, 'share_due'), ('instructor:' || "instructorId", -6800, 'share_due'))
       AS side (account, cents, kind)
 WHERE "shareStatus" = 'due'
   AND "createdAt" > %(now)s::timestamptz - make_interval(hours => %(each)s::int * 2 / 5)
 ORDER BY id;

-- One for each payment; every thousandth failed.
INSERT INTO payments."WebhookEvent" ("eventId", provider, livemode, type, payload, "orgId", state,
       "nextAttemptAt", "receivedAt", "processedAt")
SELECT 'evt_' || "stripePaymentIntentId", 'stripe', false, 'payment_intent.succeeded', '{}',
       "orgId", CASE WHEN b.failed THEN 'failed' ELSE 'processed' END,
       CASE WHEN b.failed THEN "createdAt" END, "createdAt",
       CASE WHEN NOT b.failed THEN "createdAt" END
  FROM payments."Payment"
 CROSS JOIN LATERAL (SELECT hashtext(id::text) %% 1000 = 0 AS failed) AS b
 WHERE "stripePaymentIntentId" IS NOT NULL
 ORDER BY "createdAt", "orgId";

RESET session_replication_role;
