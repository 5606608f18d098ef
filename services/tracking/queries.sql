-- name: start_trip
-- Records a trip; its id is made here.
INSERT INTO "Trip" ("orgId", "lessonId", "lessonVerified", "instructorId", "vehicleId", "startedAt")
VALUES (%(org_id)s::uuid, %(lesson_id)s::uuid, %(lesson_verified)s::boolean,
        %(instructor_id)s::uuid, %(vehicle_id)s::uuid, %(started_at)s::timestamptz)
RETURNING {columns};

-- name: end_trip
-- Ends an open trip; no row when it has ended already.
UPDATE "Trip"
   SET status = 'ended', "endedAt" = %(ended_at)s::timestamptz, "endRecordedAt" = now(),
       version = version + 1, "updatedAt" = now()
 WHERE "orgId" = %(org_id)s::uuid AND id = %(trip_id)s::uuid AND status = 'open'
RETURNING {columns};

-- name: get_trip
-- A trip of the school.
SELECT {columns} FROM "Trip" WHERE "orgId" = %(org_id)s::uuid AND id = %(trip_id)s::uuid;

-- name: lock_trip
-- A trip of the school, locked against other changes until the transaction ends.
SELECT {columns} FROM "Trip" WHERE "orgId" = %(org_id)s::uuid AND id = %(trip_id)s::uuid FOR UPDATE;

-- name: list_trips
-- A page of trips, latest start first, behind the row (startedAt, id).
SELECT {columns} FROM "Trip"
 WHERE "orgId" = %(org_id)s::uuid
   AND ("startedAt", id) < (%(before_started_at)s::timestamptz, %(before_id)s::uuid)
   AND "startedAt" >= %(started_from)s::timestamptz
 ORDER BY "startedAt" DESC, id DESC
 LIMIT %(limit)s::int;

-- name: list_trips_of_lesson
-- A page of a lesson's trips, latest start first, behind the row (startedAt, id).
SELECT {columns} FROM "Trip"
 WHERE "orgId" = %(org_id)s::uuid AND "lessonId" = %(lesson_id)s::uuid
   AND ("startedAt", id) < (%(before_started_at)s::timestamptz, %(before_id)s::uuid)
   AND "startedAt" >= %(started_from)s::timestamptz
 ORDER BY "startedAt" DESC, id DESC
 LIMIT %(limit)s::int;

-- name: trip_windows
-- The windows of trips, by which ingest judges points. Foreign, unknown and erased ids give no row.
SELECT id, "startedAt", "endedAt", "endRecordedAt"
  FROM "Trip"
 WHERE "orgId" = %(org_id)s::uuid AND id = ANY (%(trip_ids)s::uuid[]) AND "erasedAt" IS NULL;

-- name: save_summary
-- Keeps what was derived from a trip's points, if nobody kept a later version meanwhile.
UPDATE "Trip"
   SET "pointCount" = %(point_count)s::bigint, "distanceMeters" = %(distance_meters)s::float8,
       "durationSeconds" = %(duration_seconds)s::bigint,
       "movingSeconds" = %(moving_seconds)s::bigint, "maxSpeedKph" = %(max_speed_kph)s::float8,
       "avgSpeedKph" = %(avg_speed_kph)s::float8, "minLat" = %(min_lat)s::numeric,
       "minLng" = %(min_lng)s::numeric, "maxLat" = %(max_lat)s::numeric,
       "maxLng" = %(max_lng)s::numeric, route = %(route)s::text,
       "pointsHash" = %(points_hash)s::bytea, version = version + 1, "updatedAt" = now()
 WHERE "orgId" = %(org_id)s::uuid AND id = %(trip_id)s::uuid
RETURNING {columns};

-- name: delete_driving_events
-- Makes room for a trip's driving events, derived anew.
DELETE FROM "DrivingEvent" WHERE "orgId" = %(org_id)s::uuid AND "tripId" = %(trip_id)s::uuid;

-- name: add_driving_events
-- Keeps the driving events derived from a trip's points.
INSERT INTO "DrivingEvent" ("orgId", "tripId", ts, kind, value)
SELECT %(org_id)s::uuid, %(trip_id)s::uuid, e.ts, e.kind, e.value
  FROM unnest(%(times)s::timestamptz[], %(kinds)s::text[], %(values)s::float8[]) AS e (ts, kind, value);

