-- part: taken
-- What PostgreSQL has counted of this database's statements; their texts stay where they are.
SELECT s.queryid AS query_id, pg_get_userbyid(s.userid)::text AS role, s.stats_since, s.calls,
       s.total_exec_time AS total_ms,
       s.calls * (s.stddev_exec_time * s.stddev_exec_time + s.mean_exec_time * s.mean_exec_time)
         AS squares,
       s.rows, s.shared_blks_hit AS hit, s.shared_blks_read AS read
  FROM public.pg_stat_statements(showtext => false) AS s
 WHERE s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND s.toplevel AND s.calls > 0

-- part: added
-- What each statement added since the last capture, all of it where its counters began anew; and how
-- far it has come.
SELECT t.query_id, t.role, t.calls - coalesce(k.calls, 0) AS calls,
       t.total_ms - coalesce(k."totalMs", 0) AS total_ms,
       t.squares - coalesce(k.squares, 0) AS squares, t.rows - coalesce(k.rows, 0) AS rows,
       t.hit - coalesce(k."hitBlocks", 0) AS hit, t.read - coalesce(k."readBlocks", 0) AS read,
       t.stats_since, t.calls AS all_calls, t.total_ms AS all_ms, t.squares AS all_squares,
       t.rows AS all_rows, t.hit AS all_hit, t.read AS all_read
  FROM ({taken}) AS t
  LEFT JOIN "TrackedQuery" AS k
    ON k."queryId" = t.query_id AND k.role = t.role AND k."statsSince" = t.stats_since
 WHERE t.calls > coalesce(k.calls, 0)

-- part: figures
-- Each statement's share in a window: what was kept of it, and what came since.
WITH added AS ({added}), figures AS (
  SELECT query_id, role, sum(calls)::int8 AS calls, sum(total_ms) AS total_ms,
         sum(squares) AS squares, sum(rows)::int8 AS rows, sum(hit) AS hit, sum(read) AS read
    FROM (SELECT query_id, role, calls, total_ms, squares, rows, hit, read FROM added
           UNION ALL
          SELECT "queryId", role, calls, "totalMs", squares, rows, "hitBlocks", "readBlocks"
            FROM "QuerySnapshot"
           WHERE at > %(start_at)s::timestamptz AND at <= %(end_at)s::timestamptz) AS f
   GROUP BY query_id, role
)

-- part: evicted
-- Statements dropped since the last capture: a twentieth of all places each time they run out.
(CASE WHEN i.stats_reset = c."statsReset" THEN i.dealloc - c.dealloc ELSE i.dealloc END
  * greatest(10, current_setting('pg_stat_statements.max', true)::int / 20))

-- part: join_before
-- The seven days before the window.
LEFT JOIN LATERAL (
  SELECT sum(s."totalMs") / sum(s.calls) AS mean_ms FROM "QuerySnapshot" AS s
   WHERE s."queryId" = p.query_id AND s.role = ANY (p.roles)
     AND s.at <= %(start_at)s::timestamptz
     AND s.at > %(start_at)s::timestamptz - make_interval(days => 7)) AS b ON true

-- name: lock_captures
-- Whether nobody else takes a snapshot; holds until the transaction ends.
SELECT pg_try_advisory_xact_lock(%(lock)s::bigint);

-- name: capture_queries
-- Keeps what each statement added since the last capture, and how far it has come now. The first
-- capture keeps nothing: nobody knows when that was added. Answers with the statements that were
-- called, and how many of these have no text yet.
WITH added AS ({added}), last AS (
  SELECT at, "statsReset", dealloc FROM "QueryCapture" ORDER BY id DESC LIMIT 1
), kept AS (
  INSERT INTO "QuerySnapshot"
         ("queryId", role, at, calls, "totalMs", squares, rows, "hitBlocks", "readBlocks")
  SELECT query_id, role, %(at)s::timestamptz, calls, total_ms, squares, rows, hit, read
    FROM added WHERE EXISTS (SELECT FROM last)
  RETURNING 1
), tracked AS (
  INSERT INTO "TrackedQuery" AS k
         ("queryId", role, "statsSince", calls, "totalMs", squares, rows, "hitBlocks", "readBlocks",
          "seenAt")
  SELECT query_id, role, stats_since, all_calls, all_ms, all_squares, all_rows, all_hit, all_read,
         %(at)s::timestamptz
    FROM added
  ON CONFLICT ("queryId", role) DO UPDATE
     SET "statsSince" = EXCLUDED."statsSince", calls = EXCLUDED.calls,
         "totalMs" = EXCLUDED."totalMs", squares = EXCLUDED.squares, rows = EXCLUDED.rows,
         "hitBlocks" = EXCLUDED."hitBlocks", "readBlocks" = EXCLUDED."readBlocks",
         "seenAt" = EXCLUDED."seenAt"
  RETURNING k.text IS NULL AS is_new
), captured AS (
  INSERT INTO "QueryCapture" (at, "startAt", "statsReset", dealloc, evicted)
  SELECT %(at)s::timestamptz, c.at, i.stats_reset, i.dealloc, coalesce({evicted}, 0)
    FROM public.pg_stat_statements_info AS i LEFT JOIN last AS c ON true
)
SELECT (SELECT count(*) FROM kept), (SELECT count(*) FROM tracked WHERE is_new);

