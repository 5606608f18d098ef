-- part: join_student
-- The student's name.
LEFT JOIN "Student" AS st ON st."orgId" = %(org_id)s::uuid AND st.id = b."studentId"

-- part: join_instructor
-- The instructor's name.
LEFT JOIN "Instructor" AS i ON i."orgId" = %(org_id)s::uuid AND i.id = b."instructorId"

-- part: join_active_instructor
-- In place of the one above: only bookings of instructors who are active.
JOIN "Instructor" AS i ON i."orgId" = %(org_id)s::uuid AND i.id = b."instructorId" AND i.active

-- part: join_service
-- The lesson type's name.
LEFT JOIN "Service" AS se ON se."orgId" = %(org_id)s::uuid AND se.id = b."serviceId"

-- part: join_vehicle
-- The vehicle's label.
LEFT JOIN "Vehicle" AS v ON v."orgId" = %(org_id)s::uuid AND v.id = b."vehicleId"

-- part: within
-- From a time on, behind the row (startAt, id): latest start first. The second line follows from the
-- third; by it the planner takes this for a short range, and keeps one plan for all calls.
b."startAt" >= %(start_from)s::timestamptz
   AND b."startAt" <= %(before_start)s::timestamptz
   AND (b."startAt", b.id) < (%(before_start)s::timestamptz, %(before_id)s::uuid)
 ORDER BY b."startAt" DESC, b.id DESC
 LIMIT %(limit)s::int

-- name: get_booking
-- A booking, with the names that are asked for.
SELECT {columns} FROM "Booking" AS b {joins}
 WHERE b."orgId" = %(org_id)s::uuid AND b.id = %(booking_id)s::uuid;

-- name: batch_get_bookings
-- Bookings in any order.
SELECT {columns} FROM "Booking" AS b {joins}
 WHERE b."orgId" = %(org_id)s::uuid AND b.id = ANY (%(booking_ids)s::uuid[]);

-- name: list_bookings
-- A page of the school's bookings (idx_booking_org_start).
SELECT {columns} FROM "Booking" AS b {joins}
 WHERE b."orgId" = %(org_id)s::uuid AND {within};

-- name: list_bookings_with_status
-- A page of the bookings with a status (idx_booking_status_org_date).
SELECT {columns} FROM "Booking" AS b {joins}
 WHERE b."orgId" = %(org_id)s::uuid AND b.status = %(status)s::text AND {within};

-- name: list_bookings_of_instructor
-- A page of an instructor's bookings (idx_booking_instructor_start).
SELECT {columns} FROM "Booking" AS b {joins}
 WHERE b."orgId" = %(org_id)s::uuid AND b."instructorId" = %(instructor_id)s::uuid
   AND (%(status)s::text IS NULL OR b.status = %(status)s::text) AND {within};

-- name: list_bookings_of_student
-- A page of a student's bookings (idx_booking_student_start).
SELECT {columns} FROM "Booking" AS b {joins}
 WHERE b."orgId" = %(org_id)s::uuid AND b."studentId" = %(student_id)s::uuid
   AND (%(instructor_id)s::uuid IS NULL OR b."instructorId" = %(instructor_id)s::uuid)
   AND (%(status)s::text IS NULL OR b.status = %(status)s::text) AND {within};

-- name: list_day_schedule
-- A day's live and done bookings of active instructors (idx_booking_org_start), earliest first.
SELECT {columns} FROM "Booking" AS b {joins}
 WHERE b."orgId" = %(org_id)s::uuid AND b."startAt" >= %(start_from)s::timestamptz
   AND b."startAt" < %(start_to)s::timestamptz AND b.status NOT IN ('cancelled', 'expired')
 ORDER BY b."startAt", b.id
 LIMIT %(limit)s::int;
