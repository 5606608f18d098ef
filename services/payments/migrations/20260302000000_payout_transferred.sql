-- migrate:up transaction:false
CREATE INDEX CONCURRENTLY idx_payout_transferred ON payments."Payout" ("orgId", "transferredAt")
  WHERE "transferredAt" IS NOT NULL;

-- migrate:down
