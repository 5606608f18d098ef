-- migrate:up
-- A share that a full refund took back is due again when the refund fails: another movement.

ALTER TABLE payments."Payment" ADD COLUMN "shareSourceId" uuid;
COMMENT ON COLUMN payments."Payment"."shareSourceId" IS
  'What made the share due, or due again, in the ledger: the payment (also when null), the refund that
failed, or the dispute that was won.';

-- migrate:down