-- name: list_driving_events
-- A page of a trip's driving events, earliest first, behind the row (ts, kind).
SELECT {columns}
  FROM "DrivingEvent"
 WHERE "orgId" = %(org_id)s::uuid AND "tripId" = %(trip_id)s::uuid
   AND (ts, kind) > (%(after_ts)s::timestamptz, %(after_kind)s::text)
 ORDER BY ts, kind
 LIMIT %(limit)s::int;

-- name: unsettled_trips
-- Trips whose end was recorded long enough ago to compare their summary with their points.
SELECT id
  FROM "Trip"
 WHERE "orgId" = %(org_id)s::uuid AND "settledAt" IS NULL
   AND "endRecordedAt" < %(recorded_before)s::timestamptz
 ORDER BY "endRecordedAt"
 LIMIT %(limit)s::int;

-- name: settle_trip
-- Notes that a trip's summary was compared with its points.
UPDATE "Trip" SET "settledAt" = now() WHERE "orgId" = %(org_id)s::uuid AND id = %(trip_id)s::uuid;

-- name: unsettle_trips
-- Late points are about to be stored: whatever happens then, the sweep looks at the trips again.
UPDATE "Trip" SET "settledAt" = NULL
 WHERE "orgId" = %(org_id)s::uuid AND id = ANY (%(trip_ids)s::uuid[]) AND "settledAt" IS NOT NULL;

-- name: set_legal_hold
-- Puts a trip on legal hold or takes it off.
UPDATE "Trip" SET "legalHold" = %(hold)s::boolean, version = version + 1, "updatedAt" = now()
 WHERE "orgId" = %(org_id)s::uuid AND id = %(trip_id)s::uuid
RETURNING {columns};

-- name: list_points
-- Points of a trip by time, from its window: only the months of the window are read, and no more
-- points of them than asked for. Held points are in both tables until their month is dropped.
SELECT DISTINCT ON (ts) {columns}
  FROM ((SELECT ts, lat, lng, "speedKph" FROM "TripPoint"
          WHERE "orgId" = %(org_id)s::uuid AND "tripId" = %(trip_id)s::uuid
            AND ts > %(after)s::timestamptz AND ts < %(before)s::timestamptz
          ORDER BY ts LIMIT %(limit)s::int)
        UNION ALL
        (SELECT ts, lat, lng, "speedKph" FROM "HeldTripPoint"
          WHERE "orgId" = %(org_id)s::uuid AND "tripId" = %(trip_id)s::uuid
            AND ts > %(after)s::timestamptz AND ts < %(before)s::timestamptz
          ORDER BY ts LIMIT %(limit)s::int)) AS p
 ORDER BY ts
 LIMIT %(limit)s::int;

-- name: latest_point
-- The point with the latest fix time.
SELECT ts, lat, lng, "speedKph"
  FROM ((SELECT ts, lat, lng, "speedKph" FROM "TripPoint"
          WHERE "orgId" = %(org_id)s::uuid AND "tripId" = %(trip_id)s::uuid
            AND ts >= %(from_ts)s::timestamptz AND ts < %(before)s::timestamptz
          ORDER BY ts DESC LIMIT 1)
        UNION ALL
        (SELECT ts, lat, lng, "speedKph" FROM "HeldTripPoint"
          WHERE "orgId" = %(org_id)s::uuid AND "tripId" = %(trip_id)s::uuid
            AND ts >= %(from_ts)s::timestamptz AND ts < %(before)s::timestamptz
          ORDER BY ts DESC LIMIT 1)) AS p
 ORDER BY ts DESC
 LIMIT 1;

