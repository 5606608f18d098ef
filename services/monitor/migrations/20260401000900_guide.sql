-- migrate:up
-- What the performance guide's own monitoring statements read, for the role ops, whose search_path
-- begins with this schema: docs/guide/monitoring.sql runs as the guide has it. The two views that add
-- up the tables of all services are the one place where SQL crosses schemas, so that they come last
-- of all services' migrations; their owner passes row-level security, and they count and tell nothing
-- else. To change a column that they read, drop them before and make them anew after.

-- The guide calls relname tablename and indexrelname indexname.
CREATE VIEW guide.pg_stat_user_indexes AS
  SELECT relid, indexrelid, schemaname, relname, indexrelname,
         relname AS tablename, indexrelname AS indexname,
         idx_scan, last_idx_scan, idx_tup_read, idx_tup_fetch
    FROM pg_catalog.pg_stat_user_indexes;
ALTER VIEW guide.pg_stat_user_indexes OWNER TO migrator;
COMMENT ON VIEW guide.pg_stat_user_indexes IS
  'pg_catalog''s, with the names tablename and indexname beside its own.';

CREATE VIEW guide."Outbox" WITH (security_barrier) AS
  SELECT service, topic, count(*) - count("processedAt") AS pending, count("processedAt") AS processed
    FROM (SELECT 'booking' AS service, topic, "processedAt" FROM booking."Outbox"
          UNION ALL SELECT 'payments', topic, "processedAt" FROM payments."Outbox"
          UNION ALL SELECT 'tracking', topic, "processedAt" FROM tracking."Outbox"
          UNION ALL SELECT 'monitor', topic, "processedAt" FROM monitor."Outbox") AS events
   GROUP BY service, topic;
ALTER VIEW guide."Outbox" OWNER TO migrator;
COMMENT ON VIEW guide."Outbox" IS 'How many events of all schools together wait and do not, by service.';

CREATE VIEW guide."AuditLog" WITH (security_barrier) AS
  SELECT service, "entityType", action, count(*) AS entries
    FROM (SELECT 'booking' AS service, "entityType", action FROM booking."AuditLog"
          UNION ALL SELECT 'payments', "entityType", action FROM payments."AuditLog"
          UNION ALL SELECT 'tracking', "entityType", action FROM tracking."AuditLog"
          UNION ALL SELECT 'monitor', "entityType", action FROM monitor."AuditLog") AS entries
   GROUP BY service, "entityType", action;
ALTER VIEW guide."AuditLog" OWNER TO migrator;
COMMENT ON VIEW guide."AuditLog" IS
  'How often what was done to which kind of thing, in all schools together, by service.';

GRANT SELECT ON guide.pg_stat_user_indexes, guide."Outbox", guide."AuditLog" TO ops;

-- migrate:down
