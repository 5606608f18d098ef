-- migrate:up
-- What the monitor may ask of this schema. Made from libs/migrations/shared_explain.sql by
-- ./dev generate; once released it stays as it is, and changes are migrations of their own.

-- The plan of one of this service's own statements, whatever its values. It is planned as its owner,
-- to whom row-level security applies as it does to the service, and never run.
CREATE FUNCTION monitor.explain(query_id bigint, as_json boolean, seq_scans boolean)
RETURNS SETOF text
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '500ms'
SET enable_seqscan = on
AS $$
DECLARE
  statement text;
  plan      refcursor;
  line      text;
BEGIN
  SELECT s.query INTO statement
    FROM public.pg_stat_statements AS s
    JOIN pg_roles AS r ON r.oid = s.userid
    JOIN pg_database AS d ON d.oid = s.dbid
   WHERE s.queryid = query_id AND d.datname = current_database()
     AND r.rolname IN ('monitor', 'monitor_ingest')
   LIMIT 1;
  IF statement IS NULL THEN
    RAISE no_data_found USING MESSAGE = 'no statement of monitor has this number';
  END IF;
  -- Both are put back when the function ends.
  PERFORM set_config('search_path', 'monitor, pg_temp', true);
  PERFORM set_config('enable_seqscan', CASE WHEN seq_scans THEN 'on' ELSE 'off' END, true);
  -- A cursor takes a single statement: nothing can stand behind the one that is explained.
  OPEN plan FOR EXECUTE
    'EXPLAIN (GENERIC_PLAN, FORMAT ' || CASE WHEN as_json THEN 'JSON' ELSE 'TEXT' END || ') '
    || statement;
  LOOP
    FETCH plan INTO line;
    EXIT WHEN NOT FOUND;
    RETURN NEXT line;
  END LOOP;
  CLOSE plan;
END
$$;
ALTER FUNCTION monitor.explain(bigint, boolean, boolean) OWNER TO monitor_owner;
REVOKE ALL ON FUNCTION monitor.explain(bigint, boolean, boolean) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION monitor.explain(bigint, boolean, boolean) TO monitor;
COMMENT ON FUNCTION monitor.explain(bigint, boolean, boolean) IS
  'EXPLAIN (GENERIC_PLAN) of a statement of this service by its number in pg_stat_statements.';

-- How far the counters have come.
GRANT SELECT ON ALL SEQUENCES IN SCHEMA monitor TO monitor;

-- migrate:down
