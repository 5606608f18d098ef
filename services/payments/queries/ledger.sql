-- name: move_money
-- One movement of the ledger; refused unless it adds up to 0, or if it was made before.
SELECT move_money(%(org_id)s::uuid, %(kind)s::text, %(source_id)s::uuid, %(currency)s::text,
                  %(accounts)s::text[], %(amounts)s::bigint[]);

-- name: list_ledger_entries
-- Entries of all accounts, latest first, behind a row.
SELECT {columns} FROM "LedgerEntry"
 WHERE "orgId" = %(org_id)s::uuid AND id < %(before_id)s::uuid
 ORDER BY id DESC
 LIMIT %(limit)s::int;

-- name: list_ledger_entries_of_account
-- Those of one account, latest first, behind a row.
SELECT {columns} FROM "LedgerEntry"
 WHERE "orgId" = %(org_id)s::uuid AND account = %(account)s::text AND id < %(before_id)s::uuid
 ORDER BY id DESC
 LIMIT %(limit)s::int;

-- name: sum_account
-- By currency: what an account is owed, and what was paid out of it.
SELECT currency::text, -sum("amountCents")::bigint,
       coalesce(sum("amountCents") FILTER (WHERE kind IN ('payout', 'payout_reversal')), 0)::bigint
  FROM "LedgerEntry"
 WHERE "orgId" = %(org_id)s::uuid AND account = %(account)s::text
 GROUP BY currency
 ORDER BY currency;
