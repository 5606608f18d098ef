-- name: add_rule
-- The rule of a check as it comes, unless there is one.
INSERT INTO "AlertRule" (name, direction, unit, "warningAt", "criticalAt", "clearAt", "forSeconds",
                         "clearSeconds")
VALUES (%(name)s::text, %(direction)s::text, %(unit)s::text, %(warning_at)s::float8,
        %(critical_at)s::float8, %(clear_at)s::float8, %(for_s)s::int, %(clear_s)s::int)
ON CONFLICT (name) DO NOTHING;

-- name: all_rules
-- The rules of all checks.
SELECT {columns} FROM "AlertRule" ORDER BY name;

-- name: list_rules
-- A page of rules.
SELECT {columns} FROM "AlertRule" WHERE name > %(after)s::text ORDER BY name LIMIT %(limit)s::int;

-- name: lock_rule
-- A rule that is about to be changed.
SELECT {columns} FROM "AlertRule" WHERE name = %(name)s::text FOR UPDATE;

-- name: update_rule
-- A rule with all its new values.
UPDATE "AlertRule"
   SET enabled = %(enabled)s::bool, "warningAt" = %(warning_at)s::float8,
       "criticalAt" = %(critical_at)s::float8, "clearAt" = %(clear_at)s::float8,
       "forSeconds" = %(for_s)s::int, "clearSeconds" = %(clear_s)s::int,
       "mutedUntil" = %(muted_until)s::timestamptz, version = version + 1, "updatedAt" = now(),
       "updatedBy" = %(updated_by)s::text
 WHERE name = %(name)s::text
RETURNING {columns};
