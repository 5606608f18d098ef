-- migrate:up
-- Bookings, and what they turn into. The constraints have the last word on double booking.

CREATE TABLE booking."Booking" (
  "orgId"                uuid        NOT NULL,
  id                     uuid        NOT NULL DEFAULT uuidv7(),
  "studentId"            uuid        NOT NULL,
  "instructorId"         uuid        NOT NULL,
  "serviceId"            uuid        NOT NULL,
  "vehicleId"            uuid,
  "startAt"              timestamptz NOT NULL,
  "endAt"                timestamptz NOT NULL,
  "bufferBeforeMin"      integer     NOT NULL,
  "bufferAfterMin"       integer     NOT NULL,
  busy                   tstzrange   NOT NULL GENERATED ALWAYS AS (tstzrange(
    ("startAt" AT TIME ZONE 'UTC' - make_interval(mins => "bufferBeforeMin")) AT TIME ZONE 'UTC',
    ("endAt" AT TIME ZONE 'UTC' + make_interval(mins => "bufferAfterMin")) AT TIME ZONE 'UTC',
    '[)')) STORED,
  status                 text        NOT NULL,
  "holdExpiresAt"        timestamptz,
  "priceCents"           bigint      NOT NULL,
  "platformFeeCents"     bigint      NOT NULL,
  "instructorShareCents" bigint      NOT NULL,
  currency               char(3)     NOT NULL,
  "pickupAddress"        text        NOT NULL DEFAULT '',
  "pickupLat"            numeric(9,6),
  "pickupLng"            numeric(9,6),
  "dropoffAddress"       text        NOT NULL DEFAULT '',
  "dropoffLat"           numeric(9,6),
  "dropoffLng"           numeric(9,6),
  notes                  text        NOT NULL DEFAULT '',
  "cancelReason"         text        NOT NULL DEFAULT '',
  "cancelledAt"          timestamptz,
  "refundCents"          bigint      NOT NULL DEFAULT 0,
  "rescheduleCount"      integer     NOT NULL DEFAULT 0,
  "originalStartAt"      timestamptz,
  "seriesId"             uuid,
  version                integer     NOT NULL DEFAULT 1,
  "createdAt"            timestamptz NOT NULL DEFAULT now(),
  "updatedAt"            timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT booking_pkey PRIMARY KEY ("orgId", id),
  CONSTRAINT booking_of_student
    FOREIGN KEY ("orgId", "studentId") REFERENCES booking."Student" ("orgId", id),
  CONSTRAINT booking_of_instructor
    FOREIGN KEY ("orgId", "instructorId") REFERENCES booking."Instructor" ("orgId", id),
  CONSTRAINT booking_of_service
    FOREIGN KEY ("orgId", "serviceId") REFERENCES booking."Service" ("orgId", id),
  CONSTRAINT booking_of_vehicle
    FOREIGN KEY ("orgId", "vehicleId") REFERENCES booking."Vehicle" ("orgId", id),
  CONSTRAINT booking_status_known CHECK (status IN ('held', 'requested', 'confirmed',
    'in_progress', 'completed', 'cancelled', 'expired', 'no_show')),
  CONSTRAINT booking_waiting_has_expiry
    CHECK (status NOT IN ('held', 'requested') OR "holdExpiresAt" IS NOT NULL),
  CONSTRAINT booking_buffers_not_negative
    CHECK ("bufferBeforeMin" >= 0 AND "bufferAfterMin" >= 0),
  CONSTRAINT booking_busy_at_most_24_hours CHECK ("endAt" - "startAt"
    + make_interval(mins => "bufferBeforeMin" + "bufferAfterMin") <= make_interval(hours => 24)),
  CONSTRAINT booking_price_is_fee_plus_share
    CHECK ("priceCents" = "platformFeeCents" + "instructorShareCents"),
  CONSTRAINT booking_shares_not_negative
    CHECK ("platformFeeCents" >= 0 AND "instructorShareCents" >= 0),
  CONSTRAINT booking_refund_within_price CHECK ("refundCents" BETWEEN 0 AND "priceCents"),
  -- Buffers are never negative, but the planner cannot know: queries are to use the b-trees below,
  -- by time. Under row security && reaches no index, and these give all that is live of someone.
  CONSTRAINT booking_no_instructor_overlap EXCLUDE USING gist (
    "orgId" WITH =, "instructorId" WITH =, busy WITH &&)
    WHERE (status IN ('held', 'requested', 'confirmed', 'in_progress')
           AND "bufferBeforeMin" >= 0),
  CONSTRAINT booking_no_vehicle_overlap EXCLUDE USING gist (
    "orgId" WITH =, "vehicleId" WITH =, busy WITH &&)
    WHERE ("vehicleId" IS NOT NULL AND status IN ('held', 'requested', 'confirmed', 'in_progress')
           AND "bufferBeforeMin" >= 0),
  CONSTRAINT booking_no_student_overlap EXCLUDE USING gist (
    "orgId" WITH =, "studentId" WITH =, tstzrange("startAt", "endAt") WITH &&)
    WHERE (status IN ('held', 'requested', 'confirmed', 'in_progress')
           AND "bufferBeforeMin" >= 0)
) WITH (
  fillfactor = 90,
  autovacuum_vacuum_scale_factor = 0.05,
  autovacuum_analyze_scale_factor = 0.02
);
ALTER TABLE booking."Booking" OWNER TO booking_owner;
ALTER TABLE booking."Booking" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY org_only ON booking."Booking"
  USING ("orgId" = (SELECT NULLIF(current_setting('driveflow.org_id', true), '')::uuid));
