-- part: booking_row
-- What placing writes of a booking, as a JSON array of objects.
row AS (
  SELECT r.id, r.student_id, r.instructor_id, r.service_id, r.vehicle_id, r.start_at, r.end_at,
         r.buffer_before_min, r.buffer_after_min, r.status, r.hold_expires_at, r.price_cents,
         r.platform_fee_cents, r.instructor_share_cents, r.currency, r.pickup_address, r.pickup_lat,
         r.pickup_lng, r.dropoff_address, r.dropoff_lat, r.dropoff_lng, r.notes, r.series_id,
         r.actor, r.told, r.audited
    FROM jsonb_to_recordset(%(bookings)s::jsonb) AS r (
           id uuid, student_id uuid, instructor_id uuid, service_id uuid, vehicle_id uuid,
           start_at timestamptz, end_at timestamptz, buffer_before_min int, buffer_after_min int,
           status text, hold_expires_at timestamptz, price_cents bigint,
           platform_fee_cents bigint, instructor_share_cents bigint, currency text,
           pickup_address text, pickup_lat numeric, pickup_lng numeric, dropoff_address text,
           dropoff_lat numeric, dropoff_lng numeric, notes text, series_id uuid, actor text,
           told jsonb, audited jsonb)
)

-- name: place_bookings
-- Bookings that were judged, with their history, audit entries and events, by one statement.
WITH {booking_row}, placed AS (
  INSERT INTO "Booking" ("orgId", id, "studentId", "instructorId", "serviceId", "vehicleId",
         "startAt", "endAt", "bufferBeforeMin", "bufferAfterMin", status, "holdExpiresAt",
         "priceCents", "platformFeeCents", "instructorShareCents", currency, "pickupAddress",
         "pickupLat", "pickupLng", "dropoffAddress", "dropoffLat", "dropoffLng", notes, "seriesId")
  SELECT %(org_id)s::uuid, r.id, r.student_id, r.instructor_id, r.service_id, r.vehicle_id,
         r.start_at, r.end_at, r.buffer_before_min, r.buffer_after_min, r.status,
         r.hold_expires_at, r.price_cents, r.platform_fee_cents, r.instructor_share_cents,
         r.currency, r.pickup_address, r.pickup_lat, r.pickup_lng, r.dropoff_address,
         r.dropoff_lat, r.dropoff_lng, r.notes, r.series_id
    FROM row AS r
), history AS (
  INSERT INTO "BookingTransition" ("orgId", "bookingId", "toStatus", actor)
  SELECT %(org_id)s::uuid, r.id, r.status, r.actor FROM row AS r
), audit AS (
  INSERT INTO "AuditLog" ("orgId", "actorUserId", "entityType", "entityId", action, after)
  SELECT %(org_id)s::uuid, r.actor, 'booking', r.id::text, 'create', r.audited
    FROM row AS r
)
INSERT INTO "Outbox" ("orgId", "aggregateType", "aggregateId", "aggregateVersion", topic, type,
                      payload)
SELECT %(org_id)s::uuid, 'booking', r.id, 1, 'booking', 'booking.' || r.status, r.told
  FROM row AS r;

-- name: expire_overdue
-- Ends the overdue holds of those who are to be booked, which the constraints can't tell from live
-- ones. Locked in one order.
UPDATE "Booking" SET status = 'expired', version = version + 1, "updatedAt" = now()
 WHERE "orgId" = %(org_id)s::uuid AND id = ANY (ARRAY(
       SELECT b.id FROM "Booking" AS b
        WHERE b."orgId" = %(org_id)s::uuid AND b.status IN ('held', 'requested')
          AND b."holdExpiresAt" <= %(now)s::timestamptz
          AND (b."instructorId" = ANY (%(instructor_ids)s::uuid[])
               OR b."vehicleId" = ANY (%(vehicle_ids)s::uuid[])
               OR b."studentId" = ANY (%(student_ids)s::uuid[]))
        ORDER BY b.id FOR UPDATE))
RETURNING {columns}, old.status;

-- name: expire_holds
-- Ends overdue holds, a few at a time; those that someone is at are left for the next time.
UPDATE "Booking" SET status = 'expired', version = version + 1, "updatedAt" = now()
 WHERE "orgId" = %(org_id)s::uuid AND id = ANY (ARRAY(
       SELECT b.id FROM "Booking" AS b
        WHERE b."orgId" = %(org_id)s::uuid AND b.status IN ('held', 'requested')
          AND b."holdExpiresAt" <= %(now)s::timestamptz
        ORDER BY b."holdExpiresAt" LIMIT %(limit)s::int FOR UPDATE SKIP LOCKED))
RETURNING {columns}, old.status;

-- name: move_booking
-- Moves a booking that is locked and was judged. One that waits does so until its start at most.
UPDATE "Booking"
   SET "instructorId" = %(instructor_id)s::uuid, "vehicleId" = %(vehicle_id)s::uuid,
       "startAt" = %(start_at)s::timestamptz, "endAt" = %(end_at)s::timestamptz,
       "bufferBeforeMin" = %(buffer_before_min)s::int, "bufferAfterMin" = %(buffer_after_min)s::int,
       "holdExpiresAt" = CASE WHEN status IN ('held', 'requested')
                              THEN least("holdExpiresAt", %(start_at)s::timestamptz) END,
       "originalStartAt" = coalesce("originalStartAt", "startAt"),
       "rescheduleCount" = "rescheduleCount" + 1, version = version + 1, "updatedAt" = now()
 WHERE "orgId" = %(org_id)s::uuid AND id = %(booking_id)s::uuid
RETURNING {columns};
