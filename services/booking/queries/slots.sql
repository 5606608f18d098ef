-- part: hours
-- From ask (no, "instructorId", lo, hi): hours (no, hours), the times within [lo, hi) at which the
-- instructor works: weekly rules without what exceptions close, and what they open besides. The
-- zone comes as periods of one offset; a date of a period has a midnight, which the minutes of a
-- rule are added to, and what then lies outside of the period is cut off. Looked up for each day of
-- each of ask by instructor: joined, the hours of the whole school would be read.
zone AS (
  SELECT z.lo, z.hi, make_interval(secs => z.offset_s) AS ahead, z.offset_s
    FROM unnest(%(zone_starts)s::timestamptz[], %(zone_ends)s::timestamptz[],
                %(zone_offsets_s)s::int[]) AS z (lo, hi, offset_s)
), hours AS MATERIALIZED (
  SELECT a.no,
         coalesce(h.ruled, tstzmultirange()) - coalesce(h.closed, tstzmultirange())
           + coalesce(h.extra, tstzmultirange()) AS hours
    FROM ask AS a
   CROSS JOIN LATERAL (
         SELECT range_agg(t.span) FILTER (WHERE t.kind = 'ruled') AS ruled,
                range_agg(t.span) FILTER (WHERE t.kind = 'closed') AS closed,
                range_agg(t.span) FILTER (WHERE t.kind = 'extra') AS extra
           FROM (SELECT w.kind, tstzrange(greatest(a.lo, z.lo), least(a.hi, z.hi))
                          * tstzrange(d.midnight + make_interval(mins => w."startMinute"),
                                      d.midnight + make_interval(mins => w."endMinute")) AS span
                   FROM zone AS z
                  CROSS JOIN LATERAL (
                        SELECT day::date AS date, (day - z.ahead) AT TIME ZONE 'UTC' AS midnight
                          FROM generate_series(
                                date_trunc('day', greatest(a.lo, z.lo) AT TIME ZONE 'UTC' + z.ahead),
                                date_trunc('day', least(a.hi, z.hi) AT TIME ZONE 'UTC' + z.ahead),
                                make_interval(days => 1)) AS day) AS d
                  CROSS JOIN LATERAL (
                        SELECT 'ruled' AS kind, r."startMinute", r."endMinute"
                          FROM "InstructorAvailability" AS r
                         WHERE r."orgId" = %(org_id)s::uuid
                           AND r."instructorId" = a."instructorId"
                           AND r."dayOfWeek" = pg_catalog.extract('dow', d.date)::int
                           AND r."effectiveFrom" <= d.date
                           AND (r."effectiveTo" IS NULL OR r."effectiveTo" >= d.date)
                         UNION ALL
                        SELECT CASE WHEN e."isAvailable" THEN 'extra' ELSE 'closed' END,
                               coalesce(e."startMinute", 0), coalesce(e."endMinute", 1440)
                          FROM "AvailabilityException" AS e
                         WHERE e."orgId" = %(org_id)s::uuid
                           AND e."instructorId" = a."instructorId" AND e.date = d.date) AS w
                  WHERE z.lo < a.hi AND z.hi > a.lo) AS t) AS h
)

-- part: taken
-- From ask (no, "instructorId", busy_lo, busy_hi): taken (no, busy), the times in which live
-- bookings take the instructor, buffers included. Overdue holds take nothing. The two bounds on
-- "startAt" reach the index, which && can't under row security; a CHECK caps busy at 24 hours. The
-- lower one is a row: two plain bounds are taken for so narrow a range that the school's bookings of
-- those days seem no more than the instructor's.
-- Looked up for each of ask: joined, all live bookings of the school would be read.
taken AS MATERIALIZED (
  SELECT a.no, t.busy
    FROM ask AS a
   CROSS JOIN LATERAL (
         SELECT range_agg(b.busy) AS busy
           FROM "Booking" AS b
          WHERE b."orgId" = %(org_id)s::uuid AND b."instructorId" = a."instructorId"
            AND b."startAt" < a.busy_hi + make_interval(hours => 24)
            AND (b."startAt", b.id)
                >= (a.busy_lo - make_interval(hours => 24), %(first_id)s::uuid)
            AND b.busy && tstzrange(a.busy_lo, a.busy_hi)
            AND (b.status IN ('confirmed', 'in_progress')
                 OR b.status IN ('held', 'requested') AND b."holdExpiresAt" > %(now)s::timestamptz)
            AND b.id <> ALL (%(except_ids)s::uuid[])) AS t
)