CREATE INDEX idx_booking_org_start ON booking."Booking" ("orgId", "startAt", id);
CREATE INDEX idx_booking_instructor_start
  ON booking."Booking" ("instructorId", "startAt", "orgId", id);
CREATE INDEX idx_booking_student_start ON booking."Booking" ("studentId", "startAt", "orgId", id);
CREATE INDEX idx_booking_status_org_date
  ON booking."Booking" (status, "orgId", "startAt", id);
CREATE INDEX idx_booking_service ON booking."Booking" ("orgId", "serviceId");
CREATE INDEX idx_booking_vehicle_start
  ON booking."Booking" ("vehicleId", "startAt", "orgId") WHERE "vehicleId" IS NOT NULL;
CREATE INDEX idx_booking_waiting ON booking."Booking" ("orgId", "holdExpiresAt")
  WHERE status IN ('held', 'requested');
COMMENT ON TABLE booking."Booking" IS
  'A lesson in the calendar. Live ones (held, requested, confirmed, in_progress) keep their time.';
COMMENT ON COLUMN booking."Booking".busy IS
  'The time in which instructor and vehicle are taken: the lesson and its buffers, half-open.';
COMMENT ON COLUMN booking."Booking"."bufferBeforeMin" IS
  'The larger of the lesson type''s and the instructor''s travel buffer when it was placed.';
GRANT SELECT, INSERT, UPDATE ON booking."Booking" TO booking;


CREATE TABLE booking."BookingTransition" (
  "orgId"      uuid        NOT NULL,
  id           uuid        NOT NULL DEFAULT uuidv7(),
  "bookingId"  uuid        NOT NULL,
  "fromStatus" text,
  "toStatus"   text        NOT NULL,
  actor        text        NOT NULL,
  reason       text        NOT NULL DEFAULT '',
  at           timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT booking_transition_pkey PRIMARY KEY ("orgId", id),
  CONSTRAINT booking_transition_of_booking
    FOREIGN KEY ("orgId", "bookingId") REFERENCES booking."Booking" ("orgId", id)
);
ALTER TABLE booking."BookingTransition" OWNER TO booking_owner;
ALTER TABLE booking."BookingTransition" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY org_only ON booking."BookingTransition"
  USING ("orgId" = (SELECT NULLIF(current_setting('driveflow.org_id', true), '')::uuid));
CREATE INDEX idx_booking_transition_booking
  ON booking."BookingTransition" ("orgId", "bookingId", id);
COMMENT ON TABLE booking."BookingTransition" IS 'A booking''s history. Append-only.';
GRANT SELECT, INSERT, UPDATE (reason) ON booking."BookingTransition" TO booking;


CREATE TABLE booking."Lesson" (
  "orgId"          uuid             NOT NULL,
  id               uuid             NOT NULL DEFAULT uuidv7(),
  "bookingId"      uuid             NOT NULL,
  "studentId"      uuid             NOT NULL,
  "instructorId"   uuid             NOT NULL,
  "startedAt"      timestamptz      NOT NULL,
  "endedAt"        timestamptz,
  rating           integer,
  notes            text             NOT NULL DEFAULT '',
  "distanceMeters" double precision NOT NULL DEFAULT 0,
  "driveStartedAt" timestamptz,
  "driveEndedAt"   timestamptz,
  "tripId"         uuid,
  "createdAt"      timestamptz      NOT NULL DEFAULT now(),
  "updatedAt"      timestamptz      NOT NULL DEFAULT now(),
  CONSTRAINT lesson_pkey PRIMARY KEY ("orgId", id),
  CONSTRAINT lesson_one_per_booking UNIQUE ("orgId", "bookingId"),
  CONSTRAINT lesson_of_booking
    FOREIGN KEY ("orgId", "bookingId") REFERENCES booking."Booking" ("orgId", id),
  CONSTRAINT lesson_rating_of_five CHECK (rating BETWEEN 1 AND 5),
  CONSTRAINT lesson_end_not_before_start CHECK ("endedAt" >= "startedAt")
);
ALTER TABLE booking."Lesson" OWNER TO booking_owner;
ALTER TABLE booking."Lesson" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY org_only ON booking."Lesson"
  USING ("orgId" = (SELECT NULLIF(current_setting('driveflow.org_id', true), '')::uuid));