-- name: read_points
-- All points of a trip as stored integers, for its summary: time in us, degrees in millionths,
-- speed in hundredths of km/h (-1 = none).
SELECT DISTINCT ON (ts) (pg_catalog.extract('epoch', ts) * 1000000)::bigint, (lat * 1000000)::int,
       (lng * 1000000)::int, coalesce(("speedKph" * 100)::int, -1)
  FROM ((SELECT ts, lat, lng, "speedKph" FROM "TripPoint"
          WHERE "orgId" = %(org_id)s::uuid AND "tripId" = %(trip_id)s::uuid
            AND ts > %(after)s::timestamptz AND ts < %(before)s::timestamptz
          ORDER BY ts LIMIT %(limit)s::int)
        UNION ALL
        (SELECT ts, lat, lng, "speedKph" FROM "HeldTripPoint"
          WHERE "orgId" = %(org_id)s::uuid AND "tripId" = %(trip_id)s::uuid
            AND ts > %(after)s::timestamptz AND ts < %(before)s::timestamptz
          ORDER BY ts LIMIT %(limit)s::int)) AS p
 ORDER BY ts
 LIMIT %(limit)s::int;

-- name: count_points
-- How many points a trip has, to compare with its summary.
SELECT count(*)
  FROM "TripPoint"
 WHERE "orgId" = %(org_id)s::uuid AND "tripId" = %(trip_id)s::uuid
   AND ts >= %(from_ts)s::timestamptz AND ts < %(before)s::timestamptz;

-- name: open_upload
-- Makes an upload, or takes it over: whoever had it open can store nothing more.
INSERT INTO "GpsUpload" ("orgId", subject, "uploadId", gateway)
VALUES (%(org_id)s::uuid, %(subject)s::text, %(upload_id)s::uuid, %(gateway)s::text)
ON CONFLICT ("orgId", subject, "uploadId") DO UPDATE
   SET epoch = "GpsUpload".epoch + 1, gateway = EXCLUDED.gateway, "updatedAt" = now()
 WHERE "GpsUpload"."orgId" = %(org_id)s::uuid
RETURNING epoch, "durableThrough";

-- name: forget_unacknowledged_rejections
-- Rejected points of batches that were never acknowledged come again, perhaps cut otherwise.
DELETE FROM "RejectedPoint"
 WHERE "orgId" = %(org_id)s::uuid AND subject = %(subject)s::text
   AND "uploadId" = %(upload_id)s::uuid AND sequence > %(durable_through)s::bigint;

-- name: get_upload
-- How far an upload of the caller is stored.
SELECT gateway, epoch, "durableThrough", "updatedAt"
  FROM "GpsUpload"
 WHERE "orgId" = %(org_id)s::uuid AND subject = %(subject)s::text AND "uploadId" = %(upload_id)s::uuid;

-- name: lock_uploads
-- platform: uploads of one flush, of any schools, in key order so that two flushes can't deadlock.
SELECT u."orgId", u.subject, u."uploadId", u.epoch, u."durableThrough"
  FROM "GpsUpload" AS u
  JOIN unnest(%(org_ids)s::uuid[], %(subjects)s::text[], %(upload_ids)s::uuid[])
       AS k ("orgId", subject, "uploadId") USING ("orgId", subject, "uploadId")
 ORDER BY u."orgId", u.subject, u."uploadId"
   FOR UPDATE OF u;

-- name: move_marks
-- platform: the marks of one flush, of any schools, in the transaction of its points.
UPDATE "GpsUpload" AS u
   SET "durableThrough" = k.through, "updatedAt" = now()
  FROM unnest(%(org_ids)s::uuid[], %(subjects)s::text[], %(upload_ids)s::uuid[], %(through)s::bigint[])
       AS k ("orgId", subject, "uploadId", through)
 WHERE u."orgId" = k."orgId" AND u.subject = k.subject AND u."uploadId" = k."uploadId";

-- name: lock_upload
-- One upload of the school, locked until the transaction ends.
SELECT epoch, "durableThrough"
  FROM "GpsUpload"
 WHERE "orgId" = %(org_id)s::uuid AND subject = %(subject)s::text AND "uploadId" = %(upload_id)s::uuid
   FOR UPDATE;

-- name: move_mark
-- The mark of one upload, in the transaction of its points.
UPDATE "GpsUpload" SET "durableThrough" = %(through)s::bigint, "updatedAt" = now()
 WHERE "orgId" = %(org_id)s::uuid AND subject = %(subject)s::text AND "uploadId" = %(upload_id)s::uuid;

