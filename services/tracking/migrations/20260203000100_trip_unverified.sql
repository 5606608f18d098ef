-- migrate:up transaction:false
CREATE INDEX CONCURRENTLY idx_trip_unverified ON tracking."Trip" ("orgId", "createdAt")
  WHERE "lessonId" IS NOT NULL AND NOT "lessonVerified";

-- migrate:down
