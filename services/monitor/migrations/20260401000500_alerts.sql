-- migrate:up
-- Alerts: what held for long enough by its rule, and what was sent of it.

CREATE TABLE monitor."Alert" (
  id               uuid             NOT NULL DEFAULT uuidv7(),
  rule             text             NOT NULL,
  state            text             NOT NULL,
  severity         text             NOT NULL,
  summary          text             NOT NULL DEFAULT '',
  figure           double precision,
  threshold        double precision,
  unit             text             NOT NULL DEFAULT '',
  evidence         text[]           NOT NULL DEFAULT '{}',
  "nextStep"       text             NOT NULL DEFAULT '',
  command          text             NOT NULL DEFAULT '',
  "startedAt"      timestamptz      NOT NULL,
  "firedAt"        timestamptz,
  "clearAt"        timestamptz,
  "resolvedAt"     timestamptz,
  muted            boolean          NOT NULL DEFAULT false,
  told             boolean          NOT NULL DEFAULT false,
  "acknowledgedBy" text             NOT NULL DEFAULT '',
  "acknowledgedAt" timestamptz,
  note             text             NOT NULL DEFAULT '',
  version          integer          NOT NULL DEFAULT 1,
  "updatedAt"      timestamptz      NOT NULL DEFAULT now(),
  CONSTRAINT alert_pkey PRIMARY KEY (id),
  CONSTRAINT alert_state_known CHECK (state IN ('pending', 'open', 'resolved')),
  CONSTRAINT alert_severity_known CHECK (severity IN ('warning', 'critical')),
  CONSTRAINT alert_times_fit_state CHECK (
    (state = 'pending') = ("firedAt" IS NULL) AND (state = 'resolved') = ("resolvedAt" IS NOT NULL))
);
ALTER TABLE monitor."Alert" OWNER TO monitor_owner;
CREATE UNIQUE INDEX alert_one_unresolved_per_rule ON monitor."Alert" (rule) WHERE state <> 'resolved';
CREATE INDEX idx_alert_fired ON monitor."Alert" ("firedAt", id) WHERE state <> 'pending';
CREATE INDEX idx_alert_updated ON monitor."Alert" ("updatedAt");
COMMENT ON TABLE monitor."Alert" IS
  'pending: it holds, not yet for long enough; open: it fired. Kept 400 days after it was resolved.';
COMMENT ON COLUMN monitor."Alert"."clearAt" IS 'Since when an open one is well, without a break.';
COMMENT ON COLUMN monitor."Alert".told IS 'Whether a sink heard of it, and so must hear of its end.';
GRANT SELECT, INSERT, DELETE ON monitor."Alert" TO monitor;
GRANT UPDATE (state, severity, summary, figure, threshold, unit, evidence, "nextStep", command, "firedAt",
              "clearAt", "resolvedAt", muted, told, "acknowledgedBy", "acknowledgedAt", note, version,
              "updatedAt") ON monitor."Alert" TO monitor;


CREATE TABLE monitor."AlertNotification" (
  id              uuid        NOT NULL DEFAULT uuidv7(),
  "alertId"       uuid        NOT NULL,
  kind            text        NOT NULL,
  payload         jsonb       NOT NULL,
  "createdAt"     timestamptz NOT NULL,
  attempts        integer     NOT NULL DEFAULT 0,
  "nextAttemptAt" timestamptz,
  "deliveredAt"   timestamptz,
  "lastError"     text        NOT NULL DEFAULT '',
  CONSTRAINT alert_notification_pkey PRIMARY KEY (id),
  CONSTRAINT alert_notification_of_alert FOREIGN KEY ("alertId")
    REFERENCES monitor."Alert" (id) ON DELETE CASCADE,
  CONSTRAINT alert_notification_kind_known CHECK (kind IN ('fired', 'escalated', 'resolved'))
);
ALTER TABLE monitor."AlertNotification" OWNER TO monitor_owner;
CREATE INDEX idx_alert_notification_alert ON monitor."AlertNotification" ("alertId", id);
CREATE INDEX idx_alert_notification_due ON monitor."AlertNotification" ("nextAttemptAt")
  WHERE "nextAttemptAt" IS NOT NULL;
CREATE INDEX idx_alert_notification_created ON monitor."AlertNotification" ("createdAt");
COMMENT ON TABLE monitor."AlertNotification" IS
  'What the webhook is told, written with the change that it tells; kept 30 days.';
COMMENT ON COLUMN monitor."AlertNotification"."nextAttemptAt" IS
  'Null: delivered, or given up after the last attempt.';
GRANT SELECT, INSERT, DELETE ON monitor."AlertNotification" TO monitor;
GRANT UPDATE (attempts, "nextAttemptAt", "deliveredAt", "lastError") ON monitor."AlertNotification"
  TO monitor;

-- migrate:down
