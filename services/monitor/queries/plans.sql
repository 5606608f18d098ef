-- name: list_ledger
-- The guide's indexes, who needs each, and what was last found; of one index or of all.
SELECT schema, index, "table", rpc, query, verdict, detail, "queryId", "checkedAt", "lastUsedAt"
  FROM "IndexLedger"
 WHERE %(index)s::text = '' OR index = %(index)s::text
 ORDER BY index, query, schema;

-- name: index_states
-- Indexes of the ledger that are there: whether they can be used, and how large their table is; of a
-- partitioned one its largest part.
SELECT n.nspname::text, c.relname::text, x.indisvalid, greatest(size.rows, 0)::int8, size.pages
  FROM (SELECT DISTINCT schema, index FROM "IndexLedger") AS l
  JOIN pg_namespace AS n ON n.nspname = l.schema
  JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = l.index
  JOIN pg_index AS x ON x.indexrelid = c.oid
 CROSS JOIN LATERAL (
       SELECT max(r.reltuples) AS rows,
              max(pg_relation_size(r.oid)) / current_setting('block_size')::int AS pages
         FROM pg_class AS r
        WHERE r.oid = x.indrelid
           OR r.oid IN (SELECT relid FROM pg_partition_tree(x.indrelid) WHERE isleaf)) AS size;

-- name: list_counted
-- Of each service's named statements the form that is called most.
SELECT DISTINCT ON (c.service, c.name) c.service, c.name, c.query_id
  FROM (SELECT split_part(pg_get_userbyid(s.userid)::text, '_', 1) AS service,
               substring(left(s.query, 200), '^\w+ /\* (\w+\.\w+) \*/') AS name,
               s.queryid AS query_id, s.calls
          FROM public.pg_stat_statements AS s
         WHERE s.toplevel AND pg_get_userbyid(s.userid)::text = ANY (%(roles)s::text[])
           AND s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())) AS c
 WHERE c.name = ANY (%(names)s::text[])
 ORDER BY c.service, c.name, c.calls DESC;

-- name: explain_query
-- A statement's plan, made by the function that its service's schema has for that.
SELECT {columns};

-- name: root_indexes
-- Indexes of a schema, of partitions that of the parent.
SELECT DISTINCT r.relname::text
  FROM pg_class AS c
  JOIN pg_class AS r ON r.oid = coalesce(pg_partition_root(c.oid), c.oid)
 WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = %(schema)s::text)
   AND c.relname = ANY (%(indexes)s::text[])
 ORDER BY 1;

-- name: keep_verdict
-- What was found of a line of the ledger.
UPDATE "IndexLedger"
   SET verdict = %(verdict)s::text, detail = %(detail)s::text, "queryId" = %(query_id)s::bigint,
       "checkedAt" = %(now)s::timestamptz,
       "lastUsedAt" = CASE %(verdict)s::text WHEN 'used' THEN %(now)s::timestamptz
                                             ELSE "lastUsedAt" END
 WHERE schema = %(schema)s::text AND index = %(index)s::text AND query = %(query)s::text;

-- name: last_verified_at
-- When plans were last looked at; null when never.
SELECT max("checkedAt") FROM "IndexLedger";
