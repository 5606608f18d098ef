-- migrate:up
-- Trips, their points by month, and the uploads that bring the points.

CREATE TABLE tracking."Trip" (
  "orgId"           uuid        NOT NULL,
  id                uuid        NOT NULL DEFAULT uuidv7(),
  "lessonId"        uuid,
  "lessonVerified"  boolean     NOT NULL DEFAULT false,
  "instructorId"    uuid,
  "vehicleId"       uuid,
  "startedAt"       timestamptz NOT NULL,
  "endedAt"         timestamptz,
  "endRecordedAt"   timestamptz,
  status            text        NOT NULL DEFAULT 'open',
  version           integer     NOT NULL DEFAULT 1,
  "pointCount"      bigint,
  "distanceMeters"  double precision,
  "durationSeconds" bigint,
  "movingSeconds"   bigint,
  "maxSpeedKph"     double precision,
  "avgSpeedKph"     double precision,
  "minLat"          numeric(9,6),
  "minLng"          numeric(9,6),
  "maxLat"          numeric(9,6),
  "maxLng"          numeric(9,6),
  route             text,
  "pointsHash"      bytea,
  "settledAt"       timestamptz,
  "legalHold"       boolean     NOT NULL DEFAULT false,
  "pointsDroppedAt" timestamptz,
  "createdAt"       timestamptz NOT NULL DEFAULT now(),
  "updatedAt"       timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT trip_pkey PRIMARY KEY ("orgId", id),
  CONSTRAINT trip_status_known CHECK (status IN ('open', 'ended')),
  CONSTRAINT trip_ended_has_end
    CHECK ((status = 'ended') = ("endedAt" IS NOT NULL AND "endRecordedAt" IS NOT NULL)),
  CONSTRAINT trip_end_not_before_start CHECK ("endedAt" >= "startedAt"),
  CONSTRAINT trip_lesson_verified_has_lesson CHECK (NOT "lessonVerified" OR "lessonId" IS NOT NULL)
);
ALTER TABLE tracking."Trip" OWNER TO tracking_owner;
ALTER TABLE tracking."Trip" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY org_only ON tracking."Trip"
  USING ("orgId" = (SELECT NULLIF(current_setting('driveflow.org_id', true), '')::uuid));
CREATE INDEX idx_trip_lesson ON tracking."Trip" ("lessonId", "orgId");
CREATE INDEX idx_trip_org_start ON tracking."Trip" ("orgId", "startedAt", id);
CREATE INDEX idx_trip_unsettled ON tracking."Trip" ("orgId", "endRecordedAt")
  WHERE "settledAt" IS NULL AND "endRecordedAt" IS NOT NULL;
COMMENT ON TABLE tracking."Trip" IS
  'A drive. Knows its school and its time window; readers of points add the window to the query.';
COMMENT ON COLUMN tracking."Trip"."lessonId" IS 'booking''s Lesson; of another service, so no foreign key.';
COMMENT ON COLUMN tracking."Trip"."endRecordedAt" IS
  'When the end was recorded: late points are taken for 30 days from then.';
COMMENT ON COLUMN tracking."Trip"."pointsHash" IS 'SHA-256 over the stored points; see docs/tracking.md.';
COMMENT ON COLUMN tracking."Trip"."settledAt" IS
  'When the sweep compared pointCount with the points, ten minutes after the end was recorded.';
COMMENT ON COLUMN tracking."Trip"."pointsDroppedAt" IS
  'When retention dropped a month with points of this trip: the summary stays as it is.';
GRANT SELECT, INSERT, UPDATE ON tracking."Trip" TO tracking;


