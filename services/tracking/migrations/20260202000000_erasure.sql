-- migrate:up
-- A student who is erased takes the routes and points of his lessons along.

ALTER TABLE tracking."Trip" ADD COLUMN "erasedAt" timestamptz;
COMMENT ON COLUMN tracking."Trip"."erasedAt" IS
  'When route and points were erased with the lesson''s student: no more points are taken.';
CREATE INDEX idx_trip_erased ON tracking."Trip" ("orgId", "erasedAt") WHERE "erasedAt" IS NOT NULL;
GRANT DELETE ON tracking."TripPoint" TO tracking;
GRANT DELETE ON tracking."HeldTripPoint" TO tracking;

-- migrate:down
