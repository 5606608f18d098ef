-- migrate:up
-- The directory: the school, its people, lesson types, vehicles and prices.

CREATE TABLE booking."Org" (
  id                      uuid        NOT NULL DEFAULT uuidv7(),
  name                    text        NOT NULL,
  "timeZone"              text        NOT NULL DEFAULT 'Australia/Sydney',
  currency                char(3)     NOT NULL DEFAULT 'AUD',
  "platformFeeBps"        integer     NOT NULL DEFAULT 1500,
  "holdMinutes"           integer     NOT NULL DEFAULT 30,
  "noticeMinutes"         integer     NOT NULL DEFAULT 120,
  "travelBufferMin"       integer     NOT NULL DEFAULT 15,
  "noShowGraceMinutes"    integer     NOT NULL DEFAULT 15,
  "fullRefundHours"       integer     NOT NULL DEFAULT 24,
  "partialRefundHours"    integer     NOT NULL DEFAULT 2,
  "partialRefundPercent"  integer     NOT NULL DEFAULT 50,
  "suspendedAt"           timestamptz,
  version                 integer     NOT NULL DEFAULT 1,
  "createdAt"             timestamptz NOT NULL DEFAULT now(),
  "updatedAt"             timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT org_pkey PRIMARY KEY (id),
  CONSTRAINT org_name_given CHECK (char_length(name) BETWEEN 1 AND 200),
  CONSTRAINT org_currency_is_iso CHECK (currency ~ '^[A-Z]{3}$'),
  CONSTRAINT org_fee_is_a_share CHECK ("platformFeeBps" BETWEEN 0 AND 10000),
  CONSTRAINT org_hold_at_most_a_day CHECK ("holdMinutes" BETWEEN 1 AND 1440),
  CONSTRAINT org_notice_at_most_30_days CHECK ("noticeMinutes" BETWEEN 0 AND 43200),
  CONSTRAINT org_travel_buffer_at_most_4_hours CHECK ("travelBufferMin" BETWEEN 0 AND 240),
  CONSTRAINT org_grace_at_most_4_hours CHECK ("noShowGraceMinutes" BETWEEN 0 AND 240),
  CONSTRAINT org_refund_steps_in_order
    CHECK ("partialRefundHours" BETWEEN 0 AND "fullRefundHours" AND "fullRefundHours" <= 720),
  CONSTRAINT org_refund_percent_is_a_share CHECK ("partialRefundPercent" BETWEEN 0 AND 100)
);
ALTER TABLE booking."Org" OWNER TO booking_owner;
ALTER TABLE booking."Org" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY org_only ON booking."Org"
  USING (id = (SELECT NULLIF(current_setting('driveflow.org_id', true), '')::uuid));
COMMENT ON TABLE booking."Org" IS 'A school. Its id is the org_id of its tokens.';
COMMENT ON COLUMN booking."Org"."timeZone" IS 'IANA name; hours and dates of the school are on its wall clock.';
GRANT SELECT, INSERT, UPDATE ON booking."Org" TO booking;


CREATE TABLE booking."Instructor" (
  "orgId"           uuid        NOT NULL,
  id                uuid        NOT NULL DEFAULT uuidv7(),
  "displayName"     text        NOT NULL,
  phone             text        NOT NULL DEFAULT '',
  "licenseId"       text        NOT NULL DEFAULT '',
  active            boolean     NOT NULL DEFAULT true,
  "stripeAccountId" text        NOT NULL DEFAULT '',
  "travelBufferMin" integer,
  "calendarVersion" integer     NOT NULL DEFAULT 1,
  version           integer     NOT NULL DEFAULT 1,
  "createdAt"       timestamptz NOT NULL DEFAULT now(),
  "updatedAt"       timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT instructor_pkey PRIMARY KEY ("orgId", id),
  CONSTRAINT instructor_of_org FOREIGN KEY ("orgId") REFERENCES booking."Org" (id),
  CONSTRAINT instructor_name_given CHECK (char_length("displayName") BETWEEN 1 AND 200),
  CONSTRAINT instructor_travel_buffer_at_most_4_hours CHECK ("travelBufferMin" BETWEEN 0 AND 240)
);
ALTER TABLE booking."Instructor" OWNER TO booking_owner;
ALTER TABLE booking."Instructor" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY org_only ON booking."Instructor"
  USING ("orgId" = (SELECT NULLIF(current_setting('driveflow.org_id', true), '')::uuid));
CREATE INDEX idx_instructor_org_active ON booking."Instructor" ("orgId", active, id);
COMMENT ON COLUMN booking."Instructor"."travelBufferMin" IS 'Null: the school''s.';
COMMENT ON COLUMN booking."Instructor"."calendarVersion" IS
  'Raised with every change of the hours or their exceptions: the etag of the calendar.';
GRANT SELECT, INSERT, UPDATE ON booking."Instructor" TO booking;