-- name: search_slots
-- Free starts of a lesson type by start and instructor, behind the row (start, instructor). Hours
-- shrunk by the lesson, less bookings grown by lesson and buffers, are when a lesson may start;
-- starts lie on the clock's grid there.
WITH lesson AS (
  SELECT s."durationMin", s."bufferBeforeMin", s."bufferAfterMin", s."slotStepMin",
         o."travelBufferMin", o.currency,
         greatest(%(from_at)s::timestamptz,
                  %(now)s::timestamptz + make_interval(mins => o."noticeMinutes")) AS earliest
    FROM "Service" AS s
    JOIN "Org" AS o ON o.id = %(org_id)s::uuid
   WHERE s."orgId" = %(org_id)s::uuid AND s.id = %(service_id)s::uuid AND s.active
     AND o."suspendedAt" IS NULL
), ask AS (
  SELECT row_number() OVER () AS no, i.id AS "instructorId", i."calendarVersion",
         make_interval(mins => l."durationMin") AS duration,
         make_interval(mins => greatest(
           l."bufferBeforeMin", coalesce(i."travelBufferMin", l."travelBufferMin"))) AS before,
         make_interval(mins => l."bufferAfterMin") AS after,
         l.earliest AS lo,
         %(to_at)s::timestamptz + make_interval(mins => l."durationMin") AS hi,
         l.earliest - make_interval(hours => 4) AS busy_lo,
         %(to_at)s::timestamptz + make_interval(mins => l."durationMin" + 240) AS busy_hi
    FROM "Instructor" AS i
   CROSS JOIN lesson AS l
   WHERE i."orgId" = %(org_id)s::uuid AND i.active
     AND (%(instructor_id)s::uuid IS NULL OR i.id = %(instructor_id)s::uuid)
     AND l.earliest < %(to_at)s::timestamptz
), {hours}, {taken},
startable AS (
  SELECT a."instructorId", a."calendarVersion", a.duration,
         ((SELECT coalesce(range_agg(tstzrange(lower(w), upper(w) - a.duration, '[]')),
                           tstzmultirange())
             FROM unnest(h.hours) AS w WHERE upper(w) - lower(w) >= a.duration)
          - (SELECT coalesce(range_agg(tstzrange(lower(b) - a.duration - a.after,
                                                 upper(b) + a.before, '()')), tstzmultirange())
               FROM unnest(t.busy) AS b))
         * tstzmultirange(tstzrange(a.lo, %(to_at)s::timestamptz)) AS starts
    FROM ask AS a
    JOIN hours AS h ON h.no = a.no
    LEFT JOIN taken AS t ON t.no = a.no
), price AS (
  SELECT p."priceCents", p."validFrom", coalesce(p."validTo", 'infinity'::date) AS "validTo"
    FROM "RateCardItem" AS p
   WHERE p."orgId" = %(org_id)s::uuid AND p."serviceId" = %(service_id)s::uuid
)
SELECT slot.start_at, slot.start_at + c.duration, c."instructorId", p."priceCents",
       (SELECT currency FROM lesson), c."calendarVersion"
  FROM startable AS c
 CROSS JOIN LATERAL unnest(c.starts) AS r (free)
  JOIN zone AS z ON z.lo <= upper(r.free) AND z.hi > lower(r.free)
 CROSS JOIN (SELECT "slotStepMin" * 60 AS step_s FROM lesson) AS g
 CROSS JOIN LATERAL generate_series(
         to_timestamp((ceil((pg_catalog.extract('epoch', greatest(lower(r.free), z.lo)) + z.offset_s)
                            / g.step_s) * g.step_s - z.offset_s)::float8),
         least(upper(r.free), z.hi), make_interval(secs => g.step_s)) AS slot (start_at)
  JOIN price AS p
    ON (slot.start_at AT TIME ZONE 'UTC' + z.ahead)::date BETWEEN p."validFrom" AND p."validTo"
 WHERE r.free @> slot.start_at AND slot.start_at < z.hi
   AND (slot.start_at, c."instructorId") > (%(after_at)s::timestamptz, %(after_id)s::uuid)
 ORDER BY slot.start_at, c."instructorId"
 LIMIT %(limit)s::int;

