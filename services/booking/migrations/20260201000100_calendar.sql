-- migrate:up
-- The hours that instructors work, on the wall clock of the school.

CREATE TABLE booking."InstructorAvailability" (
  "orgId"         uuid        NOT NULL,
  id              uuid        NOT NULL DEFAULT uuidv7(),
  "instructorId"  uuid        NOT NULL,
  "dayOfWeek"     integer     NOT NULL,
  "startMinute"   integer     NOT NULL,
  "endMinute"     integer     NOT NULL,
  "effectiveFrom" date        NOT NULL,
  "effectiveTo"   date,
  "createdAt"     timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT instructor_availability_pkey PRIMARY KEY ("orgId", id),
  CONSTRAINT availability_of_instructor
    FOREIGN KEY ("orgId", "instructorId") REFERENCES booking."Instructor" ("orgId", id),
  CONSTRAINT availability_day_of_week CHECK ("dayOfWeek" BETWEEN 0 AND 6),
  CONSTRAINT availability_minutes_of_a_day
    CHECK ("startMinute" >= 0 AND "startMinute" < "endMinute" AND "endMinute" <= 1440),
  CONSTRAINT availability_dates_in_order CHECK ("effectiveTo" >= "effectiveFrom"),
  -- The condition is true of every row, but the planner cannot know: queries are to use the b-trees
  -- below, of which a look-up reads a tenth of the pages.
  CONSTRAINT availability_no_overlap EXCLUDE USING gist (
    "orgId" WITH =, "instructorId" WITH =, "dayOfWeek" WITH =,
    int4range("startMinute", "endMinute") WITH &&,
    daterange("effectiveFrom", "effectiveTo", '[]') WITH &&) WHERE ("endMinute" > 0)
);
ALTER TABLE booking."InstructorAvailability" OWNER TO booking_owner;
ALTER TABLE booking."InstructorAvailability" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY org_only ON booking."InstructorAvailability"
  USING ("orgId" = (SELECT NULLIF(current_setting('driveflow.org_id', true), '')::uuid));
-- Without orgId: an instructor has one, and the planner would believe that it narrows further.
CREATE INDEX idx_availability_instructor_day
  ON booking."InstructorAvailability" ("instructorId", "dayOfWeek", "startMinute");
CREATE INDEX idx_availability_instructor_effective
  ON booking."InstructorAvailability" ("instructorId", "effectiveFrom", "effectiveTo");
COMMENT ON TABLE booking."InstructorAvailability" IS
  'Weekly hours: a moment is within a rule when the wall clock then reads within its minutes.';
COMMENT ON COLUMN booking."InstructorAvailability"."dayOfWeek" IS '0 = Sunday to 6 = Saturday.';
GRANT SELECT, INSERT, UPDATE ("effectiveTo"), DELETE ON booking."InstructorAvailability" TO booking;


CREATE TABLE booking."AvailabilityException" (
  "orgId"        uuid        NOT NULL,
  id             uuid        NOT NULL DEFAULT uuidv7(),
  "instructorId" uuid        NOT NULL,
  date           date        NOT NULL,
  "isAvailable"  boolean     NOT NULL,
  "startMinute"  integer,
  "endMinute"    integer,
  note           text        NOT NULL DEFAULT '',
  "createdAt"    timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT availability_exception_pkey PRIMARY KEY ("orgId", id),
  CONSTRAINT availability_exception_of_instructor
    FOREIGN KEY ("orgId", "instructorId") REFERENCES booking."Instructor" ("orgId", id),
  CONSTRAINT availability_exception_minutes_of_a_day
    CHECK ("startMinute" >= 0 AND "startMinute" < "endMinute" AND "endMinute" <= 1440),
  CONSTRAINT availability_exception_minutes_both_or_none
    CHECK (("startMinute" IS NULL) = ("endMinute" IS NULL))
);
ALTER TABLE booking."AvailabilityException" OWNER TO booking_owner;
ALTER TABLE booking."AvailabilityException" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY org_only ON booking."AvailabilityException"
  USING ("orgId" = (SELECT NULLIF(current_setting('driveflow.org_id', true), '')::uuid));
CREATE UNIQUE INDEX idx_availability_exception_instructor_date
  ON booking."AvailabilityException" ("instructorId", date, "startMinute", "orgId")
  NULLS NOT DISTINCT;
COMMENT ON COLUMN booking."AvailabilityException"."startMinute" IS
  'Null, with endMinute: the whole day.';
GRANT SELECT, INSERT, DELETE ON booking."AvailabilityException" TO booking;


-- migrate:down