CREATE TABLE booking."Student" (
  "orgId"           uuid        NOT NULL,
  id                uuid        NOT NULL DEFAULT uuidv7(),
  "fullName"        text        NOT NULL,
  "nameKey"         text        COLLATE "C" NOT NULL GENERATED ALWAYS AS
    (casefold(normalize("fullName", NFKC) COLLATE pg_unicode_fast) COLLATE "C") STORED,
  phone             text        NOT NULL DEFAULT '',
  email             text        NOT NULL DEFAULT '',
  dob               date,
  notes             text        NOT NULL DEFAULT '',
  "erasedAt"        timestamptz,
  version           integer     NOT NULL DEFAULT 1,
  "createdAt"       timestamptz NOT NULL DEFAULT now(),
  "updatedAt"       timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT student_pkey PRIMARY KEY ("orgId", id),
  CONSTRAINT student_of_org FOREIGN KEY ("orgId") REFERENCES booking."Org" (id),
  CONSTRAINT student_name_given CHECK (char_length("fullName") BETWEEN 1 AND 200)
);
ALTER TABLE booking."Student" OWNER TO booking_owner;
ALTER TABLE booking."Student" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY org_only ON booking."Student"
  USING ("orgId" = (SELECT NULLIF(current_setting('driveflow.org_id', true), '')::uuid));
CREATE INDEX idx_student_org_name ON booking."Student" ("orgId", "fullName", id);
CREATE INDEX idx_student_org_name_key ON booking."Student" ("orgId", "nameKey", id);
COMMENT ON COLUMN booking."Student"."nameKey" IS
  'The name without case. In the C collation, so that a prefix is a range that an index serves.';
GRANT SELECT, INSERT, UPDATE ON booking."Student" TO booking;


CREATE TABLE booking."Guardian" (
  "orgId"     uuid        NOT NULL,
  id          uuid        NOT NULL DEFAULT uuidv7(),
  "fullName"  text        NOT NULL,
  phone       text        NOT NULL DEFAULT '',
  email       text        NOT NULL DEFAULT '',
  "createdAt" timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT guardian_pkey PRIMARY KEY ("orgId", id),
  CONSTRAINT guardian_of_org FOREIGN KEY ("orgId") REFERENCES booking."Org" (id),
  CONSTRAINT guardian_name_given CHECK (char_length("fullName") BETWEEN 1 AND 200)
);
ALTER TABLE booking."Guardian" OWNER TO booking_owner;
ALTER TABLE booking."Guardian" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY org_only ON booking."Guardian"
  USING ("orgId" = (SELECT NULLIF(current_setting('driveflow.org_id', true), '')::uuid));
GRANT SELECT, INSERT, UPDATE, DELETE ON booking."Guardian" TO booking;


CREATE TABLE booking."StudentGuardian" (
  "orgId"      uuid        NOT NULL,
  "studentId"  uuid        NOT NULL,
  "guardianId" uuid        NOT NULL,
  relationship text        NOT NULL DEFAULT '',
  "createdAt"  timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT student_guardian_pkey PRIMARY KEY ("orgId", "studentId", "guardianId"),
  CONSTRAINT student_guardian_of_student
    FOREIGN KEY ("orgId", "studentId") REFERENCES booking."Student" ("orgId", id),
  CONSTRAINT student_guardian_of_guardian
    FOREIGN KEY ("orgId", "guardianId") REFERENCES booking."Guardian" ("orgId", id)
    ON DELETE CASCADE
);
ALTER TABLE booking."StudentGuardian" OWNER TO booking_owner;
ALTER TABLE booking."StudentGuardian" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY org_only ON booking."StudentGuardian"
  USING ("orgId" = (SELECT NULLIF(current_setting('driveflow.org_id', true), '')::uuid));
CREATE INDEX idx_student_guardian_guardian
  ON booking."StudentGuardian" ("orgId", "guardianId");
GRANT SELECT, INSERT, DELETE ON booking."StudentGuardian" TO booking;


CREATE TABLE booking."Service" (
  "orgId"           uuid        NOT NULL,
  id                uuid        NOT NULL DEFAULT uuidv7(),
  name              text        NOT NULL,
  "durationMin"     integer     NOT NULL,
  "bufferBeforeMin" integer     NOT NULL DEFAULT 0,
  "bufferAfterMin"  integer     NOT NULL DEFAULT 0,
  "slotStepMin"     integer     NOT NULL DEFAULT 15,
  active            boolean     NOT NULL DEFAULT true,
  version           integer     NOT NULL DEFAULT 1,
  "createdAt"       timestamptz NOT NULL DEFAULT now(),
  "updatedAt"       timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT service_pkey PRIMARY KEY ("orgId", id),
  CONSTRAINT service_of_org FOREIGN KEY ("orgId") REFERENCES booking."Org" (id),
  CONSTRAINT service_name_unique UNIQUE ("orgId", name),
  CONSTRAINT service_name_given CHECK (char_length(name) BETWEEN 1 AND 200),
  CONSTRAINT service_at_most_12_hours CHECK ("durationMin" BETWEEN 5 AND 720),
  CONSTRAINT service_buffers_at_most_4_hours
    CHECK ("bufferBeforeMin" BETWEEN 0 AND 240 AND "bufferAfterMin" BETWEEN 0 AND 240),
  CONSTRAINT service_step_divides_the_hour CHECK ("slotStepMin" IN (5, 10, 15, 20, 30, 60))
);
ALTER TABLE booking."Service" OWNER TO booking_owner;
ALTER TABLE booking."Service" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY org_only ON booking."Service"
  USING ("orgId" = (SELECT NULLIF(current_setting('driveflow.org_id', true), '')::uuid));