-- name: nearest_slots
-- The free starts of an instructor nearest to a time, for the answer to who came too late: as
-- search_slots, on the grid of the time itself, and only where student and vehicle are free too.
WITH ask AS (
  SELECT 1 AS no, %(instructor_id)s::uuid AS "instructorId",
         greatest(%(from_at)s::timestamptz, %(earliest)s::timestamptz) AS lo,
         %(to_at)s::timestamptz AS hi,
         %(from_at)s::timestamptz - make_interval(hours => 4) AS busy_lo,
         %(to_at)s::timestamptz + make_interval(hours => 4) AS busy_hi
), {hours}, {taken},
elsewhere AS (
  SELECT coalesce(v.starts, tstzmultirange()) + coalesce(s.starts, tstzmultirange()) AS starts
    FROM ask AS a
   CROSS JOIN LATERAL (
         SELECT range_agg(tstzrange(
                  lower(b.busy) - make_interval(mins => %(duration_min)s::int + %(after_min)s::int),
                  upper(b.busy) + make_interval(mins => %(before_min)s::int), '()')) AS starts
           FROM "Booking" AS b
          WHERE b."orgId" = %(org_id)s::uuid AND b."vehicleId" = %(vehicle_id)s::uuid
            AND b."startAt" < a.busy_hi + make_interval(hours => 24)
            AND (b."startAt", b.id)
                >= (a.busy_lo - make_interval(hours => 24), %(first_id)s::uuid)
            AND (b.status IN ('confirmed', 'in_progress')
                 OR b.status IN ('held', 'requested') AND b."holdExpiresAt" > %(now)s::timestamptz)
            AND b.id <> ALL (%(except_ids)s::uuid[])) AS v
   CROSS JOIN LATERAL (
         SELECT range_agg(tstzrange(
                  b."startAt" - make_interval(mins => %(duration_min)s::int), b."endAt", '()'))
                AS starts
           FROM "Booking" AS b
          WHERE b."orgId" = %(org_id)s::uuid AND b."studentId" = %(student_id)s::uuid
            AND b."startAt" < a.busy_hi
            AND (b."startAt", b.id)
                >= (a.busy_lo - make_interval(hours => 24), %(first_id)s::uuid)
            AND (b.status IN ('confirmed', 'in_progress')
                 OR b.status IN ('held', 'requested') AND b."holdExpiresAt" > %(now)s::timestamptz)
            AND b.id <> ALL (%(except_ids)s::uuid[])) AS s
), startable AS (
  SELECT ((SELECT coalesce(range_agg(tstzrange(
                    lower(w), upper(w) - make_interval(mins => %(duration_min)s::int), '[]')),
                    tstzmultirange())
             FROM unnest(h.hours) AS w
            WHERE upper(w) - lower(w) >= make_interval(mins => %(duration_min)s::int))
          - (SELECT coalesce(range_agg(tstzrange(
                      lower(b) - make_interval(mins => %(duration_min)s::int + %(after_min)s::int),
                      upper(b) + make_interval(mins => %(before_min)s::int), '()')),
                      tstzmultirange())
               FROM unnest(t.busy) AS b)
          - (SELECT e.starts FROM elsewhere AS e)) AS starts
    FROM hours AS h
    LEFT JOIN taken AS t ON t.no = h.no
)
SELECT slot.start_at
  FROM startable AS c
 CROSS JOIN LATERAL unnest(c.starts) AS r (free)
  JOIN zone AS z ON z.lo <= upper(r.free) AND z.hi > lower(r.free)
 CROSS JOIN LATERAL generate_series(
         to_timestamp((ceil((pg_catalog.extract('epoch', greatest(lower(r.free), z.lo)) + z.offset_s)
                            / (%(step_min)s::int * 60)) * %(step_min)s::int * 60
                       - z.offset_s)::float8),
         least(upper(r.free), z.hi), make_interval(mins => %(step_min)s::int)) AS slot (start_at)
 WHERE r.free @> slot.start_at AND slot.start_at < z.hi
 ORDER BY greatest(slot.start_at - %(at)s::timestamptz, %(at)s::timestamptz - slot.start_at),
          slot.start_at
 LIMIT 3;

