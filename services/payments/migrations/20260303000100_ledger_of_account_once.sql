-- migrate:up transaction:false
-- idx_ledger_entry_account_id does what this one did.
DROP INDEX CONCURRENTLY payments.idx_ledger_entry_account;

-- migrate:down
