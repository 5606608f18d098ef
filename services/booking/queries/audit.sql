-- part: entry
-- What is asked for of audit entries.
SELECT {columns}
  FROM "AuditLog"
 WHERE "orgId" = %(org_id)s::uuid

-- part: page
-- Newest first, behind the row id.
id < %(before_id)s::uuid
 ORDER BY id DESC
 LIMIT %(limit)s::int

-- name: list_audit_entries
-- A page of the school's audit log.
{entry} AND {page};

-- name: list_audit_entries_of_kind
-- A page of what happened to one kind of thing (idx_audit_org_entity).
{entry} AND "entityType" = %(entity_type)s::text
   AND (%(actor_user_id)s::text IS NULL OR "actorUserId" = %(actor_user_id)s::text)
   AND {page};

-- name: list_audit_entries_of_entity
-- A page of what happened to one thing (idx_audit_org_entity).
{entry} AND "entityType" = %(entity_type)s::text AND "entityId" = %(entity_id)s::text
   AND (%(actor_user_id)s::text IS NULL OR "actorUserId" = %(actor_user_id)s::text)
   AND {page};

-- name: list_audit_entries_of_actor
-- A page of what one subject did (idx_audit_actor_created), behind the row (createdAt, id): by id
-- alone the index would give no order, and each page read all that the subject ever did.
{entry} AND "actorUserId" = %(actor_user_id)s::text
   AND ("createdAt", id) < (%(before_time)s::timestamptz, %(before_id)s::uuid)
 ORDER BY "createdAt" DESC, id DESC
 LIMIT %(limit)s::int;