-- name: judge_starts
-- Whether lessons could start as wanted: all that decides it, one row for each in the order given.
-- wanted is a JSON array of objects; the calendar is judged by the same hours and taken times as a
-- search. id is the one that a booking gets, and at the time of the transaction. LIMIT 1 keeps each
-- look-up one by key: how many are wanted is not to be guessed from a JSON array.
WITH ask AS (
  SELECT w.no, w.instructor_id AS "instructorId", w.service_id AS "serviceId",
         w.student_id AS "studentId", w.vehicle_id AS "vehicleId", w.local_date AS "localDate",
         o."timeZone", o."holdMinutes", o."noticeMinutes", o."platformFeeBps", o.currency,
         o."suspendedAt", s.id AS "foundService", i.id AS "foundInstructor",
         st.id AS "foundStudent", st."erasedAt", v.id AS "foundVehicle",
         v.active AS "vehicleActive", s.active AS "serviceActive", i.active AS "instructorActive",
         i."calendarVersion", s."durationMin", b.before_min, s."bufferAfterMin", s."slotStepMin",
         w.start_at AS lo,
         w.start_at + make_interval(mins => s."durationMin") AS hi,
         w.start_at - make_interval(mins => b.before_min) AS busy_lo,
         w.start_at + make_interval(mins => s."durationMin" + s."bufferAfterMin") AS busy_hi
    FROM jsonb_to_recordset(%(wanted)s::jsonb) AS w (
           no int, instructor_id uuid, service_id uuid, student_id uuid, vehicle_id uuid,
           start_at timestamptz, local_date date)
    JOIN "Org" AS o ON o.id = %(org_id)s::uuid
    LEFT JOIN LATERAL (
         SELECT s.id, s."durationMin", s."bufferBeforeMin", s."bufferAfterMin", s."slotStepMin",
                s.active
           FROM "Service" AS s
          WHERE s."orgId" = %(org_id)s::uuid AND s.id = w.service_id LIMIT 1) AS s ON true
    LEFT JOIN LATERAL (
         SELECT i.id, i."travelBufferMin", i.active, i."calendarVersion"
           FROM "Instructor" AS i
          WHERE i."orgId" = %(org_id)s::uuid AND i.id = w.instructor_id LIMIT 1) AS i ON true
    LEFT JOIN LATERAL (
         SELECT st.id, st."erasedAt" FROM "Student" AS st
          WHERE st."orgId" = %(org_id)s::uuid AND st.id = w.student_id LIMIT 1) AS st ON true
    LEFT JOIN LATERAL (
         SELECT v.id, v.active FROM "Vehicle" AS v
          WHERE v."orgId" = %(org_id)s::uuid AND v.id = w.vehicle_id LIMIT 1) AS v ON true
   CROSS JOIN LATERAL (
         SELECT greatest(s."bufferBeforeMin",
                         coalesce(i."travelBufferMin", o."travelBufferMin"))) AS b (before_min)
), {hours}, {taken}
SELECT uuidv7(), now(), a."timeZone", a."holdMinutes", a."noticeMinutes", a."platformFeeBps",
       a.currency, a."suspendedAt" IS NOT NULL, a."foundService" IS NOT NULL,
       a."foundInstructor" IS NOT NULL, a."studentId" IS NULL OR a."foundStudent" IS NOT NULL,
       a."erasedAt" IS NOT NULL, a."vehicleId" IS NULL OR a."foundVehicle" IS NOT NULL,
       coalesce(a."vehicleActive", true), a."serviceActive", a."instructorActive",
       a."calendarVersion", a."durationMin", a.before_min, a."bufferAfterMin", a."slotStepMin",
       (SELECT p."priceCents" FROM "RateCardItem" AS p
         WHERE p."orgId" = %(org_id)s::uuid AND p."serviceId" = a."serviceId"
           AND p."validFrom" <= a."localDate"
           AND (p."validTo" IS NULL OR p."validTo" >= a."localDate")),
       h.hours @> tstzrange(a.lo, a.hi),
       coalesce(t.busy && tstzrange(a.busy_lo, a.busy_hi), false)
         OR EXISTS (SELECT FROM ask AS e
                     WHERE e."instructorId" = a."instructorId" AND e.no < a.no
                       AND e.busy_lo < a.busy_hi AND a.busy_lo < e.busy_hi),
       EXISTS (SELECT FROM "Booking" AS b
                WHERE b."orgId" = %(org_id)s::uuid AND b."vehicleId" = a."vehicleId"
                  AND b."startAt" < a.busy_hi + make_interval(hours => 24)
                  AND (b."startAt", b.id)
                      >= (a.busy_lo - make_interval(hours => 24), %(first_id)s::uuid)
                  AND b.busy && tstzrange(a.busy_lo, a.busy_hi)
                  AND (b.status IN ('confirmed', 'in_progress') OR b.status IN ('held', 'requested')
                       AND b."holdExpiresAt" > %(now)s::timestamptz)
                  AND b.id <> ALL (%(except_ids)s::uuid[]))
         OR EXISTS (SELECT FROM ask AS e
                     WHERE e."vehicleId" = a."vehicleId" AND e.no < a.no
                       AND e.busy_lo < a.busy_hi AND a.busy_lo < e.busy_hi),
       EXISTS (SELECT FROM "Booking" AS b
                WHERE b."orgId" = %(org_id)s::uuid AND b."studentId" = a."studentId"
                  AND b."startAt" < a.hi
                  AND (b."startAt", b.id)
                      >= (a.lo - make_interval(hours => 24), %(first_id)s::uuid)
                  AND b."endAt" > a.lo
                  AND (b.status IN ('confirmed', 'in_progress') OR b.status IN ('held', 'requested')
                       AND b."holdExpiresAt" > %(now)s::timestamptz)
                  AND b.id <> ALL (%(except_ids)s::uuid[]))
         OR EXISTS (SELECT FROM ask AS e
                     WHERE e."studentId" = a."studentId" AND e.no < a.no
                       AND e.lo < a.hi AND a.lo < e.hi),
       EXISTS (SELECT FROM "Booking" AS b
                WHERE b."orgId" = %(org_id)s::uuid AND b.status IN ('held', 'requested')
                  AND b."holdExpiresAt" <= %(now)s::timestamptz
                  AND (b."instructorId" = a."instructorId" OR b."vehicleId" = a."vehicleId"
                       OR b."studentId" = a."studentId"))
  FROM ask AS a
  JOIN hours AS h ON h.no = a.no
  JOIN taken AS t ON t.no = a.no
 ORDER BY a.no;