CREATE INDEX idx_lesson_student ON booking."Lesson" ("studentId", "orgId", id);
CREATE INDEX idx_lesson_instructor ON booking."Lesson" ("instructorId", "orgId", id);
COMMENT ON COLUMN booking."Lesson"."studentId" IS 'The booking''s, which no longer changes.';
COMMENT ON COLUMN booking."Lesson"."instructorId" IS 'The booking''s, which no longer changes.';
COMMENT ON COLUMN booking."Lesson"."tripId" IS 'tracking''s Trip; of another service.';
GRANT SELECT, INSERT, UPDATE ON booking."Lesson" TO booking;


CREATE TABLE booking."LessonTrip" (
  "orgId"          uuid             NOT NULL,
  "lessonId"       uuid             NOT NULL,
  "tripId"         uuid             NOT NULL,
  version          integer          NOT NULL,
  "distanceMeters" double precision NOT NULL,
  "startedAt"      timestamptz      NOT NULL,
  "endedAt"        timestamptz      NOT NULL,
  CONSTRAINT lesson_trip_pkey PRIMARY KEY ("orgId", "lessonId", "tripId"),
  CONSTRAINT lesson_trip_of_lesson
    FOREIGN KEY ("orgId", "lessonId") REFERENCES booking."Lesson" ("orgId", id)
);
ALTER TABLE booking."LessonTrip" OWNER TO booking_owner;
ALTER TABLE booking."LessonTrip" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY org_only ON booking."LessonTrip"
  USING ("orgId" = (SELECT NULLIF(current_setting('driveflow.org_id', true), '')::uuid));
COMMENT ON TABLE booking."LessonTrip" IS
  'The drives of a lesson as tracking tells them; the last version of each counts.';
GRANT SELECT, INSERT, UPDATE ON booking."LessonTrip" TO booking;


CREATE TABLE booking."WaitlistEntry" (
  "orgId"        uuid        NOT NULL,
  id             uuid        NOT NULL DEFAULT uuidv7(),
  "studentId"    uuid        NOT NULL,
  "serviceId"    uuid        NOT NULL,
  "instructorId" uuid,
  "startAt"      timestamptz NOT NULL,
  "endAt"        timestamptz NOT NULL,
  status         text        NOT NULL DEFAULT 'waiting',
  "bookingId"    uuid,
  version        integer     NOT NULL DEFAULT 1,
  "createdAt"    timestamptz NOT NULL DEFAULT now(),
  "updatedAt"    timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT waitlist_entry_pkey PRIMARY KEY ("orgId", id),
  CONSTRAINT waitlist_entry_of_student
    FOREIGN KEY ("orgId", "studentId") REFERENCES booking."Student" ("orgId", id),
  CONSTRAINT waitlist_entry_of_service
    FOREIGN KEY ("orgId", "serviceId") REFERENCES booking."Service" ("orgId", id),
  CONSTRAINT waitlist_entry_of_instructor
    FOREIGN KEY ("orgId", "instructorId") REFERENCES booking."Instructor" ("orgId", id),
  CONSTRAINT waitlist_entry_of_booking
    FOREIGN KEY ("orgId", "bookingId") REFERENCES booking."Booking" ("orgId", id),
  CONSTRAINT waitlist_entry_status_known
    CHECK (status IN ('waiting', 'offered', 'accepted', 'left', 'lapsed')),
  CONSTRAINT waitlist_entry_times_in_order CHECK ("endAt" > "startAt")
);
ALTER TABLE booking."WaitlistEntry" OWNER TO booking_owner;
ALTER TABLE booking."WaitlistEntry" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY org_only ON booking."WaitlistEntry"
  USING ("orgId" = (SELECT NULLIF(current_setting('driveflow.org_id', true), '')::uuid));
CREATE INDEX idx_waitlist_entry_status ON booking."WaitlistEntry" ("orgId", status, id);
CREATE INDEX idx_waitlist_entry_student ON booking."WaitlistEntry" ("orgId", "studentId");
CREATE INDEX idx_waitlist_entry_service ON booking."WaitlistEntry" ("orgId", "serviceId");
CREATE INDEX idx_waitlist_entry_instructor ON booking."WaitlistEntry" ("orgId", "instructorId");
CREATE INDEX idx_waitlist_entry_booking ON booking."WaitlistEntry" ("orgId", "bookingId");
GRANT SELECT, INSERT, UPDATE ON booking."WaitlistEntry" TO booking;


-- migrate:down
