-- name: join_waitlist
-- Puts a student on the waitlist. Foreign ids break the constraints.
INSERT INTO "WaitlistEntry" ("orgId", "studentId", "serviceId", "instructorId", "startAt", "endAt")
VALUES (%(org_id)s::uuid, %(student_id)s::uuid, %(service_id)s::uuid, %(instructor_id)s::uuid,
        %(start_at)s::timestamptz, %(end_at)s::timestamptz)
RETURNING {columns};

-- name: lock_waitlist_entry
-- An entry of the school, locked against other changes until the transaction ends.
SELECT {columns} FROM "WaitlistEntry"
 WHERE "orgId" = %(org_id)s::uuid AND id = %(entry_id)s::uuid FOR UPDATE;

-- name: set_waitlist_status
-- Moves an entry on, if it still has the status that was seen.
UPDATE "WaitlistEntry"
   SET status = %(status)s::text, "bookingId" = coalesce(%(booking_id)s::uuid, "bookingId"),
       version = version + 1, "updatedAt" = now()
 WHERE "orgId" = %(org_id)s::uuid AND id = %(entry_id)s::uuid AND status = %(seen)s::text
RETURNING {columns};

-- name: list_waitlist
-- A page of entries, first come first, behind the id.
SELECT {columns} FROM "WaitlistEntry"
 WHERE "orgId" = %(org_id)s::uuid AND id > %(after_id)s::uuid
 ORDER BY id LIMIT %(limit)s::int;

-- name: list_waitlist_with_status
-- A page of entries with one status, first come first, behind the id.
SELECT {columns} FROM "WaitlistEntry"
 WHERE "orgId" = %(org_id)s::uuid AND status = %(status)s::text AND id > %(after_id)s::uuid
 ORDER BY id LIMIT %(limit)s::int;

-- name: find_waiting
-- Entries that wait, first come first, behind the id.
SELECT {columns} FROM "WaitlistEntry"
 WHERE "orgId" = %(org_id)s::uuid AND status = 'waiting' AND id > %(after_id)s::uuid
 ORDER BY id LIMIT %(limit)s::int;

-- name: work_of_sweep
-- Whether a school has overdue holds, offers to look after, and entries that wait.
SELECT EXISTS (SELECT FROM "Booking" AS b
                WHERE b."orgId" = %(org_id)s::uuid AND b.status IN ('held', 'requested')
                  AND b."holdExpiresAt" <= %(now)s::timestamptz),
       EXISTS (SELECT FROM "WaitlistEntry" AS w
                WHERE w."orgId" = %(org_id)s::uuid AND w.status IN ('waiting', 'offered'));

-- name: lapse_waitlist
-- Ends entries whose times have passed, and offers that were not taken.
UPDATE "WaitlistEntry" AS w SET status = 'lapsed', version = version + 1, "updatedAt" = now()
 WHERE w."orgId" = %(org_id)s::uuid
   AND (w.status = 'waiting' AND w."endAt" <= %(now)s::timestamptz
        OR w.status = 'offered' AND (
             -- EXISTS would be answered from a list of all that ever expired or was cancelled.
             SELECT b.status FROM "Booking" AS b
              WHERE b."orgId" = %(org_id)s::uuid AND b.id = w."bookingId")
             IN ('expired', 'cancelled'))
RETURNING {columns};