CREATE TABLE tracking."TripPoint" (
  "orgId"     uuid         NOT NULL,
  "tripId"    uuid         NOT NULL,
  ts          timestamptz  NOT NULL,
  lat         numeric(9,6) NOT NULL,
  lng         numeric(9,6) NOT NULL,
  "speedKph"  numeric(6,2),
  "createdAt" timestamptz  NOT NULL DEFAULT now(),
  id          uuid GENERATED ALWAYS AS (md5(uuid_send("tripId") || timestamptz_send(ts))::uuid) VIRTUAL,
  CONSTRAINT idx_trip_point_trip_ts PRIMARY KEY ("tripId", ts),
  CONSTRAINT trip_point_lat_in_range CHECK (lat BETWEEN -90 AND 90),
  CONSTRAINT trip_point_lng_in_range CHECK (lng BETWEEN -180 AND 180),
  CONSTRAINT trip_point_speed_in_range CHECK ("speedKph" BETWEEN 0 AND 500)
) PARTITION BY RANGE (ts);
ALTER TABLE tracking."TripPoint" OWNER TO tracking_owner;
ALTER TABLE tracking."TripPoint" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY org_only ON tracking."TripPoint"
  USING ("orgId" = (SELECT NULLIF(current_setting('driveflow.org_id', true), '')::uuid));
COMMENT ON TABLE tracking."TripPoint" IS
  'GPS points, one partition a month (create_monthly_partition). One point per trip and time.';
COMMENT ON COLUMN tracking."TripPoint".id IS 'Derived, so that it costs nothing to store.';
GRANT SELECT, INSERT ON tracking."TripPoint" TO tracking;
-- COPY is refused under row-level security; this role is exempt and can do nothing else here.
GRANT INSERT ON tracking."TripPoint" TO tracking_ingest;


CREATE FUNCTION tracking.create_monthly_partition(table_name text, start_date date)
RETURNS boolean
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '500ms'
AS $$
DECLARE
  month  date := date_trunc('month', start_date::timestamp)::date;
  child  text := table_name || '_' || to_char(month, 'YYYY_MM');
  lower  text := to_char(month, 'YYYY-MM-DD') || ' 00:00:00+00';
  upper  text := to_char(month + interval '1 month', 'YYYY-MM-DD') || ' 00:00:00+00';
  attached boolean;