-- name: texts_missing
-- Texts of statements that have none yet, most called first; longer ones are cut.
SELECT s.queryid, k.role, left(s.query, %(length)s::int)
  FROM "TrackedQuery" AS k
  JOIN public.pg_stat_statements AS s
    ON s.queryid = k."queryId" AND pg_get_userbyid(s.userid) = k.role
 WHERE k.text IS NULL AND s.toplevel AND s.query IS NOT NULL
   AND s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
 ORDER BY s.calls DESC LIMIT %(limit)s::int;

-- name: keep_texts
-- Texts that were scrubbed, and the names in them.
UPDATE "TrackedQuery" AS k SET text = t.text, name = t.name
  FROM unnest(%(query_ids)s::bigint[], %(roles)s::text[], %(texts)s::text[], %(names)s::text[])
       AS t (query_id, role, text, name)
 WHERE k."queryId" = t.query_id AND k.role = t.role;

-- name: find_window
-- The capture that a window begins with: the first one within, else the last one before. Since then,
-- how many statements were dropped. No row before the first capture.
SELECT w.at,
       coalesce((SELECT sum(e.evicted)::int8 FROM "QueryCapture" AS e
                  WHERE e.at > w.at AND e.at <= %(end_at)s::timestamptz), 0)
       + (SELECT {evicted} FROM public.pg_stat_statements_info AS i
            LEFT JOIN (SELECT "statsReset", dealloc FROM "QueryCapture" ORDER BY id DESC LIMIT 1)
              AS c ON true)
  FROM (SELECT coalesce(
          (SELECT min(at) FROM "QueryCapture"
            WHERE at >= %(start_at)s::timestamptz AND at <= %(end_at)s::timestamptz),
          (SELECT max(at) FROM "QueryCapture" WHERE at < %(start_at)s::timestamptz)) AS at) AS w
 WHERE w.at IS NOT NULL;

-- name: list_queries
-- Which statements cost what within a window, in one of three orders; and how many there are.
{figures}, ranked AS (
  SELECT query_id, role, ARRAY[role] AS roles, calls, total_ms, squares, rows, hit, read,
         total_ms / calls AS mean_ms,
         CASE %(by)s::text WHEN 'mean' THEN total_ms / calls WHEN 'total' THEN total_ms ELSE calls END
           AS rank
    FROM figures
   WHERE calls >= %(min_calls)s::bigint AND total_ms / calls >= %(min_mean_ms)s::float8
), page AS (
  SELECT query_id, role, roles, calls, total_ms, squares, rows, hit, read, mean_ms, rank FROM ranked
   WHERE (rank, query_id, role)
         < (%(before_rank)s::float8, %(before_id)s::bigint, %(before_role)s::text)
   ORDER BY rank DESC, query_id DESC, role DESC LIMIT %(limit)s::int
)
SELECT (SELECT count(*) FROM ranked), {columns}
  FROM page AS p
  LEFT JOIN "TrackedQuery" AS t ON t."queryId" = p.query_id AND t.role = p.role
  {joins}
 ORDER BY p.rank DESC, p.query_id DESC, p.role DESC;

-- name: get_query
-- What one statement cost within a window, of one role or of all together.
{figures}, summed AS (
  SELECT query_id, array_agg(role) AS roles, sum(calls)::int8 AS calls, sum(total_ms) AS total_ms,
         sum(squares) AS squares, sum(rows)::int8 AS rows, sum(hit) AS hit, sum(read) AS read
    FROM figures
   WHERE query_id = %(query_id)s::bigint AND (%(role)s::text = '' OR role = %(role)s::text)
   GROUP BY query_id
), p AS (
  SELECT query_id, roles, CASE cardinality(roles) WHEN 1 THEN roles[1] ELSE '' END AS role, calls,
         total_ms, squares, rows, hit, read, total_ms / calls AS mean_ms
    FROM summed
)
SELECT {columns}
  FROM p
  LEFT JOIN "TrackedQuery" AS t ON t."queryId" = p.query_id AND t.role = p.roles[1]
  {joins};

-- name: find_query
-- A statement that may not have been called for long.
SELECT role, text, name FROM "TrackedQuery"
 WHERE "queryId" = %(query_id)s::bigint AND (%(role)s::text = '' OR role = %(role)s::text)
 ORDER BY "seenAt" DESC LIMIT 1;

