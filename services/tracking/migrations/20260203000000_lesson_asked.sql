-- migrate:up
-- A lesson that booking could not be asked about is asked about again, one that it does not know
-- seldom.

ALTER TABLE tracking."Trip" ADD COLUMN "lessonAskedAt" timestamptz;
COMMENT ON COLUMN tracking."Trip"."lessonAskedAt" IS
  'When booking said that it has no such lesson; not asked again for a day.';

-- migrate:down
