-- name: find_booking
-- A booking as it is, for what is decided later under lock or not at all.
SELECT {columns} FROM "Booking"
 WHERE "orgId" = %(org_id)s::uuid AND id = %(booking_id)s::uuid;

-- name: lock_booking
-- A booking as it is now, locked until the transaction ends.
SELECT {columns} FROM "Booking"
 WHERE "orgId" = %(org_id)s::uuid AND id = %(booking_id)s::uuid
   FOR UPDATE;

-- name: confirm_booking
-- The booking will take place: it keeps its slot for good.
UPDATE "Booking"
   SET status = 'confirmed', "holdExpiresAt" = NULL, version = version + 1, "updatedAt" = now()
 WHERE "orgId" = %(org_id)s::uuid AND id = %(booking_id)s::uuid
   AND status = %(from_status)s::text
RETURNING {columns};

-- name: accept_waitlist_entry
-- The student who was offered this booking has taken it.
UPDATE "WaitlistEntry" SET status = 'accepted', version = version + 1, "updatedAt" = now()
 WHERE "orgId" = %(org_id)s::uuid AND "bookingId" = %(booking_id)s::uuid AND status = 'offered'
RETURNING id;

-- name: cancel_booking
-- The booking is called off: its slot is free.
UPDATE "Booking"
   SET status = 'cancelled', "holdExpiresAt" = NULL, "cancelReason" = %(reason)s::text,
       "cancelledAt" = %(now)s::timestamptz, "refundCents" = %(refund_cents)s::bigint,
       version = version + 1, "updatedAt" = now()
 WHERE "orgId" = %(org_id)s::uuid AND id = %(booking_id)s::uuid
   AND status = %(from_status)s::text
RETURNING {columns};

-- name: set_booking_status
-- A step that changes nothing else: in_progress, completed, no_show.
UPDATE "Booking" SET status = %(to_status)s::text, version = version + 1, "updatedAt" = now()
 WHERE "orgId" = %(org_id)s::uuid AND id = %(booking_id)s::uuid
   AND status = %(from_status)s::text
RETURNING {columns};

-- name: add_lesson
-- The lesson of a booking begins.
INSERT INTO "Lesson" ("orgId", "bookingId", "studentId", "instructorId", "startedAt")
VALUES (%(org_id)s::uuid, %(booking_id)s::uuid, %(student_id)s::uuid, %(instructor_id)s::uuid,
        %(now)s::timestamptz)
RETURNING id, "bookingId", "studentId", "instructorId", 'in_progress', "startedAt", "endedAt",
          rating, notes, "distanceMeters", "tripId", "createdAt", "driveStartedAt", "driveEndedAt";

-- name: end_lesson
-- The lesson of a booking is over; a clock that went backwards ends it where it began.
UPDATE "Lesson"
   SET "endedAt" = greatest("startedAt", %(now)s::timestamptz), rating = %(rating)s::int,
       notes = %(notes)s::text, "updatedAt" = now()
 WHERE "orgId" = %(org_id)s::uuid AND "bookingId" = %(booking_id)s::uuid
RETURNING id, "bookingId", "studentId", "instructorId", 'completed', "startedAt", "endedAt",
          rating, notes, "distanceMeters", "tripId", "createdAt", "driveStartedAt", "driveEndedAt";

-- name: add_transition
-- A step in a booking's history.
INSERT INTO "BookingTransition" ("orgId", "bookingId", "fromStatus", "toStatus", actor, reason)
VALUES (%(org_id)s::uuid, %(booking_id)s::uuid, %(from_status)s::text, %(to_status)s::text,
        %(actor)s::text, %(reason)s::text);

-- name: list_transitions
-- A page of a booking's history, earliest first, behind the row id.
SELECT {columns}
  FROM "BookingTransition"
 WHERE "orgId" = %(org_id)s::uuid AND "bookingId" = %(booking_id)s::uuid
   AND id > %(after_id)s::uuid
 ORDER BY id
 LIMIT %(limit)s::int;
