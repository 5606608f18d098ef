-- part: booking_ids
-- The student's bookings, as the audit log names them.
ARRAY(SELECT b.id::text FROM "Booking" AS b
       WHERE b."orgId" = %(org_id)s::uuid AND b."studentId" = %(student_id)s::uuid)

-- part: lesson_ids
-- The student's lessons, likewise.
ARRAY(SELECT l.id::text FROM "Lesson" AS l
       WHERE l."orgId" = %(org_id)s::uuid AND l."studentId" = %(student_id)s::uuid)

-- part: wait_ids
-- The student's waitlist entries, likewise.
ARRAY(SELECT w.id::text FROM "WaitlistEntry" AS w
       WHERE w."orgId" = %(org_id)s::uuid AND w."studentId" = %(student_id)s::uuid)

-- part: entry
-- What an audit entry tells, in the order of store.audit.AuditEntry.
SELECT a.id, a."actorUserId", a."entityType", a."entityId", a.action, a.before, a.after,
       a."createdAt"
  FROM "AuditLog" AS a
 WHERE a."orgId" = %(org_id)s::uuid

-- part: entries_of_student
-- The audit log about a student and all that is his; a guardian's entries name the student. One
-- branch for each kind of thing, for each is served by idx_audit_org_entity.
{entry} AND a."entityType" = 'student' AND a."entityId" = %(student_id)s::uuid::text
UNION ALL
{entry} AND a."entityType" = 'guardian'
   AND %(student_id)s::uuid::text IN (a.before ->> 'student_id', a.after ->> 'student_id')
UNION ALL
{entry} AND a."entityType" = 'booking' AND a."entityId" = ANY ({booking_ids})
UNION ALL
{entry} AND a."entityType" = 'lesson' AND a."entityId" = ANY ({lesson_ids})
UNION ALL
{entry} AND a."entityType" = 'waitlist_entry' AND a."entityId" = ANY ({wait_ids})

-- name: bookings_of_student
-- A student's bookings, newest first.
SELECT {columns} FROM "Booking"
 WHERE "orgId" = %(org_id)s::uuid AND "studentId" = %(student_id)s::uuid
 ORDER BY "startAt" DESC, id DESC
 LIMIT %(limit)s::int;

-- name: waitlist_of_student
-- A student's waitlist entries, newest first.
SELECT {columns} FROM "WaitlistEntry"
 WHERE "orgId" = %(org_id)s::uuid AND "studentId" = %(student_id)s::uuid
 ORDER BY id DESC
 LIMIT %(limit)s::int;

-- name: audit_of_student
-- Audit entries about a student and all that is his, newest first, behind an id.
SELECT e.id, e."actorUserId", e."entityType", e."entityId", e.action, e.before, e.after,
       e."createdAt"
  FROM ({entries_of_student}) AS e
 WHERE e.id < %(before_id)s::uuid
 ORDER BY e.id DESC
 LIMIT %(limit)s::int;

-- name: has_live_bookings
-- Whether something of the student is still to come or under way; an overdue hold is not.
SELECT EXISTS (SELECT 1 FROM "Booking"
                WHERE "orgId" = %(org_id)s::uuid AND "studentId" = %(student_id)s::uuid
                  AND status IN ('held', 'requested', 'confirmed', 'in_progress')
                  AND (status NOT IN ('held', 'requested')
                       OR "holdExpiresAt" > %(now)s::timestamptz));

-- name: lesson_ids_of_student
-- The student's lessons, for those who keep things about them.
SELECT id FROM "Lesson"
 WHERE "orgId" = %(org_id)s::uuid AND "studentId" = %(student_id)s::uuid
 ORDER BY id;

-- name: erase_bookings
-- Takes addresses and texts out of a student's bookings; locked in one order.
UPDATE "Booking"
   SET "pickupAddress" = '', "pickupLat" = NULL, "pickupLng" = NULL,
       "dropoffAddress" = '', "dropoffLat" = NULL, "dropoffLng" = NULL,
       notes = '', "cancelReason" = '', version = version + 1, "updatedAt" = now()
 WHERE "orgId" = %(org_id)s::uuid AND id = ANY (ARRAY(
       SELECT b.id FROM "Booking" AS b
        WHERE b."orgId" = %(org_id)s::uuid AND b."studentId" = %(student_id)s::uuid
        ORDER BY b.id FOR NO KEY UPDATE))
RETURNING id;

-- name: erase_transitions
-- Takes the reasons out of the history of bookings.
UPDATE "BookingTransition" SET reason = ''
 WHERE "orgId" = %(org_id)s::uuid AND "bookingId" = ANY (%(booking_ids)s::uuid[])
   AND reason <> '';

-- name: erase_lessons
-- Takes the notes out of a student's lessons.
UPDATE "Lesson" SET notes = '', "updatedAt" = now()
 WHERE "orgId" = %(org_id)s::uuid AND "studentId" = %(student_id)s::uuid AND notes <> '';

-- name: erase_guardians
-- Removes those who answer for this student alone.
DELETE FROM "Guardian" AS g
 WHERE g."orgId" = %(org_id)s::uuid
   AND g.id = ANY (ARRAY(
         SELECT l."guardianId" FROM "StudentGuardian" AS l
          WHERE l."orgId" = %(org_id)s::uuid AND l."studentId" = %(student_id)s::uuid))
   AND NOT EXISTS (
         SELECT 1 FROM "StudentGuardian" AS other
          WHERE other."orgId" = %(org_id)s::uuid AND other."guardianId" = g.id
            AND other."studentId" <> %(student_id)s::uuid)
RETURNING g.id;

-- name: unlink_guardians
-- Those who answer for a sibling too no longer answer for this student.
DELETE FROM "StudentGuardian"
 WHERE "orgId" = %(org_id)s::uuid AND "studentId" = %(student_id)s::uuid;

-- name: leave_waitlists
-- Takes a student off the waitlist.
UPDATE "WaitlistEntry" SET status = 'left', version = version + 1, "updatedAt" = now()
 WHERE "orgId" = %(org_id)s::uuid AND "studentId" = %(student_id)s::uuid
   AND status IN ('waiting', 'offered')
RETURNING id;

-- name: erase_audit_entries
-- Replaces the values of audit entries: the one change that the audit log allows.
UPDATE "AuditLog" AS a SET before = e.before::jsonb, after = e.after::jsonb
  FROM unnest(%(ids)s::uuid[], %(befores)s::text[], %(afters)s::text[]) AS e (id, before, after)
 WHERE a."orgId" = %(org_id)s::uuid AND a.id = e.id;

-- name: find_answers
-- Answers kept for request ids in which the student's id occurs.
SELECT subject, method, "requestId", response
  FROM "IdempotencyKey"
 WHERE "orgId" = %(org_id)s::uuid
   AND position(convert_to(%(student_id)s::uuid::text, 'UTF8') IN response) > 0;

-- name: replace_answer
-- Keeps an answer without what named the student.
UPDATE "IdempotencyKey" SET response = %(response)s::bytea
 WHERE "orgId" = %(org_id)s::uuid AND subject = %(subject)s::text AND method = %(method)s::text
   AND "requestId" = %(request_id)s::uuid;

-- name: erase_student
-- Takes away what names a student. The version rises with each event that tells of it.
UPDATE "Student"
   SET "fullName" = %(full_name)s::text, phone = '', email = '', dob = NULL, notes = '',
       "erasedAt" = %(erased_at)s::timestamptz, version = version + %(events)s::int,
       "updatedAt" = now()
 WHERE "orgId" = %(org_id)s::uuid AND id = %(student_id)s::uuid
RETURNING {columns};