-- name: list_points
-- What a statement added between each two captures of a window, and since the last one.
WITH added AS ({added})
SELECT c."startAt", s.at, sum(s.calls)::int8, sum(s."totalMs"), sum(s.rows)::int8
  FROM "QuerySnapshot" AS s JOIN "QueryCapture" AS c USING (at)
 WHERE s."queryId" = %(query_id)s::bigint AND (%(role)s::text = '' OR s.role = %(role)s::text)
   AND s.at > %(start_at)s::timestamptz AND s.at <= %(end_at)s::timestamptz
 GROUP BY c."startAt", s.at
 UNION ALL
SELECT (SELECT at FROM "QueryCapture" ORDER BY id DESC LIMIT 1), %(end_at)s::timestamptz,
       sum(calls)::int8, sum(total_ms), sum(rows)::int8
  FROM added
 WHERE query_id = %(query_id)s::bigint AND (%(role)s::text = '' OR role = %(role)s::text)
HAVING sum(calls) > 0
 ORDER BY 2;

-- name: list_texts
-- Texts of statements as PostgreSQL has them now, with the role that runs each; longer ones are cut.
SELECT s.queryid, pg_get_userbyid(s.userid)::text, left(s.query, %(length)s::int)
  FROM public.pg_stat_statements AS s
 WHERE s.queryid = ANY (%(query_ids)s::bigint[]) AND s.toplevel AND s.query IS NOT NULL
   AND s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
 ORDER BY s.calls DESC;

-- name: merge_captures
-- Makes one of the captures of an hour: the earliest hour that has several. How many went into it.
WITH several AS (
  SELECT date_trunc('hour', at) AS hour, max(at) AS last_at, min("startAt") AS start_at,
         sum(evicted)::int8 AS evicted
    FROM "QueryCapture" WHERE at < date_trunc('hour', %(before)s::timestamptz)
   GROUP BY 1 HAVING count(*) > 1
   ORDER BY 1 LIMIT 1
), merged AS (
  DELETE FROM "QueryCapture" AS c USING several AS h
   WHERE c.at >= h.hour AND c.at < h.last_at
  RETURNING c.at
), lasting AS (
  UPDATE "QueryCapture" AS c SET "startAt" = h.start_at, evicted = h.evicted
    FROM several AS h WHERE c.at = h.last_at
), gone AS (
  DELETE FROM "QuerySnapshot" AS s USING several AS h
   WHERE s.at >= h.hour AND s.at < h.last_at
  RETURNING s."queryId", s.role, h.last_at, s.calls, s."totalMs", s.squares, s.rows, s."hitBlocks",
            s."readBlocks"
), kept AS (
  INSERT INTO "QuerySnapshot" AS s
         ("queryId", role, at, calls, "totalMs", squares, rows, "hitBlocks", "readBlocks")
  SELECT "queryId", role, last_at, sum(calls), sum("totalMs"), sum(squares), sum(rows),
         sum("hitBlocks"), sum("readBlocks")
    FROM gone GROUP BY "queryId", role, last_at
  ON CONFLICT ("queryId", role, at) DO UPDATE
     SET calls = s.calls + EXCLUDED.calls, "totalMs" = s."totalMs" + EXCLUDED."totalMs",
         squares = s.squares + EXCLUDED.squares, rows = s.rows + EXCLUDED.rows,
         "hitBlocks" = s."hitBlocks" + EXCLUDED."hitBlocks",
         "readBlocks" = s."readBlocks" + EXCLUDED."readBlocks"
)
SELECT count(*) FROM merged;

-- name: forget_snapshots
-- Deletes what was kept of captures that are too old, a few thousand at a time.
DELETE FROM "QuerySnapshot" WHERE ctid = ANY (ARRAY(
       SELECT ctid FROM "QuerySnapshot" WHERE at < %(before)s::timestamptz
        ORDER BY at LIMIT 5000));

-- name: forget_captures
-- Deletes captures that are too old; the last one stays, for the next to go on from.
DELETE FROM "QueryCapture"
 WHERE at < %(before)s::timestamptz AND id < (SELECT id FROM "QueryCapture" ORDER BY id DESC LIMIT 1);

-- name: forget_queries
-- Deletes statements that were not called for long. Not those that are still counted: what they have
-- come to would count as new.
DELETE FROM "TrackedQuery" AS k
 WHERE k."seenAt" < %(before)s::timestamptz
   AND (k."queryId", k.role) NOT IN (
       SELECT s.queryid, pg_get_userbyid(s.userid)
         FROM public.pg_stat_statements(showtext => false) AS s
        WHERE s.queryid IS NOT NULL);
