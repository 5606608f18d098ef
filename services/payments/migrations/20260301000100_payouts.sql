-- migrate:up
-- What instructors are paid, and the ledger of every movement.

CREATE TABLE payments."Payout" (
  "orgId"            uuid        NOT NULL,
  id                 uuid        NOT NULL DEFAULT uuidv7(),
  "instructorId"     uuid        NOT NULL,
  "amountCents"      bigint      NOT NULL,
  currency           char(3)     NOT NULL,
  status             text        NOT NULL DEFAULT 'pending',
  "stripeAccountId"  text        NOT NULL,
  "stripeTransferId" text,
  "transferredAt"    timestamptz,
  "failureCode"      text        NOT NULL DEFAULT '',
  reversal           text        NOT NULL DEFAULT 'none',
  "reversalReason"   text        NOT NULL DEFAULT '',
  "stripeReversalId" text,
  "keyGeneration"    integer     NOT NULL DEFAULT 0,
  attempts           integer     NOT NULL DEFAULT 0,
  "nextAttemptAt"    timestamptz,
  version            integer     NOT NULL DEFAULT 1,
  "createdAt"        timestamptz NOT NULL DEFAULT now(),
  "updatedAt"        timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT payout_pkey PRIMARY KEY ("orgId", id),
  CONSTRAINT payout_amount_positive CHECK ("amountCents" > 0),
  CONSTRAINT payout_currency_is_iso CHECK (currency ~ '^[A-Z]{3}$'),
  CONSTRAINT payout_status_known
    CHECK (status IN ('pending', 'in_transit', 'paid', 'failed', 'reversed')),
  CONSTRAINT payout_paid_has_transfer CHECK (
    (status IN ('paid', 'reversed')) = ("stripeTransferId" IS NOT NULL)
    AND ("stripeTransferId" IS NULL) = ("transferredAt" IS NULL)),
  CONSTRAINT payout_reversal_known CHECK (reversal IN ('none', 'requested', 'done', 'failed')),
  CONSTRAINT payout_reversed_by_reversal CHECK ((status = 'reversed') = (reversal = 'done'))
);
ALTER TABLE payments."Payout" OWNER TO payments_owner;
ALTER TABLE payments."Payout" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY org_only ON payments."Payout"
  USING ("orgId" = (SELECT NULLIF(current_setting('driveflow.org_id', true), '')::uuid));
CREATE INDEX idx_payout_instructor_created
  ON payments."Payout" ("instructorId", "createdAt", "orgId");
CREATE INDEX idx_payout_org_created ON payments."Payout" ("orgId", "createdAt", id);
CREATE UNIQUE INDEX idx_payout_stripe_transfer
  ON payments."Payout" ("stripeTransferId", "orgId");
CREATE INDEX idx_payout_due ON payments."Payout" ("orgId", "nextAttemptAt")
  WHERE "nextAttemptAt" IS NOT NULL;
CREATE INDEX idx_payout_transferred ON payments."Payout" ("orgId", "transferredAt")
  WHERE "transferredAt" IS NOT NULL;
COMMENT ON COLUMN payments."Payout".reversal IS
  'The steps of taking it back: requested (stored before Stripe is called), done (at Stripe and in
the ledger), failed (Stripe refused).';
GRANT SELECT, INSERT, UPDATE ON payments."Payout" TO payments;

ALTER TABLE payments."Payment" ADD CONSTRAINT payment_paid_out_by
  FOREIGN KEY ("orgId", "payoutId") REFERENCES payments."Payout" ("orgId", id);


CREATE TABLE payments."PayoutItem" (
  "orgId"       uuid    NOT NULL,
  "payoutId"    uuid    NOT NULL,
  "paymentId"   uuid    NOT NULL,
  "amountCents" bigint  NOT NULL,
  released      boolean NOT NULL DEFAULT false,
  CONSTRAINT payout_item_pkey PRIMARY KEY ("orgId", "payoutId", "paymentId"),
  CONSTRAINT payout_item_of_payout
    FOREIGN KEY ("orgId", "payoutId") REFERENCES payments."Payout" ("orgId", id),
  CONSTRAINT payout_item_of_payment
    FOREIGN KEY ("orgId", "paymentId") REFERENCES payments."Payment" ("orgId", id),
  CONSTRAINT payout_item_amount_positive CHECK ("amountCents" > 0)
);
ALTER TABLE payments."PayoutItem" OWNER TO payments_owner;
ALTER TABLE payments."PayoutItem" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY org_only ON payments."PayoutItem"
  USING ("orgId" = (SELECT NULLIF(current_setting('driveflow.org_id', true), '')::uuid));
CREATE INDEX idx_payout_item_payment ON payments."PayoutItem" ("orgId", "paymentId");
CREATE UNIQUE INDEX payout_item_paid_once ON payments."PayoutItem" ("orgId", "paymentId")
  WHERE NOT released;
COMMENT ON COLUMN payments."PayoutItem".released IS
  'The payout failed or was reversed: the payment may be paid out by another.';
