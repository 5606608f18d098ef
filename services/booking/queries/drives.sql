-- name: keep_drive
-- A drive of a lesson as tracking tells it; an older version than the one kept changes nothing. No
-- row when the school has no such lesson.
INSERT INTO "LessonTrip" ("orgId", "lessonId", "tripId", version, "distanceMeters", "startedAt",
                          "endedAt")
SELECT %(org_id)s::uuid, l.id, %(trip_id)s::uuid, %(version)s::int, %(distance_meters)s::float8,
       %(started_at)s::timestamptz, %(ended_at)s::timestamptz
  FROM "Lesson" AS l
 WHERE l."orgId" = %(org_id)s::uuid AND l.id = %(lesson_id)s::uuid
ON CONFLICT ("orgId", "lessonId", "tripId") DO UPDATE
   SET version = EXCLUDED.version, "distanceMeters" = EXCLUDED."distanceMeters",
       "startedAt" = EXCLUDED."startedAt", "endedAt" = EXCLUDED."endedAt"
 WHERE "LessonTrip"."orgId" = %(org_id)s::uuid AND "LessonTrip".version < EXCLUDED.version
RETURNING "lessonId";

-- name: add_up_drives
-- What a lesson's drives come to: their length, the span of time, the one that ended last.
UPDATE "Lesson" AS l
   SET "distanceMeters" = d.meters, "driveStartedAt" = d.started_at, "driveEndedAt" = d.ended_at,
       "tripId" = d.last_trip_id, "updatedAt" = now()
  FROM (SELECT sum(t."distanceMeters") AS meters, min(t."startedAt") AS started_at,
               max(t."endedAt") AS ended_at,
               (array_agg(t."tripId" ORDER BY t."endedAt" DESC, t."tripId"))[1] AS last_trip_id
          FROM "LessonTrip" AS t
         WHERE t."orgId" = %(org_id)s::uuid AND t."lessonId" = %(lesson_id)s::uuid) AS d
 WHERE l."orgId" = %(org_id)s::uuid AND l.id = %(lesson_id)s::uuid;
