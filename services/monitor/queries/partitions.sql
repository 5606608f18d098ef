-- name: list_partitions
-- Which partitions each table by time has, and when; without time where a bound is open.
SELECT n.nspname::text, p.relname::text,
       greatest(pg_stat_get_last_analyze_time(p.oid), pg_stat_get_last_autoanalyze_time(p.oid)),
       c.relname::text, b.bound = 'DEFAULT',
       substring(b.bound FROM 'FROM \(''([^'']+)''\)')::timestamptz,
       substring(b.bound FROM 'TO \(''([^'']+)''\)')::timestamptz,
       coalesce(i.inhdetachpending, false), {columns}
  FROM pg_partitioned_table AS t
  JOIN pg_class AS p ON p.oid = t.partrelid
  JOIN pg_namespace AS n
    ON n.oid = p.relnamespace
   AND n.nspname = ANY (ARRAY['booking', 'payments', 'tracking', 'monitor']::name[])
  JOIN pg_attribute AS a
    ON a.attrelid = p.oid AND a.attnum = t.partattrs[0] AND a.atttypid = 'timestamptz'::regtype
  LEFT JOIN pg_inherits AS i ON i.inhparent = p.oid
  LEFT JOIN pg_class AS c ON c.oid = i.inhrelid
  -- Without the table's own number no lock is taken for it: a bound has no columns to name.
  CROSS JOIN LATERAL (SELECT pg_get_expr(c.relpartbound, 0)) AS b (bound)
 WHERE t.partstrat = 'r' AND t.partnatts = 1
 ORDER BY 1, 2, 6 NULLS FIRST, 4;
