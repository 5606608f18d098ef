-- name: take_locks
-- Waits in line for each of the keys, in this order, until the transaction ends.
SELECT pg_advisory_xact_lock(key) FROM unnest(%(keys)s::bigint[]) AS key;

-- name: try_locks
-- Takes each of the keys that is free until the transaction ends; those that are not come back.
SELECT key FROM unnest(%(keys)s::bigint[]) AS key WHERE NOT pg_try_advisory_xact_lock(key);

-- name: get_calendar_version
-- The etag of an instructor's calendar.
SELECT "calendarVersion" FROM "Instructor"
 WHERE "orgId" = %(org_id)s::uuid AND id = %(instructor_id)s::uuid;

-- name: raise_calendar_version
-- Notes that an instructor's hours or their exceptions are about to change.
UPDATE "Instructor" SET "calendarVersion" = "calendarVersion" + 1
 WHERE "orgId" = %(org_id)s::uuid AND id = %(instructor_id)s::uuid
RETURNING "calendarVersion";

-- name: list_rules
-- An instructor's weekly hours that still hold on a date or later, by day, start and date.
SELECT id, "dayOfWeek", "startMinute", "endMinute", "effectiveFrom", "effectiveTo"
  FROM "InstructorAvailability"
 WHERE "orgId" = %(org_id)s::uuid AND "instructorId" = %(instructor_id)s::uuid
   AND ("effectiveTo" IS NULL OR "effectiveTo" >= %(since)s::date)
 ORDER BY "dayOfWeek", "startMinute", "effectiveFrom"
 LIMIT %(limit)s::int;

-- name: delete_rules
-- Takes away an instructor's weekly hours that would begin on a date or later.
DELETE FROM "InstructorAvailability"
 WHERE "orgId" = %(org_id)s::uuid AND "instructorId" = %(instructor_id)s::uuid
   AND "effectiveFrom" >= %(first)s::date;

-- name: end_rules
-- Ends an instructor's weekly hours that began before a date, on the day before it.
UPDATE "InstructorAvailability" SET "effectiveTo" = %(first)s::date - 1::int
 WHERE "orgId" = %(org_id)s::uuid AND "instructorId" = %(instructor_id)s::uuid
   AND "effectiveFrom" < %(first)s::date
   AND ("effectiveTo" IS NULL OR "effectiveTo" >= %(first)s::date);

-- name: add_rules
-- An instructor's new weekly hours.
INSERT INTO "InstructorAvailability" ("orgId", "instructorId", "dayOfWeek", "startMinute",
                                      "endMinute", "effectiveFrom", "effectiveTo")
SELECT %(org_id)s::uuid, %(instructor_id)s::uuid, r.day, r.start_minute, r.end_minute,
       r.effective_from, r.effective_to
  FROM unnest(%(days)s::int[], %(starts)s::int[], %(ends)s::int[], %(froms)s::date[],
              %(tos)s::date[]) AS r (day, start_minute, end_minute, effective_from, effective_to);

-- name: create_exception
-- Adds what is different on a date; the id is made here.
INSERT INTO "AvailabilityException" ("orgId", "instructorId", date, "isAvailable", "startMinute",
                                     "endMinute", note)
VALUES (%(org_id)s::uuid, %(instructor_id)s::uuid, %(date)s::date, %(available)s::boolean,
        %(start_minute)s::int, %(end_minute)s::int, %(note)s::text)
RETURNING id, "createdAt";

-- name: get_exception
-- What is different on a date.
SELECT id, "instructorId", date, "isAvailable", "startMinute", "endMinute", note, "createdAt"
  FROM "AvailabilityException"
 WHERE "orgId" = %(org_id)s::uuid AND id = %(exception_id)s::uuid;

-- name: delete_exception
-- Takes an exception back; no row when someone else has.
DELETE FROM "AvailabilityException"
 WHERE "orgId" = %(org_id)s::uuid AND id = %(exception_id)s::uuid
RETURNING id;

-- name: list_exceptions
-- A page of an instructor's exceptions by date and start, behind the row (date, start). A whole day
-- comes before its first minute.
SELECT {columns}
  FROM "AvailabilityException"
 WHERE "orgId" = %(org_id)s::uuid AND "instructorId" = %(instructor_id)s::uuid
   AND date >= %(date_from)s::date AND date <= %(date_to)s::date
   AND (date, coalesce("startMinute", -1)) > (%(after_date)s::date, %(after_place)s::int)
 ORDER BY date, coalesce("startMinute", -1)
 LIMIT %(limit)s::int;
