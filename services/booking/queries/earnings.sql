-- name: add_earning
-- Adds to what an instructor was paid out in a currency; what was taken back is negative. No row
-- when the school has no such instructor.
INSERT INTO "InstructorEarning" ("orgId", "instructorId", currency, "totalPaidCents")
SELECT %(org_id)s::uuid, i.id, %(currency)s::text, %(cents)s::bigint
  FROM "Instructor" AS i
 WHERE i."orgId" = %(org_id)s::uuid AND i.id = %(instructor_id)s::uuid
ON CONFLICT ("orgId", "instructorId", currency) DO UPDATE
   SET "totalPaidCents" = "InstructorEarning"."totalPaidCents" + EXCLUDED."totalPaidCents",
       "updatedAt" = now()
 WHERE "InstructorEarning"."orgId" = %(org_id)s::uuid
RETURNING "instructorId";
