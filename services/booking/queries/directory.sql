-- name: new_org_id
-- The id of a school to be: the transaction must be its own before its row can be written.
SELECT uuidv7();

-- name: time_zone_known
-- Whether the database knows a zone by this very name.
SELECT EXISTS (SELECT 1 FROM pg_timezone_names WHERE name = %(time_zone)s::text);

-- name: create_org
-- Makes a school; the transaction is scoped to its id.
INSERT INTO "Org" (id, name, "timeZone", currency, "platformFeeBps", "holdMinutes", "noticeMinutes",
                   "travelBufferMin", "noShowGraceMinutes", "fullRefundHours",
                   "partialRefundHours", "partialRefundPercent")
VALUES (%(org_id)s::uuid, %(name)s::text, %(time_zone)s::text, %(currency)s::text,
        %(platform_fee_bps)s::int, %(hold_minutes)s::int, %(notice_minutes)s::int,
        %(travel_buffer_minutes)s::int, %(no_show_grace_minutes)s::int,
        %(full_refund_hours)s::int, %(partial_refund_hours)s::int,
        %(partial_refund_percent)s::int)
RETURNING {columns};

-- name: get_org
-- The school.
SELECT {columns} FROM "Org" WHERE id = %(org_id)s::uuid;

-- name: lock_org
-- The school, locked against other changes of it until the transaction ends.
SELECT {columns} FROM "Org" WHERE id = %(org_id)s::uuid FOR NO KEY UPDATE;

-- name: update_org
-- Changes the school's name, zone and settings.
UPDATE "Org"
   SET name = %(name)s::text, "timeZone" = %(time_zone)s::text,
       "platformFeeBps" = %(platform_fee_bps)s::int, "holdMinutes" = %(hold_minutes)s::int,
       "noticeMinutes" = %(notice_minutes)s::int,
       "travelBufferMin" = %(travel_buffer_minutes)s::int,
       "noShowGraceMinutes" = %(no_show_grace_minutes)s::int,
       "fullRefundHours" = %(full_refund_hours)s::int,
       "partialRefundHours" = %(partial_refund_hours)s::int,
       "partialRefundPercent" = %(partial_refund_percent)s::int,
       version = version + 1, "updatedAt" = now()
 WHERE id = %(org_id)s::uuid
RETURNING {columns};

-- name: set_org_suspended
-- Suspends the school from a moment on, or ends its suspension (null).
UPDATE "Org"
   SET "suspendedAt" = %(suspended_at)s::timestamptz, version = version + 1, "updatedAt" = now()
 WHERE id = %(org_id)s::uuid
RETURNING {columns};

-- name: create_instructor
-- Adds an instructor; the id is made here.
INSERT INTO "Instructor" ("orgId", "displayName", phone, "licenseId", active, "stripeAccountId",
                          "travelBufferMin")
VALUES (%(org_id)s::uuid, %(display_name)s::text, %(phone)s::text, %(license_id)s::text,
        %(active)s::boolean, %(stripe_account_id)s::text, %(travel_buffer_minutes)s::int)
RETURNING {columns};

-- name: get_instructor
-- An instructor of the school.
SELECT {columns} FROM "Instructor"
 WHERE "orgId" = %(org_id)s::uuid AND id = %(instructor_id)s::uuid;

-- name: lock_instructor
-- An instructor, locked against other changes until the transaction ends.
SELECT {columns} FROM "Instructor"
 WHERE "orgId" = %(org_id)s::uuid AND id = %(instructor_id)s::uuid FOR NO KEY UPDATE;

-- name: list_instructors
-- A page of instructors, newest first, behind an id.
SELECT {columns} FROM "Instructor"
 WHERE "orgId" = %(org_id)s::uuid AND id < %(before_id)s::uuid
 ORDER BY id DESC
 LIMIT %(limit)s::int;

-- name: list_instructors_by_active
-- A page of the active instructors or of the others, newest first, behind an id.
SELECT {columns} FROM "Instructor"
 WHERE "orgId" = %(org_id)s::uuid AND active = %(active)s::boolean AND id < %(before_id)s::uuid
 ORDER BY id DESC
 LIMIT %(limit)s::int;

