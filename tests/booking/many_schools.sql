-- Schools with their directory, hours, bookings, audit log and waitlist, made within the database.
-- %(schools)s of them with %(instructors)s instructors and %(students)s students each;
-- %(each)s bookings of each instructor. Ids tell what and whose: see made_id.

-- What was made in order needs no check of its foreign keys.
SET session_replication_role = replica;

-- Kinds: 0a school, 0b instructor, 0c lesson type, 0d car, 0e student, 0f rate card.
CREATE FUNCTION pg_temp.made_id(kind text, school int, n int) RETURNS uuid
LANGUAGE sql IMMUTABLE AS $$
  SELECT (kind || '000000-0000-7000-8000-' || lpad(to_hex(school), 6, '0')
          || lpad(to_hex(n), 6, '0'))::uuid
$$;

INSERT INTO booking."Org" (id, name)
SELECT pg_temp.made_id('0a', s, 0), 'School ' || s
  FROM generate_series(1, %(schools)s::int) AS s;

INSERT INTO booking."Service" ("orgId", id, name, "durationMin")
SELECT id, pg_temp.made_id('0c', s, 0), 'Lesson', 60
  FROM generate_series(1, %(schools)s::int) AS s
  JOIN booking."Org" ON id = pg_temp.made_id('0a', s, 0);

INSERT INTO booking."RateCard" ("orgId", id, name, "validFrom")
SELECT pg_temp.made_id('0a', s, 0), pg_temp.made_id('0f', s, 0), 'Prices', '2025-01-01'
  FROM generate_series(1, %(schools)s::int) AS s;

INSERT INTO booking."RateCardItem" ("orgId", "rateCardId", "serviceId", "priceCents", "validFrom")
SELECT pg_temp.made_id('0a', s, 0), pg_temp.made_id('0f', s, 0), pg_temp.made_id('0c', s, 0), 9000,
       '2025-01-01'
  FROM generate_series(1, %(schools)s::int) AS s;

INSERT INTO booking."Vehicle" ("orgId", id, label)
SELECT pg_temp.made_id('0a', s, 0), pg_temp.made_id('0d', s, i), 'Car ' || i
  FROM generate_series(1, %(schools)s::int) AS s,
       generate_series(1, %(instructors)s::int) AS i;

INSERT INTO booking."Instructor" ("orgId", id, "displayName", active)
SELECT pg_temp.made_id('0a', s, 0), pg_temp.made_id('0b', s, i), 'Instructor ' || i, i %% 5 > 0
  FROM generate_series(1, %(schools)s::int) AS s,
       generate_series(1, %(instructors)s::int) AS i;

INSERT INTO booking."Student" ("orgId", id, "fullName")
SELECT pg_temp.made_id('0a', s, 0), pg_temp.made_id('0e', s, i),
       left(md5(i::text), 6) || ' Student'
  FROM generate_series(1, %(schools)s::int) AS s,
       generate_series(0, %(students)s::int - 1) AS i;

-- Mornings and afternoons of five days, last season's and this one's.
INSERT INTO booking."InstructorAvailability" ("orgId", "instructorId", "dayOfWeek", "startMinute",
       "endMinute", "effectiveFrom", "effectiveTo")
SELECT i."orgId", i.id, day, start, start + 240, season.first, season.last
  FROM booking."Instructor" AS i
 CROSS JOIN generate_series(1, 5) AS day
 CROSS JOIN unnest(ARRAY[480, 780]) AS start
 CROSS JOIN (VALUES ('2025-01-01'::date, '2025-12-31'::date), ('2026-01-01', NULL))
            AS season (first, last);

-- A day off every other week of this year.
INSERT INTO booking."AvailabilityException" ("orgId", "instructorId", date, "isAvailable")
SELECT "orgId", id, '2026-01-01'::date + 14 * n, false
  FROM booking."Instructor" CROSS JOIN generate_series(0, 25) AS n;

-- Nine in ten lie behind, and most of those took place. Written in the order of time, so that a
-- school's rows lie among those of all others. Nobody and no car is at two lessons at once.
INSERT INTO booking."Booking" ("orgId", "studentId", "instructorId", "serviceId", "vehicleId",
       "startAt", "endAt", "bufferBeforeMin", "bufferAfterMin", status, "holdExpiresAt",
       "priceCents", "platformFeeCents", "instructorShareCents", currency)
SELECT pg_temp.made_id('0a', s, 0),
       pg_temp.made_id('0e', s, (k * %(instructors)s::int + i) %% %(students)s::int),
       pg_temp.made_id('0b', s, i), pg_temp.made_id('0c', s, 0),
       CASE WHEN k %% 2 = 0 THEN pg_temp.made_id('0d', s, i) END,
       c.at, c.at + make_interval(hours => 1), 15, 0, b.status,
       CASE WHEN b.status IN ('held', 'requested') THEN
         %(now)s::timestamptz + make_interval(mins => (k + i) %% 30 - 3) END,
       9000, 1350, 7650, 'AUD'
  FROM generate_series(0, %(each)s::int - 1) AS k
 CROSS JOIN generate_series(1, %(schools)s::int) AS s
 CROSS JOIN generate_series(1, %(instructors)s::int) AS i
 CROSS JOIN LATERAL (
       SELECT date_trunc('day', %(now)s::timestamptz) + make_interval(
                days => k / 6 - %(each)s::int * 9 / 60 - 1, mins => 1320 + k %% 6 * 90) AS at,
              (k * 7 + s * 3 + i * 13) %% 100 AS chance) AS c
 CROSS JOIN LATERAL (
       SELECT CASE WHEN c.at < %(now)s::timestamptz THEN
                CASE WHEN chance < 84 THEN 'completed' WHEN chance < 93 THEN 'cancelled'
                     WHEN chance < 98 THEN 'expired' ELSE 'no_show' END
              WHEN chance < 90 THEN 'confirmed' WHEN chance < 94 THEN 'held'
              WHEN chance < 97 THEN 'requested' ELSE 'cancelled' END AS status) AS b
 ORDER BY k, s, i;

-- Each booking was made by one of twenty members of staff.
INSERT INTO booking."AuditLog" ("orgId", "actorUserId", "entityType", "entityId", action,
       "createdAt")
SELECT "orgId", 'staff-' || right("orgId"::text, 12) || '-' || row_number() OVER (ORDER BY id) %% 20,
       'booking', id::text, 'create', "startAt" - make_interval(days => 14)
  FROM booking."Booking" ORDER BY id;

INSERT INTO booking."WaitlistEntry" ("orgId", "studentId", "serviceId", "startAt", "endAt", status)
SELECT pg_temp.made_id('0a', s, 0), pg_temp.made_id('0e', s, i), pg_temp.made_id('0c', s, 0),
       %(now)s::timestamptz, %(now)s::timestamptz + make_interval(days => 7),
       CASE n WHEN 1 THEN 'waiting' WHEN 2 THEN 'offered' ELSE 'lapsed' END
  FROM generate_series(1, %(schools)s::int) AS s
 CROSS JOIN generate_series(0, %(students)s::int - 1) AS i
 CROSS JOIN generate_series(1, 3) AS n
 WHERE n > 2 OR i %% 10 = 0;

RESET session_replication_role;
