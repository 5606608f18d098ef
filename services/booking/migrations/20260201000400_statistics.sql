-- migrate:up
-- What the planner cannot see in single columns.

-- Whoever acts does so for one school. Without it a page of a subject's entries would be looked for
-- by reading the index of all that the school ever did.
CREATE STATISTICS booking.audit_log_actor_of_org (dependencies)
  ON "orgId", "actorUserId" FROM booking."AuditLog";
ALTER STATISTICS booking.audit_log_actor_of_org OWNER TO booking_owner;

-- migrate:down