BEGIN
  IF table_name IS DISTINCT FROM 'TripPoint' OR start_date IS NULL THEN
    RAISE invalid_parameter_value USING MESSAGE = 'only TripPoint has monthly partitions';
  END IF;
  -- Two that make one month: the second waits, then finds it. The catalog itself is asked, since
  -- to_regclass would answer from a cache that the lock does not refresh.
  PERFORM pg_advisory_xact_lock(hashtextextended('tracking.create_monthly_partition ' || child, 0));
  SELECT i.inhrelid IS NOT NULL INTO attached
    FROM pg_class c
    LEFT JOIN pg_inherits i ON i.inhrelid = c.oid AND NOT i.inhdetachpending
   WHERE c.relnamespace = 'tracking'::regnamespace AND c.relname = child;
  IF attached THEN
    RETURN false;
  ELSIF NOT attached THEN
    RAISE object_in_use USING MESSAGE = format('%s is being dropped', child);
  END IF;

  -- LIKE and ATTACH: PARTITION OF would lock out readers and writers of all months.
  EXECUTE format('CREATE TABLE tracking.%I (LIKE tracking."TripPoint" INCLUDING ALL)', child);
  EXECUTE format('ALTER TABLE tracking.%I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', child);
  -- A policy of the parent does not hold for a child that is named itself.
  EXECUTE format(
    'CREATE POLICY org_only ON tracking.%I USING ('
    '"orgId" = (SELECT NULLIF(current_setting(''driveflow.org_id'', true), '''')::uuid))', child);
  EXECUTE format('REVOKE ALL ON tracking.%I FROM PUBLIC, tracking, tracking_ingest', child);
  FOR attempt IN 1..5 LOOP
    BEGIN
      EXECUTE format('ALTER TABLE tracking."TripPoint" ATTACH PARTITION tracking.%I'
                     ' FOR VALUES FROM (%L) TO (%L)', child, lower, upper);
      RETURN true;
    EXCEPTION WHEN lock_not_available THEN
      IF attempt = 5 THEN
        RAISE;
      END IF;
    END;
  END LOOP;
END
$$;
ALTER FUNCTION tracking.create_monthly_partition(text, date) OWNER TO tracking_owner;
REVOKE ALL ON FUNCTION tracking.create_monthly_partition(text, date) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION tracking.create_monthly_partition(text, date) TO tracking;
COMMENT ON FUNCTION tracking.create_monthly_partition(text, date) IS
  'Makes the partition of a UTC month; whether it was missing. Safe to call at once from many.';

-- This month and the three after it, so that a new installation takes points at once.
SELECT tracking.create_monthly_partition('TripPoint', ((now() AT TIME ZONE 'UTC')::date
         + make_interval(months => ahead))::date)
  FROM generate_series(0, 3) AS ahead;


CREATE TABLE tracking."HeldTripPoint" (
  "orgId"     uuid         NOT NULL,
  "tripId"    uuid         NOT NULL,
  ts          timestamptz  NOT NULL,
  lat         numeric(9,6) NOT NULL,
  lng         numeric(9,6) NOT NULL,
  "speedKph"  numeric(6,2),
  "createdAt" timestamptz  NOT NULL,
  CONSTRAINT held_trip_point_pkey PRIMARY KEY ("orgId", "tripId", ts),
  CONSTRAINT held_trip_point_of_trip FOREIGN KEY ("orgId", "tripId") REFERENCES tracking."Trip" ("orgId", id)
);
ALTER TABLE tracking."HeldTripPoint" OWNER TO tracking_owner;
ALTER TABLE tracking."HeldTripPoint" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY org_only ON tracking."HeldTripPoint"
  USING ("orgId" = (SELECT NULLIF(current_setting('driveflow.org_id', true), '')::uuid));
COMMENT ON TABLE tracking."HeldTripPoint" IS
  'Points of trips on legal hold, copied before retention dropped their month.';
GRANT SELECT, INSERT ON tracking."HeldTripPoint" TO tracking;


CREATE TABLE tracking."DrivingEvent" (
  "orgId"     uuid             NOT NULL,
  "tripId"    uuid             NOT NULL,
  ts          timestamptz      NOT NULL,
  kind        text             NOT NULL,
  value       double precision NOT NULL,
  "createdAt" timestamptz      NOT NULL DEFAULT now(),
  CONSTRAINT driving_event_pkey PRIMARY KEY ("orgId", "tripId", ts, kind),
  CONSTRAINT driving_event_of_trip FOREIGN KEY ("orgId", "tripId") REFERENCES tracking."Trip" ("orgId", id),
  CONSTRAINT driving_event_kind_known
    CHECK (kind IN ('harsh_brake', 'harsh_acceleration', 'overspeed', 'stop'))
);
ALTER TABLE tracking."DrivingEvent" OWNER TO tracking_owner;
ALTER TABLE tracking."DrivingEvent" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY org_only ON tracking."DrivingEvent"
  USING ("orgId" = (SELECT NULLIF(current_setting('driveflow.org_id', true), '')::uuid));
COMMENT ON TABLE tracking."DrivingEvent" IS 'Derived from the points with the summary.';
GRANT SELECT, INSERT, DELETE ON tracking."DrivingEvent" TO tracking;


CREATE TABLE tracking."GpsUpload" (
  "orgId"          uuid        NOT NULL,
  subject          text        NOT NULL,
  "uploadId"       uuid        NOT NULL,
  gateway          text        NOT NULL,
  epoch            bigint      NOT NULL DEFAULT 1,
  "durableThrough" bigint      NOT NULL DEFAULT 0,
  "createdAt"      timestamptz NOT NULL DEFAULT now(),
  "updatedAt"      timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT gps_upload_pkey PRIMARY KEY ("orgId", subject, "uploadId"),
  CONSTRAINT gps_upload_durable_not_negative CHECK ("durableThrough" >= 0)
) WITH (
  -- A row changes with each flush: room for it to stay on its page.
  fillfactor = 50,
  autovacuum_vacuum_scale_factor = 0.02,
  autovacuum_vacuum_threshold = 500
);
ALTER TABLE tracking."GpsUpload" OWNER TO tracking_owner;
ALTER TABLE tracking."GpsUpload" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY org_only ON tracking."GpsUpload"
  USING ("orgId" = (SELECT NULLIF(current_setting('driveflow.org_id', true), '')::uuid));
COMMENT ON TABLE tracking."GpsUpload" IS
  'How far each upload is stored. The mark moves in the transaction of the points; a stream whose
epoch is not the row''s any more can store nothing.';
GRANT SELECT, INSERT, UPDATE (gateway, epoch, "durableThrough", "updatedAt")
  ON tracking."GpsUpload" TO tracking;
GRANT SELECT, UPDATE ("durableThrough", "updatedAt") ON tracking."GpsUpload" TO tracking_ingest;


CREATE TABLE tracking."RejectedPoint" (
  "orgId"       uuid        NOT NULL,
  subject       text        NOT NULL,
  "uploadId"    uuid        NOT NULL,
  sequence      bigint      NOT NULL,
  index         integer     NOT NULL,
  id            uuid        NOT NULL DEFAULT uuidv7(),
  reason        text        NOT NULL,
  "tripId"      text        NOT NULL,
  "timeSeconds" bigint,
  "timeNanos"   integer,
  lat           double precision NOT NULL,
  lng           double precision NOT NULL,
  "speedKph"    double precision,
  "createdAt"   timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT rejected_point_pkey PRIMARY KEY ("orgId", subject, "uploadId", sequence, index),
  CONSTRAINT rejected_point_of_upload FOREIGN KEY ("orgId", subject, "uploadId")
    REFERENCES tracking."GpsUpload" ("orgId", subject, "uploadId"),
  CONSTRAINT rejected_point_reason_known CHECK (reason IN (
    'NOT_A_NUMBER', 'LAT_OUT_OF_RANGE', 'LNG_OUT_OF_RANGE', 'SPEED_OUT_OF_RANGE', 'TIME_INVALID',
    'BEFORE_TRIP', 'AFTER_TRIP', 'TRIP_NOT_FOUND', 'TRIP_CLOSED', 'NO_PARTITION', 'MALFORMED_TRACK'))
);
ALTER TABLE tracking."RejectedPoint" OWNER TO tracking_owner;
ALTER TABLE tracking."RejectedPoint" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY org_only ON tracking."RejectedPoint"
  USING ("orgId" = (SELECT NULLIF(current_setting('driveflow.org_id', true), '')::uuid));
CREATE UNIQUE INDEX idx_rejected_point_org_id ON tracking."RejectedPoint" ("orgId", id);
COMMENT ON TABLE tracking."RejectedPoint" IS
  'Points that could not be stored, as they were received. Kept 14 days.';
GRANT SELECT, INSERT, UPDATE (reason, "tripId", "timeSeconds", "timeNanos", lat, lng, "speedKph", "createdAt"), DELETE
  ON tracking."RejectedPoint" TO tracking;


CREATE TABLE tracking."RejectedPointCount" (
  "orgId"     uuid   NOT NULL,
  day         date   NOT NULL,
  kept        bigint NOT NULL DEFAULT 0,
  "notKept"   bigint NOT NULL DEFAULT 0,
  "createdAt" timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT rejected_point_count_pkey PRIMARY KEY ("orgId", day)
);
ALTER TABLE tracking."RejectedPointCount" OWNER TO tracking_owner;
ALTER TABLE tracking."RejectedPointCount" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY org_only ON tracking."RejectedPointCount"
  USING ("orgId" = (SELECT NULLIF(current_setting('driveflow.org_id', true), '')::uuid));
COMMENT ON TABLE tracking."RejectedPointCount" IS
  'Rejected points by UTC day: how many are kept (at most 100,000) and how many only counted.';
GRANT SELECT, INSERT, UPDATE (kept, "notKept"), DELETE ON tracking."RejectedPointCount" TO tracking;

-- migrate:down
