-- name: limit_lock_wait
-- How long the transaction under way waits for any one lock from now on.
SELECT set_config('lock_timeout', %(timeout_ms)s::text, true);

-- name: raise_booking_version
-- Notes that something was told of a locked booking that changes nothing else of it.
UPDATE "Booking" SET version = version + 1, "updatedAt" = now()
 WHERE "orgId" = %(org_id)s::uuid AND id = %(booking_id)s::uuid
RETURNING {columns};

-- name: was_confirmed
-- Whether a booking was to take place at some time.
SELECT EXISTS (
  SELECT FROM "BookingTransition"
   WHERE "orgId" = %(org_id)s::uuid AND "bookingId" = %(booking_id)s::uuid
     AND "toStatus" = 'confirmed');

-- name: begin_retake
-- From here on what fails can be undone without the rest of the transaction.
SAVEPOINT retake;

-- name: undo_retake
-- As it was at begin_retake, failure included; end_retake follows.
ROLLBACK TO SAVEPOINT retake;

-- name: end_retake
-- What was done since begin_retake stays.
RELEASE retake;