-- name: update_instructor
-- Changes an instructor.
UPDATE "Instructor"
   SET "displayName" = %(display_name)s::text, phone = %(phone)s::text,
       "licenseId" = %(license_id)s::text, active = %(active)s::boolean,
       "stripeAccountId" = %(stripe_account_id)s::text,
       "travelBufferMin" = %(travel_buffer_minutes)s::int,
       version = version + 1, "updatedAt" = now()
 WHERE "orgId" = %(org_id)s::uuid AND id = %(id)s::uuid
RETURNING {columns};

-- name: create_student
-- Adds a student; the id is made here.
INSERT INTO "Student" ("orgId", "fullName", phone, email, dob, notes)
VALUES (%(org_id)s::uuid, %(full_name)s::text, %(phone)s::text, %(email)s::text,
        %(birth_date)s::date, %(notes)s::text)
RETURNING {columns};

-- name: get_student
-- A student of the school.
SELECT {columns} FROM "Student" WHERE "orgId" = %(org_id)s::uuid AND id = %(student_id)s::uuid;

-- name: lock_student
-- A student, locked against other changes until the transaction ends.
SELECT {columns} FROM "Student"
 WHERE "orgId" = %(org_id)s::uuid AND id = %(student_id)s::uuid FOR NO KEY UPDATE;

-- name: list_students
-- A page of students by name, behind the row (fullName, id).
SELECT {columns} FROM "Student"
 WHERE "orgId" = %(org_id)s::uuid AND "erasedAt" IS NULL
   AND ("fullName", id) > (%(after_name)s::text, %(after_id)s::uuid)
 ORDER BY "fullName", id
 LIMIT %(limit)s::int;

-- name: list_students_by_prefix
-- A page of the students whose name begins so, whatever the case, by name without case, behind the
-- row (nameKey, id). A range rather than LIKE: under row security only that reaches the index.
SELECT {columns} FROM "Student"
 WHERE "orgId" = %(org_id)s::uuid AND "erasedAt" IS NULL
   AND "nameKey" >= casefold(pg_catalog.normalize(%(prefix)s::text, 'NFKC') COLLATE pg_unicode_fast)
         COLLATE "C"
   AND "nameKey" < (casefold(pg_catalog.normalize(%(prefix)s::text, 'NFKC') COLLATE pg_unicode_fast)
         || chr(1114111)) COLLATE "C"
   AND ("nameKey", id) > (%(after_name)s::text COLLATE "C", %(after_id)s::uuid)
 ORDER BY "nameKey", id
 LIMIT %(limit)s::int;

-- name: update_student
-- Changes a student.
UPDATE "Student"
   SET "fullName" = %(full_name)s::text, phone = %(phone)s::text, email = %(email)s::text,
       dob = %(birth_date)s::date, notes = %(notes)s::text,
       version = version + 1, "updatedAt" = now()
 WHERE "orgId" = %(org_id)s::uuid AND id = %(id)s::uuid
RETURNING {columns};

-- name: create_guardian
-- Adds someone who answers for a student; the id is made here.
INSERT INTO "Guardian" ("orgId", "fullName", phone, email)
VALUES (%(org_id)s::uuid, %(full_name)s::text, %(phone)s::text, %(email)s::text)
RETURNING id, "createdAt";

-- name: link_guardian
-- Notes whom a guardian answers for.
INSERT INTO "StudentGuardian" ("orgId", "studentId", "guardianId", relationship)
VALUES (%(org_id)s::uuid, %(student_id)s::uuid, %(guardian_id)s::uuid, %(relationship)s::text);

-- part: join_guardian
-- What is kept of the guardian, whomever it answers for.
JOIN "Guardian" AS g ON g."orgId" = %(org_id)s::uuid AND g.id = l."guardianId"

-- name: list_guardians
-- A student's guardians, oldest entry first.
SELECT {columns}
  FROM "StudentGuardian" AS l
  {joins}
 WHERE l."orgId" = %(org_id)s::uuid AND l."studentId" = %(student_id)s::uuid
 ORDER BY l."guardianId"
 LIMIT %(limit)s::int;

