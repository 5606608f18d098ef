-- migrate:up
-- How often indexes were used, day by day; and since when each is known, for one that is new is not
-- unused.

CREATE TABLE monitor."IndexSnapshot" (
  day           date        NOT NULL,
  schema        text        NOT NULL,
  "table"       text        NOT NULL,
  index         text        NOT NULL,
  "indexId"     oid         NOT NULL,
  scans         bigint      NOT NULL,
  bytes         bigint      NOT NULL,
  "firstSeenAt" timestamptz NOT NULL,
  CONSTRAINT index_snapshot_pkey PRIMARY KEY (day, schema, index)
);
ALTER TABLE monitor."IndexSnapshot" OWNER TO monitor_owner;
COMMENT ON TABLE monitor."IndexSnapshot" IS
  'Counters of each index at the first snapshot of a day (UTC), partitions summed; kept 60 days.';
COMMENT ON COLUMN monitor."IndexSnapshot"."indexId" IS
  'An index of the same name with another one is a new index.';
COMMENT ON COLUMN monitor."IndexSnapshot".bytes IS 'As of the last VACUUM or ANALYZE.';
COMMENT ON COLUMN monitor."IndexSnapshot"."firstSeenAt" IS
  'Handed on from day to day: it is older than what is kept.';
GRANT SELECT, INSERT, DELETE ON monitor."IndexSnapshot" TO monitor;
GRANT UPDATE ("table", "indexId", scans, bytes, "firstSeenAt") ON monitor."IndexSnapshot" TO monitor;

-- migrate:down
