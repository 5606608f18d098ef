-- migrate:up
-- What was there at a time, so that growth can be told; and which base backups were taken.

CREATE TABLE monitor."CapacitySnapshot" (
  at               timestamptz NOT NULL,
  "databaseBytes"  bigint      NOT NULL,
  "walBytes"       bigint      NOT NULL,
  "transactionIds" bigint      NOT NULL,
  CONSTRAINT capacity_snapshot_pkey PRIMARY KEY (at)
);
ALTER TABLE monitor."CapacitySnapshot" OWNER TO monitor_owner;
COMMENT ON TABLE monitor."CapacitySnapshot" IS
  'Once an hour, kept 14 days, then the first of each day for 400 days: the size of the database, and the WAL and transaction ids used since the server was made.';
GRANT SELECT, INSERT, DELETE ON monitor."CapacitySnapshot" TO monitor;


CREATE TABLE monitor."TableSnapshot" (
  at           timestamptz NOT NULL,
  schema       text        NOT NULL,
  "table"      text        NOT NULL,
  "totalBytes" bigint      NOT NULL,
  "indexBytes" bigint      NOT NULL,
  "liveRows"   bigint      NOT NULL,
  "deadRows"   bigint      NOT NULL,
  CONSTRAINT table_snapshot_pkey PRIMARY KEY (at, schema, "table"),
  CONSTRAINT table_snapshot_of_capacity_snapshot FOREIGN KEY (at)
    REFERENCES monitor."CapacitySnapshot" (at) ON DELETE CASCADE
);
ALTER TABLE monitor."TableSnapshot" OWNER TO monitor_owner;
COMMENT ON TABLE monitor."TableSnapshot" IS
  'Each table at the time of a snapshot, partitions summed under their parent.';
GRANT SELECT, INSERT ON monitor."TableSnapshot" TO monitor;


CREATE TABLE monitor."SequenceSnapshot" (
  at       timestamptz NOT NULL,
  schema   text        NOT NULL,
  sequence text        NOT NULL,
  used     bigint      NOT NULL,
  CONSTRAINT sequence_snapshot_pkey PRIMARY KEY (at, schema, sequence),
  CONSTRAINT sequence_snapshot_of_capacity_snapshot FOREIGN KEY (at)
    REFERENCES monitor."CapacitySnapshot" (at) ON DELETE CASCADE
);
ALTER TABLE monitor."SequenceSnapshot" OWNER TO monitor_owner;
COMMENT ON TABLE monitor."SequenceSnapshot" IS 'How far each sequence was at the time of a snapshot.';
GRANT SELECT, INSERT ON monitor."SequenceSnapshot" TO monitor;


-- Whoever takes base backups notes each of them here, as the role ops: a row when one begins, which
-- is changed when it ends. The monitor only reads: what watches backups must not be able to say that
-- there was one.
CREATE TABLE monitor."BackupRun" (
  id          uuid        NOT NULL DEFAULT uuidv7(),
  "startedAt" timestamptz NOT NULL DEFAULT now(),
  "endedAt"   timestamptz,
  status      text        NOT NULL DEFAULT 'running',
  bytes       bigint      NOT NULL DEFAULT 0,
  location    text        NOT NULL DEFAULT '',
  error       text        NOT NULL DEFAULT '',
  CONSTRAINT backup_run_pkey PRIMARY KEY (id),
  CONSTRAINT backup_run_status_known CHECK (status IN ('running', 'done', 'failed')),
  CONSTRAINT backup_run_ended CHECK ((status = 'running') = ("endedAt" IS NULL))
);
ALTER TABLE monitor."BackupRun" OWNER TO monitor_owner;
CREATE INDEX idx_backup_run_started ON monitor."BackupRun" ("startedAt");
COMMENT ON TABLE monitor."BackupRun" IS 'Base backups, noted by the job that takes them as the role ops.';
GRANT SELECT ON monitor."BackupRun" TO monitor;
GRANT SELECT, INSERT ON monitor."BackupRun" TO ops;
GRANT UPDATE ("endedAt", status, bytes, location, error) ON monitor."BackupRun" TO ops;

-- migrate:down
