-- migrate:up
-- Figures of instructors, over all schools in one view; read through a filter on the school.

CREATE TABLE booking."InstructorEarning" (
  "orgId"          uuid        NOT NULL,
  "instructorId"   uuid        NOT NULL,
  currency         char(3)     NOT NULL,
  "totalPaidCents" bigint      NOT NULL DEFAULT 0,
  "updatedAt"      timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT instructor_earning_pkey PRIMARY KEY ("orgId", "instructorId", currency),
  CONSTRAINT instructor_earning_of_instructor
    FOREIGN KEY ("orgId", "instructorId") REFERENCES booking."Instructor" ("orgId", id)
);
ALTER TABLE booking."InstructorEarning" OWNER TO booking_owner;
ALTER TABLE booking."InstructorEarning" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY org_only ON booking."InstructorEarning"
  USING ("orgId" = (SELECT NULLIF(current_setting('driveflow.org_id', true), '')::uuid));
COMMENT ON TABLE booking."InstructorEarning" IS
  'What payments has paid out to an instructor, by its events.';
GRANT SELECT, INSERT, UPDATE ON booking."InstructorEarning" TO booking;


GRANT SELECT ON booking."Org", booking."Instructor", booking."Booking", booking."Lesson",
  booking."InstructorEarning" TO booking_reporting;

-- Each table is added up before it is joined: a join of bookings and payouts would multiply both.
CREATE MATERIALIZED VIEW booking.instructor_stats AS
  SELECT i."orgId", i.id AS "instructorId", i."displayName",
         coalesce(b.total, 0) AS "totalBookings",
         coalesce(b.completed, 0) AS "completedBookings",
         l."avgRating",
         coalesce(e."totalPaidCents", 0) AS "totalEarningsCents",
         o.currency,
         now() AS "refreshedAt"
  FROM booking."Instructor" AS i
  JOIN booking."Org" AS o ON o.id = i."orgId"
  LEFT JOIN (SELECT "orgId", "instructorId", count(*) AS total,
                    count(*) FILTER (WHERE status = 'completed') AS completed
             FROM booking."Booking" GROUP BY "orgId", "instructorId") AS b
    ON b."orgId" = i."orgId" AND b."instructorId" = i.id
  LEFT JOIN (SELECT "orgId", "instructorId", avg(rating)::float8 AS "avgRating"
             FROM booking."Lesson" GROUP BY "orgId", "instructorId") AS l
    ON l."orgId" = i."orgId" AND l."instructorId" = i.id
  LEFT JOIN booking."InstructorEarning" AS e
    ON e."orgId" = i."orgId" AND e."instructorId" = i.id AND e.currency = o.currency;
-- Unique, for REFRESH CONCURRENTLY; a second one on orgId alone would never be used.
CREATE UNIQUE INDEX idx_instructor_stats_org
  ON booking.instructor_stats ("orgId", "instructorId");
ALTER MATERIALIZED VIEW booking.instructor_stats OWNER TO booking_reporting;
GRANT SELECT ON booking.instructor_stats TO booking_owner;
GRANT MAINTAIN ON booking.instructor_stats TO booking;

CREATE VIEW booking.instructor_stats_of_org WITH (security_barrier) AS
  SELECT "orgId", "instructorId", "displayName", "totalBookings", "completedBookings",
         "avgRating", "totalEarningsCents", currency, "refreshedAt"
  FROM booking.instructor_stats
  WHERE "orgId" = (SELECT NULLIF(current_setting('driveflow.org_id', true), '')::uuid);
ALTER VIEW booking.instructor_stats_of_org OWNER TO booking_owner;
GRANT SELECT ON booking.instructor_stats_of_org TO booking;

-- migrate:down
