-- migrate:up transaction:false
-- A page of an account's entries without sorting all of them, and its sum.
CREATE INDEX CONCURRENTLY idx_ledger_entry_account_id ON payments."LedgerEntry"
  ("orgId", account, id) INCLUDE (currency, "amountCents", kind);

-- migrate:down
