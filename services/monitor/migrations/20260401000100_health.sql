-- migrate:up
-- Reports of the scheduled checks, and the rules by which they are judged.

CREATE TABLE monitor."HealthReport" (
  id           uuid             NOT NULL DEFAULT uuidv7(),
  at           timestamptz      NOT NULL,
  status       text             NOT NULL,
  checks       jsonb            NOT NULL,
  "durationMs" double precision NOT NULL,
  CONSTRAINT health_report_pkey PRIMARY KEY (id),
  CONSTRAINT health_report_status_known CHECK (status IN ('ok', 'warning', 'critical'))
);
ALTER TABLE monitor."HealthReport" OWNER TO monitor_owner;
CREATE INDEX idx_health_report_at ON monitor."HealthReport" (at, id);
COMMENT ON TABLE monitor."HealthReport" IS 'What the schedule found, every five minutes; kept 30 days.';
GRANT SELECT, INSERT, DELETE ON monitor."HealthReport" TO monitor;


CREATE TABLE monitor."AlertRule" (
  name           text             NOT NULL,
  enabled        boolean          NOT NULL DEFAULT true,
  direction      text             NOT NULL,
  unit           text             NOT NULL,
  "warningAt"    double precision,
  "criticalAt"   double precision,
  "clearAt"      double precision,
  "forSeconds"   integer          NOT NULL,
  "clearSeconds" integer          NOT NULL,
  "mutedUntil"   timestamptz,
  version        integer          NOT NULL DEFAULT 1,
  "updatedAt"    timestamptz      NOT NULL DEFAULT now(),
  "updatedBy"    text             NOT NULL DEFAULT '',
  CONSTRAINT alert_rule_pkey PRIMARY KEY (name),
  CONSTRAINT alert_rule_direction_known CHECK (direction IN ('above', 'below')),
  CONSTRAINT alert_rule_durations_not_negative CHECK ("forSeconds" >= 0 AND "clearSeconds" >= 0),
  CONSTRAINT alert_rule_thresholds_ordered CHECK (
    CASE direction
      WHEN 'above' THEN "criticalAt" >= "warningAt" AND "clearAt" <= "warningAt"
      ELSE "criticalAt" <= "warningAt" AND "clearAt" >= "warningAt"
    END IS NOT FALSE)
);
ALTER TABLE monitor."AlertRule" OWNER TO monitor_owner;
COMMENT ON TABLE monitor."AlertRule" IS
  'One for each check: its thresholds, and how long they must be passed. Made when the monitor starts.';
GRANT SELECT, INSERT ON monitor."AlertRule" TO monitor;
GRANT UPDATE (enabled, "warningAt", "criticalAt", "clearAt", "forSeconds", "clearSeconds", "mutedUntil",
              version, "updatedAt", "updatedBy") ON monitor."AlertRule" TO monitor;

-- migrate:down