-- name: explain_hours
-- The weekly rules and exceptions of the local date, of an instructor, and whether each holds the
-- lesson's minutes of that date. Kinds: weekly_rule, closed, extra_hours.
SELECT 'weekly_rule' AS kind, r.id, r."startMinute", r."endMinute", '' AS note
  FROM "InstructorAvailability" AS r
 WHERE r."orgId" = %(org_id)s::uuid AND r."instructorId" = %(instructor_id)s::uuid
   AND r."effectiveFrom" <= %(date)s::date
   AND (r."effectiveTo" IS NULL OR r."effectiveTo" >= %(date)s::date)
   AND r."dayOfWeek" = pg_catalog.extract('dow', %(date)s::date)::int
 UNION ALL
SELECT CASE WHEN e."isAvailable" THEN 'extra_hours' ELSE 'closed' END, e.id,
       coalesce(e."startMinute", 0), coalesce(e."endMinute", 1440), e.note
  FROM "AvailabilityException" AS e
 WHERE e."orgId" = %(org_id)s::uuid AND e."instructorId" = %(instructor_id)s::uuid
   AND e.date = %(date)s::date
 ORDER BY 3, 4;

-- name: bookings_in_the_way
-- Live bookings of an instructor whose time, buffers included, overlaps another's. IS TRUE keeps the
-- planner from gathering the school's live bookings by status instead.
SELECT b.id, b."startAt", b."endAt", b."bufferBeforeMin", b."bufferAfterMin", b.status
  FROM "Booking" AS b
 WHERE b."orgId" = %(org_id)s::uuid AND b."instructorId" = %(instructor_id)s::uuid
   AND b."startAt" < %(busy_to)s::timestamptz + make_interval(hours => 24)
   AND (b."startAt", b.id)
       >= (%(busy_from)s::timestamptz - make_interval(hours => 24), %(first_id)s::uuid)
   AND b.busy && tstzrange(%(busy_from)s::timestamptz, %(busy_to)s::timestamptz)
   AND (b.status IN ('confirmed', 'in_progress') OR b.status IN ('held', 'requested')
        AND b."holdExpiresAt" > %(now)s::timestamptz) IS TRUE
 ORDER BY b."startAt"
 LIMIT 10;