-- name: add_new_points
-- The slow path: stores the points that are not there yet and says how many that were.
INSERT INTO "TripPoint" ("orgId", "tripId", ts, lat, lng, "speedKph")
SELECT %(org_id)s::uuid, p."tripId", p.ts, p.lat, p.lng, p."speedKph"
  FROM unnest(%(trip_ids)s::uuid[], %(times)s::timestamptz[], %(lats)s::numeric[],
              %(lngs)s::numeric[], %(speeds)s::numeric[]) AS p ("tripId", ts, lat, lng, "speedKph")
ON CONFLICT ("tripId", ts) DO NOTHING;

-- name: count_rejected
-- Takes room among the rejected points that a school may keep a day; how many fit.
INSERT INTO "RejectedPointCount" AS c ("orgId", day, kept, "notKept")
VALUES (%(org_id)s::uuid, (now() AT TIME ZONE 'UTC')::date, least(%(count)s::bigint, %(limit)s::bigint),
        greatest(%(count)s::bigint - %(limit)s::bigint, 0))
ON CONFLICT ("orgId", day) DO UPDATE
   SET kept = least(c.kept + %(count)s::bigint, %(limit)s::bigint),
       "notKept" = c."notKept" + greatest(c.kept + %(count)s::bigint - %(limit)s::bigint, 0)
 WHERE c."orgId" = %(org_id)s::uuid
RETURNING kept - coalesce(old.kept, 0);

-- name: reject_points
-- Keeps points that could not be stored, as they were received.
INSERT INTO "RejectedPoint" ("orgId", subject, "uploadId", sequence, index, reason, "tripId",
                             "timeSeconds", "timeNanos", lat, lng, "speedKph")
SELECT %(org_id)s::uuid, %(subject)s::text, %(upload_id)s::uuid, p.sequence, p.index, p.reason,
       p."tripId", p.seconds, p.nanos, p.lat, p.lng, p.speed
  FROM unnest(%(sequences)s::bigint[], %(indexes)s::int[], %(reasons)s::text[], %(trip_ids)s::text[],
              %(seconds)s::bigint[], %(nanos)s::int[], %(lats)s::float8[], %(lngs)s::float8[],
              %(speeds)s::float8[])
       AS p (sequence, index, reason, "tripId", seconds, nanos, lat, lng, speed)
ON CONFLICT ("orgId", subject, "uploadId", sequence, index) DO UPDATE
   SET reason = EXCLUDED.reason, "tripId" = EXCLUDED."tripId",
       "timeSeconds" = EXCLUDED."timeSeconds", "timeNanos" = EXCLUDED."timeNanos",
       lat = EXCLUDED.lat, lng = EXCLUDED.lng, "speedKph" = EXCLUDED."speedKph"
 WHERE "RejectedPoint"."orgId" = %(org_id)s::uuid;

-- name: list_rejected_points
-- A page of rejected points, latest received first, behind the row id.
SELECT {columns}
  FROM "RejectedPoint"
 WHERE "orgId" = %(org_id)s::uuid AND id < %(before_id)s::uuid
   AND (%(reason)s::text IS NULL OR reason = %(reason)s::text)
   AND (%(upload_id)s::uuid IS NULL OR "uploadId" = %(upload_id)s::uuid)
 ORDER BY id DESC
 LIMIT %(limit)s::int;

-- name: lock_rejected_points
-- Rejected points to judge again, oldest first; those that another call is judging are left out.
SELECT id, "tripId", "timeSeconds", "timeNanos", lat, lng, "speedKph", reason
  FROM "RejectedPoint"
 WHERE "orgId" = %(org_id)s::uuid
   AND (%(reason)s::text IS NULL OR reason = %(reason)s::text)
   AND (%(upload_id)s::uuid IS NULL OR "uploadId" = %(upload_id)s::uuid)
 ORDER BY id
 LIMIT %(limit)s::int
   FOR UPDATE SKIP LOCKED;

-- name: count_rejected_points
-- How many rejected points match.
SELECT count(*)
  FROM "RejectedPoint"
 WHERE "orgId" = %(org_id)s::uuid
   AND (%(reason)s::text IS NULL OR reason = %(reason)s::text)
   AND (%(upload_id)s::uuid IS NULL OR "uploadId" = %(upload_id)s::uuid);

-- name: delete_rejected_points
-- Rejected points that have been stored after all.
DELETE FROM "RejectedPoint" WHERE "orgId" = %(org_id)s::uuid AND id = ANY (%(ids)s::uuid[]);