GRANT SELECT, INSERT, UPDATE (released) ON payments."PayoutItem" TO payments;


CREATE TABLE payments."LedgerAccount" (
  "orgId"     uuid        NOT NULL,
  account     text        NOT NULL,
  currency    char(3)     NOT NULL,
  "createdAt" timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT ledger_account_pkey PRIMARY KEY ("orgId", account, currency),
  CONSTRAINT ledger_account_known CHECK (
    account IN ('stripe', 'platform', 'school', 'disputed')
    OR account ~ '^instructor:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$')
);
ALTER TABLE payments."LedgerAccount" OWNER TO payments_owner;
ALTER TABLE payments."LedgerAccount" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY org_only ON payments."LedgerAccount"
  USING ("orgId" = (SELECT NULLIF(current_setting('driveflow.org_id', true), '')::uuid));
COMMENT ON TABLE payments."LedgerAccount" IS
  'stripe: our balance there. platform, school, instructor: what is owed to them (credit, below 0).
disputed: held back by Stripe while a cardholder contests.';
GRANT SELECT ON payments."LedgerAccount" TO payments;


CREATE TABLE payments."LedgerEntry" (
  "orgId"         uuid        NOT NULL,
  id              uuid        NOT NULL DEFAULT uuidv7(),
  "transactionId" uuid        NOT NULL,
  account         text        NOT NULL,
  "amountCents"   bigint      NOT NULL,
  currency        char(3)     NOT NULL,
  kind            text        NOT NULL,
  "sourceId"      uuid        NOT NULL,
  "createdAt"     timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT ledger_entry_pkey PRIMARY KEY ("orgId", id),
  CONSTRAINT ledger_entry_of_account FOREIGN KEY ("orgId", account, currency)
    REFERENCES payments."LedgerAccount" ("orgId", account, currency),
  CONSTRAINT ledger_entry_moves_money CHECK ("amountCents" <> 0),
  CONSTRAINT ledger_entry_kind_known CHECK (kind IN (
    'charge', 'refund', 'refund_failed', 'share_due', 'share_void', 'payout', 'payout_reversal',
    'dispute', 'dispute_won', 'dispute_lost'))
);
ALTER TABLE payments."LedgerEntry" OWNER TO payments_owner;
ALTER TABLE payments."LedgerEntry" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY org_only ON payments."LedgerEntry"
  USING ("orgId" = (SELECT NULLIF(current_setting('driveflow.org_id', true), '')::uuid));
-- Each thing moves money of a kind once, whatever the code does.
CREATE UNIQUE INDEX ledger_entry_once
  ON payments."LedgerEntry" ("orgId", "sourceId", kind, account);
-- A page of an account's entries without sorting all of them, and its sum.
CREATE INDEX idx_ledger_entry_account_id
  ON payments."LedgerEntry" ("orgId", account, id) INCLUDE (currency, "amountCents", kind);
COMMENT ON TABLE payments."LedgerEntry" IS
  'Double entry, append-only: each movement adds up to 0 in its currency.';
COMMENT ON COLUMN payments."LedgerEntry"."amountCents" IS
  'Above 0: debit, into the account. Below 0: credit, out of it.';
GRANT SELECT ON payments."LedgerEntry" TO payments;

-- The only way into the ledger: a movement whose sides differ is refused whole.
CREATE FUNCTION payments.move_money(
  org_id uuid, kind text, source_id uuid, currency text, accounts text[], amounts bigint[])
RETURNS uuid
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
  movement uuid := uuidv7();
BEGIN
  IF cardinality(accounts) <> cardinality(amounts)
     OR (SELECT coalesce(sum(amount), 1) FROM unnest(amounts) AS amount) <> 0 THEN
    RAISE check_violation USING
      MESSAGE = 'a movement of money does not add up to 0', CONSTRAINT = 'ledger_balanced';
  END IF;
  INSERT INTO payments."LedgerAccount" ("orgId", account, currency)
  SELECT move_money.org_id, moved.account, move_money.currency
    FROM unnest(accounts) AS moved (account)
   ORDER BY moved.account
  ON CONFLICT DO NOTHING;
  INSERT INTO payments."LedgerEntry"
    ("orgId", "transactionId", account, "amountCents", currency, kind, "sourceId")
  SELECT move_money.org_id, movement, moved.account, moved.amount, move_money.currency,
         move_money.kind, move_money.source_id
    FROM unnest(accounts, amounts) AS moved (account, amount)
   WHERE moved.amount <> 0;
  RETURN movement;
END
$$;
ALTER FUNCTION payments.move_money(uuid, text, uuid, text, text[], bigint[])
  OWNER TO payments_owner;
REVOKE ALL ON FUNCTION payments.move_money(uuid, text, uuid, text, text[], bigint[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION payments.move_money(uuid, text, uuid, text, text[], bigint[])
  TO payments;
COMMENT ON FUNCTION payments.move_money(uuid, text, uuid, text, text[], bigint[]) IS
  'Writes one movement of the ledger; the service itself has no right to. Under row security.';

-- migrate:down