-- name: lock_guardian
-- A guardian with the student whom the first of its links names, locked.
SELECT g.id, l."studentId", g."fullName", g.phone, g.email, l.relationship, g."createdAt"
  FROM "Guardian" AS g
  JOIN "StudentGuardian" AS l ON l."orgId" = %(org_id)s::uuid AND l."guardianId" = g.id
 WHERE g."orgId" = %(org_id)s::uuid AND g.id = %(guardian_id)s::uuid
 ORDER BY l."studentId"
 LIMIT 1
   FOR UPDATE OF g;

-- name: delete_guardian
-- Removes a guardian, and with it whom it answers for.
DELETE FROM "Guardian" WHERE "orgId" = %(org_id)s::uuid AND id = %(guardian_id)s::uuid;

-- name: create_service
-- Adds a lesson type; the id is made here.
INSERT INTO "Service" ("orgId", name, "durationMin", "bufferBeforeMin", "bufferAfterMin",
                       "slotStepMin", active)
VALUES (%(org_id)s::uuid, %(name)s::text, %(duration_minutes)s::int,
        %(buffer_before_minutes)s::int, %(buffer_after_minutes)s::int,
        %(slot_step_minutes)s::int, %(active)s::boolean)
RETURNING {columns};

-- name: get_service
-- A lesson type of the school.
SELECT {columns} FROM "Service" WHERE "orgId" = %(org_id)s::uuid AND id = %(service_id)s::uuid;

-- name: lock_service
-- A lesson type, locked against other changes until the transaction ends.
SELECT {columns} FROM "Service"
 WHERE "orgId" = %(org_id)s::uuid AND id = %(service_id)s::uuid FOR NO KEY UPDATE;

-- name: list_services
-- A page of lesson types, newest first, behind an id; all, only active ones or only the others.
SELECT {columns} FROM "Service"
 WHERE "orgId" = %(org_id)s::uuid AND id < %(before_id)s::uuid
   AND active = coalesce(%(active)s::boolean, active)
 ORDER BY id DESC
 LIMIT %(limit)s::int;

-- name: update_service
-- Changes a lesson type.
UPDATE "Service"
   SET name = %(name)s::text, "durationMin" = %(duration_minutes)s::int,
       "bufferBeforeMin" = %(buffer_before_minutes)s::int,
       "bufferAfterMin" = %(buffer_after_minutes)s::int,
       "slotStepMin" = %(slot_step_minutes)s::int, active = %(active)s::boolean,
       version = version + 1, "updatedAt" = now()
 WHERE "orgId" = %(org_id)s::uuid AND id = %(id)s::uuid
RETURNING {columns};

-- name: create_vehicle
-- Adds a car; the id is made here.
INSERT INTO "Vehicle" ("orgId", label, transmission, active)
VALUES (%(org_id)s::uuid, %(label)s::text, %(transmission)s::text, %(active)s::boolean)
RETURNING {columns};

-- name: get_vehicle
-- A car of the school.
SELECT {columns} FROM "Vehicle" WHERE "orgId" = %(org_id)s::uuid AND id = %(vehicle_id)s::uuid;

-- name: lock_vehicle
-- A car, locked against other changes until the transaction ends.
SELECT {columns} FROM "Vehicle"
 WHERE "orgId" = %(org_id)s::uuid AND id = %(vehicle_id)s::uuid FOR NO KEY UPDATE;

-- name: list_vehicles
-- A page of cars, newest first, behind an id; all, only active ones or only the others.
SELECT {columns} FROM "Vehicle"
 WHERE "orgId" = %(org_id)s::uuid AND id < %(before_id)s::uuid
   AND active = coalesce(%(active)s::boolean, active)
 ORDER BY id DESC
 LIMIT %(limit)s::int;

-- name: update_vehicle
-- Changes a car.
UPDATE "Vehicle"
   SET label = %(label)s::text, transmission = %(transmission)s::text,
       active = %(active)s::boolean, version = version + 1, "updatedAt" = now()
 WHERE "orgId" = %(org_id)s::uuid AND id = %(id)s::uuid
RETURNING {columns};
