-- migrate:up
-- A run is one process's while it is heard of: two that both think they lead do not take it from
-- each other.

ALTER TABLE payments."ReconciliationRun" ADD COLUMN "claimedUntil" timestamptz;
COMMENT ON COLUMN payments."ReconciliationRun"."claimedUntil" IS
  'Until then nobody but the attempt under way carries it out; each page moves it on. By the clock of
the database, which all processes share.';

-- migrate:down