GRANT SELECT, INSERT, UPDATE ON booking."Service" TO booking;


CREATE TABLE booking."RateCard" (
  "orgId"     uuid        NOT NULL,
  id          uuid        NOT NULL DEFAULT uuidv7(),
  name        text        NOT NULL,
  "validFrom" date        NOT NULL,
  "validTo"   date,
  "createdAt" timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT rate_card_pkey PRIMARY KEY ("orgId", id),
  CONSTRAINT rate_card_of_org FOREIGN KEY ("orgId") REFERENCES booking."Org" (id),
  CONSTRAINT rate_card_name_given CHECK (char_length(name) BETWEEN 1 AND 200),
  CONSTRAINT rate_card_dates_in_order CHECK ("validTo" >= "validFrom")
);
ALTER TABLE booking."RateCard" OWNER TO booking_owner;
ALTER TABLE booking."RateCard" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY org_only ON booking."RateCard"
  USING ("orgId" = (SELECT NULLIF(current_setting('driveflow.org_id', true), '')::uuid));
GRANT SELECT, INSERT ON booking."RateCard" TO booking;


CREATE TABLE booking."RateCardItem" (
  "orgId"      uuid    NOT NULL,
  "rateCardId" uuid    NOT NULL,
  "serviceId"  uuid    NOT NULL,
  "priceCents" bigint  NOT NULL,
  "validFrom"  date    NOT NULL,
  "validTo"    date,
  CONSTRAINT rate_card_item_pkey PRIMARY KEY ("orgId", "rateCardId", "serviceId"),
  CONSTRAINT rate_card_item_of_card
    FOREIGN KEY ("orgId", "rateCardId") REFERENCES booking."RateCard" ("orgId", id),
  CONSTRAINT rate_card_item_of_service
    FOREIGN KEY ("orgId", "serviceId") REFERENCES booking."Service" ("orgId", id),
  CONSTRAINT rate_card_item_price_not_negative CHECK ("priceCents" BETWEEN 0 AND 100000000),
  CONSTRAINT rate_card_item_no_overlap EXCLUDE USING gist (
    "orgId" WITH =, "serviceId" WITH =, daterange("validFrom", "validTo", '[]') WITH &&)
);
ALTER TABLE booking."RateCardItem" OWNER TO booking_owner;
ALTER TABLE booking."RateCardItem" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY org_only ON booking."RateCardItem"
  USING ("orgId" = (SELECT NULLIF(current_setting('driveflow.org_id', true), '')::uuid));
CREATE INDEX idx_rate_card_item_service
  ON booking."RateCardItem" ("orgId", "serviceId", "validFrom");
COMMENT ON COLUMN booking."RateCardItem"."validTo" IS
  'Last date; a later rate card ends an open one. Null: open.';
GRANT SELECT, INSERT, UPDATE ("validTo") ON booking."RateCardItem" TO booking;


CREATE TABLE booking."Vehicle" (
  "orgId"           uuid        NOT NULL,
  id                uuid        NOT NULL DEFAULT uuidv7(),
  label             text        NOT NULL,
  transmission      text,
  active            boolean     NOT NULL DEFAULT true,
  version           integer     NOT NULL DEFAULT 1,
  "createdAt"       timestamptz NOT NULL DEFAULT now(),
  "updatedAt"       timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT vehicle_pkey PRIMARY KEY ("orgId", id),
  CONSTRAINT vehicle_of_org FOREIGN KEY ("orgId") REFERENCES booking."Org" (id),
  CONSTRAINT vehicle_label_unique UNIQUE ("orgId", label),
  CONSTRAINT vehicle_label_given CHECK (char_length(label) BETWEEN 1 AND 100),
  CONSTRAINT vehicle_transmission_known CHECK (transmission IN ('manual', 'automatic'))
);
ALTER TABLE booking."Vehicle" OWNER TO booking_owner;
ALTER TABLE booking."Vehicle" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY org_only ON booking."Vehicle"
  USING ("orgId" = (SELECT NULLIF(current_setting('driveflow.org_id', true), '')::uuid));
GRANT SELECT, INSERT, UPDATE ON booking."Vehicle" TO booking;


-- migrate:down
