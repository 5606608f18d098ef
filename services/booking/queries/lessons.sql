-- part: join_booking
-- Whose status the lesson tells.
JOIN "Booking" AS b ON b."orgId" = %(org_id)s::uuid AND b.id = l."bookingId"

-- part: lesson
-- What is asked for of lessons.
SELECT {columns}
  FROM "Lesson" AS l
  {joins}
 WHERE l."orgId" = %(org_id)s::uuid

-- part: page
-- Newest first, behind the row id.
l.id < %(before_id)s::uuid
 ORDER BY l.id DESC
 LIMIT %(limit)s::int

-- name: get_lesson
-- A lesson of the school.
{lesson} AND l.id = %(lesson_id)s::uuid;

-- name: list_lessons
-- A page of the school's lessons.
{lesson} AND {page};

-- name: list_lessons_of_booking
-- A page of a booking's lessons: the one it has, if it began.
{lesson} AND l."bookingId" = %(booking_id)s::uuid
   AND (%(student_id)s::uuid IS NULL OR l."studentId" = %(student_id)s::uuid)
   AND (%(instructor_id)s::uuid IS NULL OR l."instructorId" = %(instructor_id)s::uuid)
   AND {page};

-- name: list_lessons_of_student
-- A page of a student's lessons.
{lesson} AND l."studentId" = %(student_id)s::uuid
   AND (%(instructor_id)s::uuid IS NULL OR l."instructorId" = %(instructor_id)s::uuid)
   AND {page};

-- name: list_lessons_of_instructor
-- A page of an instructor's lessons.
{lesson} AND l."instructorId" = %(instructor_id)s::uuid AND {page};
