-- part: session
-- What is told of a session: of its query only the name behind the first keyword, never the text.
a.pid, a.backend_start, coalesce(a.usename::text, '') AS role,
CASE WHEN a.backend_type = 'client backend' THEN coalesce(a.application_name, '')
     ELSE a.backend_type END AS application_name,
coalesce(a.state, 'unknown') AS state,
coalesce(substring(a.query FROM '^\s*\w+ /\* [\w.]+ \*/'), '') AS query, a.query_id,
-- Others began theirs after this statement had begun.
greatest(0, extract(epoch FROM now() - coalesce(a.state_change, a.backend_start)))::float8
  AS state_s,
CASE WHEN a.xact_start IS NOT NULL
     THEN greatest(0, extract(epoch FROM now() - a.xact_start))::float8 END AS transaction_s,
CASE WHEN a.state = 'active'
     THEN greatest(0, extract(epoch FROM now() - a.query_start))::float8 END AS query_s,
concat_ws(': ', a.wait_event_type, a.wait_event) AS wait,
coalesce(host(a.client_addr), '') AS client

-- part: clients
-- Clients' sessions in this database, without the monitor's own.
a.backend_type = 'client backend' AND a.datname = current_database()
   AND a.usename IS DISTINCT FROM current_user

-- name: states
-- How many connections there are in each state, and for how long.
SELECT coalesce(a.state, 'unknown'), count(*)::int,
       avg(age.s)::float8, max(age.s)::float8
  FROM pg_stat_activity AS a
 CROSS JOIN LATERAL (
       SELECT greatest(0, extract(epoch FROM now() - coalesce(a.state_change, a.backend_start))) AS s
       ) AS age
 WHERE {clients}
 GROUP BY 1 ORDER BY 2 DESC, 1;

-- name: roles
-- How many connections each login role has, and what they do.
SELECT coalesce(a.usename::text, ''), count(*)::int,
       (count(*) FILTER (WHERE a.state = 'active'))::int,
       (count(*) FILTER (WHERE a.state IN ('idle in transaction', 'idle in transaction (aborted)')))::int
  FROM pg_stat_activity AS a
 WHERE {clients}
 GROUP BY 1 ORDER BY 2 DESC, 1;

-- name: places
-- Connections of the whole server, the monitor's own as well, and how many it takes of anyone who
-- is no superuser.
SELECT count(*)::int,
       current_setting('max_connections')::int
       - current_setting('superuser_reserved_connections')::int
       - current_setting('reserved_connections')::int
  FROM pg_stat_activity WHERE backend_type = 'client backend';

-- name: lock_waits
-- Sessions that wait for a lock, and whom each waits for. Asked of these alone: pg_blocking_pids
-- stops everybody's locking for a moment. A wait began after its statement did.
WITH waiting AS MATERIALIZED (
       SELECT a.pid FROM pg_stat_activity AS a
        WHERE {clients} AND a.wait_event_type = 'Lock'
          AND a.state_change <= now() - make_interval(secs => %(min_s)s::float8)
        ORDER BY a.state_change LIMIT %(limit)s::int)
SELECT pid, pg_blocking_pids(pid) FROM waiting;

-- name: count_lock_waits
-- How many sessions wait for a lock.
SELECT count(*)::int FROM pg_stat_activity AS a WHERE {clients} AND a.wait_event_type = 'Lock';

-- name: locks_of
-- The locks of these sessions: those that they wait for, and those that they hold of the same kinds
-- of things. Prepared transactions have no number.
SELECT coalesce(l.pid, 0), l.granted, l.mode,
       concat_ws(' ', l.locktype, l.database, l.relation, l.page, l.tuple, l.virtualxid,
                 l.transactionid, l.classid, l.objid, l.objsubid) AS object,
       CASE l.locktype WHEN 'transactionid' THEN 'transaction'
                       WHEN 'virtualxid' THEN 'virtual transaction'
                       WHEN 'relation' THEN ''
                       WHEN 'advisory' THEN 'advisory lock'
                       ELSE l.locktype END,
       CASE WHEN c.oid IS NULL THEN l.relation::text
            ELSE c.relnamespace::regnamespace::text || '.' || quote_ident(c.relname) END,
       greatest(0, extract(epoch FROM clock_timestamp() - l.waitstart))::float8
  FROM pg_locks AS l
  LEFT JOIN pg_class AS c ON c.oid = l.relation
       AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
 WHERE coalesce(l.pid, 0) = ANY (%(pids)s::int[]);

-- name: sessions_of
-- Sessions by their numbers, whoever's they are.
SELECT {session} FROM pg_stat_activity AS a WHERE a.pid = ANY (%(pids)s::int[]);

-- name: long_transactions
-- Transactions that have been open for long, oldest first.
SELECT {session}, a.xact_start
  FROM pg_stat_activity AS a
 WHERE {clients} AND a.xact_start <= now() - make_interval(secs => %(min_s)s::float8)
   AND (NOT %(idle_only)s::bool OR a.state IN ('idle in transaction', 'idle in transaction (aborted)'))
   AND (a.xact_start, a.pid) > (%(after)s::timestamptz, %(after_pid)s::int)
 ORDER BY a.xact_start, a.pid LIMIT %(limit)s::int;

-- name: longest_idle
-- Sessions in a transaction that wait for their client, longest first.
SELECT {session}
  FROM pg_stat_activity AS a
 WHERE {clients} AND a.state IN ('idle in transaction', 'idle in transaction (aborted)')
 ORDER BY a.state_change LIMIT %(limit)s::int;

-- name: horizon
-- Who keeps the oldest row versions alive, and by how many transaction numbers: a session, a
-- replication slot, a replica or a prepared transaction.
SELECT holder, xids
  FROM (SELECT concat_ws(' ', 'session', a.pid, nullif(a.application_name, '')) AS holder,
               age(a.backend_xmin) AS xids
          FROM pg_stat_activity AS a
         WHERE a.backend_xmin IS NOT NULL AND a.pid <> pg_backend_pid()
         UNION ALL
        SELECT 'replication slot ' || slot_name, greatest(age(xmin), age(catalog_xmin))
          FROM pg_replication_slots WHERE xmin IS NOT NULL OR catalog_xmin IS NOT NULL
         UNION ALL
        SELECT 'replica ' || application_name, age(backend_xmin)
          FROM pg_stat_replication WHERE backend_xmin IS NOT NULL
         UNION ALL
        SELECT 'prepared transaction', age(transaction) FROM pg_prepared_xacts) AS h
 ORDER BY xids DESC LIMIT 1;

-- name: statement_texts
-- Statements of this database, normalised, by their numbers.
SELECT queryid, min(query)
  FROM public.pg_stat_statements AS s
 WHERE s.queryid = ANY (%(ids)s::int8[])
   AND s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
 GROUP BY 1;

-- name: cancel
-- Cancels what a session runs, if it is still the same session; the session as it was.
SELECT {session}, pg_cancel_backend(a.pid), clock_timestamp()
  FROM pg_stat_activity AS a
 WHERE {clients} AND a.pid = %(pid)s::int AND a.backend_start = %(backend_start)s::timestamptz;

-- name: terminate
-- Ends a session, if it is still the same session; the session as it was.
SELECT {session}, pg_terminate_backend(a.pid), clock_timestamp()
  FROM pg_stat_activity AS a
 WHERE {clients} AND a.pid = %(pid)s::int AND a.backend_start = %(backend_start)s::timestamptz;
