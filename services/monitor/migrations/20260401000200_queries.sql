-- migrate:up
-- What statements cost over time, and which of them the guide's indexes were made for.

CREATE TABLE monitor."QueryCapture" (
  id           uuid        NOT NULL DEFAULT uuidv7(),
  at           timestamptz NOT NULL,
  "startAt"    timestamptz,
  "statsReset" timestamptz NOT NULL,
  dealloc      bigint      NOT NULL,
  evicted      bigint      NOT NULL,
  CONSTRAINT query_capture_pkey PRIMARY KEY (id)
);
ALTER TABLE monitor."QueryCapture" OWNER TO monitor_owner;
CREATE INDEX idx_query_capture_at ON monitor."QueryCapture" (at);
COMMENT ON TABLE monitor."QueryCapture" IS
  'When the counters of pg_stat_statements were taken down; one an hour after a day, kept 14 days.';
COMMENT ON COLUMN monitor."QueryCapture"."startAt" IS 'The capture before; null for the first one.';
COMMENT ON COLUMN monitor."QueryCapture".evicted IS 'Statements that were dropped since startAt.';
GRANT SELECT, INSERT, UPDATE ("startAt", evicted), DELETE ON monitor."QueryCapture" TO monitor;


CREATE TABLE monitor."TrackedQuery" (
  "queryId"    bigint           NOT NULL,
  role         text             NOT NULL,
  text         text,
  name         text             NOT NULL DEFAULT '',
  "statsSince" timestamptz      NOT NULL,
  calls        bigint           NOT NULL,
  "totalMs"    double precision NOT NULL,
  squares      double precision NOT NULL,
  rows         bigint           NOT NULL,
  "hitBlocks"  bigint           NOT NULL,
  "readBlocks" bigint           NOT NULL,
  "seenAt"     timestamptz      NOT NULL,
  CONSTRAINT tracked_query_pkey PRIMARY KEY ("queryId", role)
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE monitor."TrackedQuery" OWNER TO monitor_owner;
COMMENT ON TABLE monitor."TrackedQuery" IS
  'Statements and what PostgreSQL had counted of each at the last capture in which it had more calls.';
COMMENT ON COLUMN monitor."TrackedQuery".text IS 'Normalised and scrubbed; null until it is read.';
COMMENT ON COLUMN monitor."TrackedQuery".squares IS 'Sum of the squares of the times of all calls, ms².';
GRANT SELECT, INSERT, UPDATE, DELETE ON monitor."TrackedQuery" TO monitor;


CREATE TABLE monitor."QuerySnapshot" (
  "queryId"    bigint           NOT NULL,
  role         text             NOT NULL,
  at           timestamptz      NOT NULL,
  calls        bigint           NOT NULL,
  "totalMs"    double precision NOT NULL,
  squares      double precision NOT NULL,
  rows         bigint           NOT NULL,
  "hitBlocks"  bigint           NOT NULL,
  "readBlocks" bigint           NOT NULL,
  CONSTRAINT query_snapshot_pkey PRIMARY KEY ("queryId", role, at)
) WITH (autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE monitor."QuerySnapshot" OWNER TO monitor_owner;
CREATE INDEX idx_query_snapshot_at ON monitor."QuerySnapshot" (at);
COMMENT ON TABLE monitor."QuerySnapshot" IS
  'What each statement that was called between two captures added; kept 14 days.';
GRANT SELECT, INSERT, DELETE,
      UPDATE (calls, "totalMs", squares, rows, "hitBlocks", "readBlocks")
  ON monitor."QuerySnapshot" TO monitor;


CREATE TABLE monitor."IndexLedger" (
  schema       text    NOT NULL,
  index        text    NOT NULL,
  query        text    NOT NULL,
  "table"      text    NOT NULL,
  rpc          text    NOT NULL,
  verdict      text,
  detail       text    NOT NULL DEFAULT '',
  "queryId"    bigint  NOT NULL DEFAULT 0,
  "checkedAt"  timestamptz,
  "lastUsedAt" timestamptz,
  CONSTRAINT index_ledger_pkey PRIMARY KEY (schema, index, query),
  CONSTRAINT index_ledger_verdict_known CHECK (verdict IN
    ('used', 'small_table', 'not_used', 'not_seen', 'index_missing', 'failed'))
);
ALTER TABLE monitor."IndexLedger" OWNER TO monitor_owner;
COMMENT ON TABLE monitor."IndexLedger" IS
  'The indexes of the performance guide, the queries that each was made for, and who sends those.';
COMMENT ON COLUMN monitor."IndexLedger".query IS 'Its name; empty where people alone ask by the index.';
COMMENT ON COLUMN monitor."IndexLedger".rpc IS 'A method, or a loop in brackets.';
GRANT SELECT, UPDATE (verdict, detail, "queryId", "checkedAt", "lastUsedAt")
  ON monitor."IndexLedger" TO monitor;

INSERT INTO monitor."IndexLedger" (schema, index, "table", query, rpc)
SELECT schema, index, "table", query,
       CASE WHEN rpc LIKE '(%' THEN rpc ELSE 'driveflow.' || schema || '.v1.' || rpc END
  FROM (VALUES
    ('booking', 'idx_booking_org_start', 'Booking',
     'booking.list_bookings', 'BookingService/ListBookings'),
    ('booking', 'idx_booking_org_start', 'Booking',
     'booking.list_day_schedule', 'BookingService/ListDaySchedule'),
    ('booking', 'idx_booking_status_org_date', 'Booking',
     'booking.list_bookings_with_status', 'BookingService/ListBookings'),
    ('booking', 'idx_booking_instructor_start', 'Booking',
     'booking.list_bookings_of_instructor', 'BookingService/ListBookings'),
    ('booking', 'idx_booking_instructor_start', 'Booking',
     'booking.search_slots', 'BookingService/SearchSlots'),
    ('booking', 'idx_booking_instructor_start', 'Booking',
     'booking.judge_starts', 'BookingService/CreateBooking'),
    ('booking', 'idx_booking_instructor_start', 'Booking',
     'booking.bookings_in_the_way', 'BookingService/ExplainAvailability'),
    ('booking', 'idx_booking_student_start', 'Booking',
     'booking.list_bookings_of_student', 'BookingService/ListBookings'),
    ('booking', 'idx_booking_student_start', 'Booking',
     'booking.judge_starts', 'BookingService/CreateBooking'),
    ('booking', 'idx_instructor_org_active', 'Instructor',
     'booking.list_instructors_by_active', 'DirectoryService/ListInstructors'),
    ('booking', 'idx_student_org_name', 'Student',
     'booking.list_students', 'DirectoryService/ListStudents'),
    ('booking', 'idx_availability_instructor_day', 'InstructorAvailability',
     'booking.search_slots', 'BookingService/SearchSlots'),
    ('booking', 'idx_availability_instructor_day', 'InstructorAvailability',
     'booking.judge_starts', 'BookingService/CreateBooking'),
    ('booking', 'idx_availability_instructor_day', 'InstructorAvailability',
     'booking.explain_hours', 'BookingService/ExplainAvailability'),
    ('booking', 'idx_availability_instructor_effective', 'InstructorAvailability',
     'booking.delete_rules', 'DirectoryService/SetWeeklyAvailability'),
    ('booking', 'idx_availability_exception_instructor_date', 'AvailabilityException',
     'booking.list_exceptions', 'DirectoryService/ListAvailabilityExceptions'),
    ('booking', 'idx_availability_exception_instructor_date', 'AvailabilityException',
     'booking.search_slots', 'BookingService/SearchSlots'),
    ('booking', 'idx_availability_exception_instructor_date', 'AvailabilityException',
     'booking.judge_starts', 'BookingService/CreateBooking'),
    ('booking', 'idx_availability_exception_instructor_date', 'AvailabilityException',
     'booking.explain_hours', 'BookingService/ExplainAvailability'),
    ('booking', 'idx_audit_org_entity', 'AuditLog',
     'booking.list_audit_entries_of_entity', 'BookingService/ListAuditEntries'),
    ('booking', 'idx_audit_actor_created', 'AuditLog',
     'booking.list_audit_entries_of_actor', 'BookingService/ListAuditEntries'),
    ('booking', 'idx_instructor_stats_org', 'instructor_stats',
     'booking.get_instructor_stats', 'BookingService/GetInstructorStats'),
    ('booking', 'idx_instructor_stats_org', 'instructor_stats',
     'booking.list_instructor_stats', 'BookingService/ListInstructorStats'),
    ('payments', 'idx_payment_org_status', 'Payment',
     'payments.list_payments_with_status', 'PaymentService/ListPayments'),
    ('payments', 'idx_payment_org_created_status', 'Payment',
     'payments.list_payments', 'PaymentService/ListPayments'),
    ('payments', 'idx_payment_org_created_status', 'Payment',
     'payments.revenue', 'PaymentService/GetRevenueReport'),
    ('payments', 'idx_payment_stripe_intent', 'Payment',
     'payments.get_payment_of_intent', 'PaymentService/LookupPayment'),
    ('payments', 'idx_payment_stripe_intent', 'Payment',
     'payments.list_payments_by_intent', '(reconciliation)'),
    ('payments', 'idx_payout_instructor_created', 'Payout',
     'payments.list_payouts_of_instructor', 'PaymentService/ListPayouts'),
    ('payments', 'idx_payout_stripe_transfer', 'Payout',
     'payments.lookup_payout', 'PaymentService/LookupPayout'),
    ('payments', 'idx_payout_stripe_transfer', 'Payout',
     'payments.list_payouts_by_transfer', '(reconciliation)'),
    ('payments', 'idx_webhook_event_id', 'WebhookEvent',
     'payments.lock_webhook_event', 'WebhookService/ReceiveWebhook'),
    ('payments', 'idx_webhook_provider_processed', 'WebhookEvent',
     'payments.delete_webhook_events', '(sweep)'),
    ('tracking', 'idx_trip_lesson', 'Trip',
     'tracking.list_trips_of_lesson', 'TrackingService/ListTrips'),
    ('tracking', 'idx_trip_lesson', 'Trip',
     'tracking.erase_trips', '(events)'),
    ('tracking', 'idx_trip_point_trip_ts', 'TripPoint',
     'tracking.list_points', 'TrackingService/ListTripPoints'),
    ('tracking', 'idx_trip_point_trip_ts', 'TripPoint',
     'tracking.latest_point', 'TrackingService/GetLatestPosition')
  ) AS needs (schema, index, "table", query, rpc);

-- Every service has these. Events that are done are deleted by the one; of the audit log booking
-- alone has an RPC, elsewhere it is people who ask.
INSERT INTO monitor."IndexLedger" (schema, index, "table", query, rpc)
SELECT schema, 'idx_outbox_topic_processed', 'Outbox', 'events.delete_processed', '(events)'
  FROM unnest(ARRAY['booking', 'payments', 'tracking', 'monitor']) AS schema
 UNION ALL
SELECT schema, index, 'AuditLog', '', '(people)'
  FROM unnest(ARRAY['payments', 'tracking', 'monitor']) AS schema,
       unnest(ARRAY['idx_audit_org_entity', 'idx_audit_actor_created']) AS index;

-- migrate:down