-- name: sweep_rejected_points
-- Rejected points past their keeping, a few at a time; ids are in the order of time.
DELETE FROM "RejectedPoint"
 WHERE "orgId" = %(org_id)s::uuid AND id = ANY (ARRAY(
       SELECT id FROM "RejectedPoint"
        WHERE "orgId" = %(org_id)s::uuid AND "createdAt" < %(created_before)s::timestamptz
        ORDER BY id LIMIT 1000));

-- name: list_partitions
-- platform: the months of "TripPoint" from the catalog, earliest first.
SELECT c.relname, pg_get_expr(c.relpartbound, c.oid), c.reltuples::bigint,
       pg_total_relation_size(c.oid), i.inhdetachpending
  FROM pg_inherits AS i
  JOIN pg_class AS c ON c.oid = i.inhrelid
 WHERE i.inhparent = '"TripPoint"'::regclass
 ORDER BY c.relname;

-- name: list_condemned_partitions
-- platform: months that retention has detached and not dropped yet, by the note it left on them.
SELECT c.relname
  FROM pg_class AS c
  JOIN pg_class AS parent
    ON parent.oid = '"TripPoint"'::regclass AND parent.relnamespace = c.relnamespace
 WHERE c.relkind = 'r' AND NOT c.relispartition
   AND obj_description(c.oid, 'pg_class') = %(note)s::text
 ORDER BY c.relname;

-- name: create_monthly_partition
-- platform: makes the partition of a month; whether it was missing.
SELECT create_monthly_partition('TripPoint', %(month)s::date);

-- name: dropped_trips
-- Trips of a school with points in a month that retention is about to drop; a page, behind the id.
SELECT t.id, t.status, t."legalHold", p.points
  FROM "Trip" AS t
 CROSS JOIN LATERAL (
       SELECT count(*) AS points FROM "TripPoint"
        WHERE "orgId" = %(org_id)s::uuid AND "tripId" = t.id
          AND ts >= %(from_ts)s::timestamptz AND ts < %(before)s::timestamptz) AS p
 WHERE t."orgId" = %(org_id)s::uuid AND t.id > %(after_id)s::uuid
   AND t."startedAt" < %(before)s::timestamptz + make_interval(mins => 2)
   AND (t."endedAt" IS NULL OR t."endedAt" >= %(from_ts)s::timestamptz - make_interval(mins => 2))
 ORDER BY t.id
 LIMIT %(limit)s::int;

-- name: hold_points
-- Copies the points of a held trip out of a month; how many are kept there now.
INSERT INTO "HeldTripPoint" ("orgId", "tripId", ts, lat, lng, "speedKph", "createdAt")
SELECT %(org_id)s::uuid, "tripId", ts, lat, lng, "speedKph", "createdAt"
  FROM "TripPoint"
 WHERE "orgId" = %(org_id)s::uuid AND "tripId" = %(trip_id)s::uuid
   AND ts >= %(from_ts)s::timestamptz AND ts < %(before)s::timestamptz
ON CONFLICT ("orgId", "tripId", ts) DO NOTHING;

-- name: note_dropped_points
-- Notes on the trips of a month that their points go: their summaries stay as they are.
UPDATE "Trip" SET "pointsDroppedAt" = now(), version = version + 1, "updatedAt" = now()
 WHERE "orgId" = %(org_id)s::uuid AND id = ANY (%(trip_ids)s::uuid[]);

-- name: copy_points
-- platform: the points of one flush, of any schools, each row with its orgId.
COPY "TripPoint" ("orgId", "tripId", ts, lat, lng, "speedKph") FROM STDIN (FORMAT BINARY);

-- name: unverified_lessons
-- Lessons of unverified trips of the last weeks (idx_trip_unverified) that are to be asked about.
SELECT DISTINCT "lessonId"
  FROM "Trip"
 WHERE "orgId" = %(org_id)s::uuid AND "lessonId" IS NOT NULL AND NOT "lessonVerified"
   AND "createdAt" > %(created_after)s::timestamptz
   AND ("lessonAskedAt" IS NULL OR "lessonAskedAt" <= %(asked_before)s::timestamptz)
 LIMIT %(limit)s::int;

-- name: verify_lessons
-- Booking knows the lessons of these trips.
UPDATE "Trip"
   SET "lessonVerified" = true, version = version + 1, "updatedAt" = now()
 WHERE "orgId" = %(org_id)s::uuid AND "lessonId" = ANY (%(lesson_ids)s::uuid[])
   AND NOT "lessonVerified";

-- name: note_missing_lessons
-- Booking does not know the lessons of these trips.
UPDATE "Trip" SET "lessonAskedAt" = %(asked_at)s::timestamptz
 WHERE "orgId" = %(org_id)s::uuid AND "lessonId" = ANY (%(lesson_ids)s::uuid[])
   AND NOT "lessonVerified";

-- name: erase_trips
-- Takes the way out of trips of a student's lessons; their figures stay. A trip on legal hold is
-- marked, and erased when the hold ends.
UPDATE "Trip"
   SET route = CASE WHEN "legalHold" THEN route END,
       "minLat" = CASE WHEN "legalHold" THEN "minLat" END,
       "minLng" = CASE WHEN "legalHold" THEN "minLng" END,
       "maxLat" = CASE WHEN "legalHold" THEN "maxLat" END,
       "maxLng" = CASE WHEN "legalHold" THEN "maxLng" END,
       "pointsDroppedAt" = CASE WHEN "legalHold" THEN "pointsDroppedAt"
                                ELSE coalesce("pointsDroppedAt", now()) END,
       "erasedAt" = now(), version = version + 1, "updatedAt" = now()
 WHERE "orgId" = %(org_id)s::uuid AND "lessonId" = ANY (%(lesson_ids)s::uuid[])
   AND "erasedAt" IS NULL
RETURNING id, "startedAt", "endedAt", "legalHold";

-- name: erase_released_trip
-- A trip that was to be erased while it was on hold, and no longer is: its points go with the next
-- round of the sweep.
UPDATE "Trip"
   SET route = NULL, "minLat" = NULL, "minLng" = NULL, "maxLat" = NULL, "maxLng" = NULL,
       "pointsDroppedAt" = coalesce("pointsDroppedAt", now()), "erasedAt" = now()
 WHERE "orgId" = %(org_id)s::uuid AND id = %(trip_id)s::uuid AND "erasedAt" IS NOT NULL
   AND NOT "legalHold";

-- name: erased_trips
-- Trips that were erased a while ago: points that were under way then may have come after.
SELECT id, "startedAt", "endedAt", "legalHold"
  FROM "Trip"
 WHERE "orgId" = %(org_id)s::uuid AND "erasedAt" > %(erased_after)s::timestamptz
   AND NOT "legalHold";

-- name: erase_points
-- Points of a trip in its window, a few at a time.
DELETE FROM "TripPoint"
 WHERE "orgId" = %(org_id)s::uuid AND "tripId" = %(trip_id)s::uuid
   AND ts >= %(from_ts)s::timestamptz AND ts < %(before)s::timestamptz
   AND ts = ANY (ARRAY(
       SELECT ts FROM "TripPoint"
        WHERE "orgId" = %(org_id)s::uuid AND "tripId" = %(trip_id)s::uuid
          AND ts >= %(from_ts)s::timestamptz AND ts < %(before)s::timestamptz
        ORDER BY ts LIMIT %(limit)s::int));

-- name: erase_held_points
-- The same of points that were held.
DELETE FROM "HeldTripPoint"
 WHERE "orgId" = %(org_id)s::uuid AND "tripId" = %(trip_id)s::uuid
   AND ts = ANY (ARRAY(
       SELECT ts FROM "HeldTripPoint"
        WHERE "orgId" = %(org_id)s::uuid AND "tripId" = %(trip_id)s::uuid
        ORDER BY ts LIMIT %(limit)s::int));

-- name: erase_rejected_points
-- The same of points that could not be stored.
DELETE FROM "RejectedPoint"
 WHERE "orgId" = %(org_id)s::uuid AND id = ANY (ARRAY(
       SELECT id FROM "RejectedPoint"
        WHERE "orgId" = %(org_id)s::uuid AND "tripId" = ANY (%(trip_ids)s::text[])
        LIMIT %(limit)s::int));
