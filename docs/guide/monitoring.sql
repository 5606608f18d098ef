-- The monitoring statements of the performance guide, as it has them, under its headings. They run as
-- written for the role ops, whose search_path begins with the schema guide:
--   ./dev psql ops < docs/guide/monitoring.sql
-- Only the database's name in "Monitor active connections" is another: here it is driveflow. What is
-- wrong with some of them, and what the monitor asks instead: docs/guide.md.

-- ### Query Pattern Analysis

-- Analyze actual query patterns
SELECT 
  query,
  calls,
  total_exec_time,
  mean_exec_time,
  rows
FROM pg_stat_statements 
WHERE query LIKE '%Booking%'
ORDER BY total_exec_time DESC;

-- ### Query Performance Analysis

-- Enable query statistics
CREATE EXTENSION IF NOT EXISTS pg_stat_statements;

-- Find slowest queries
SELECT 
  query,
  calls,
  total_exec_time,
  mean_exec_time,
  stddev_exec_time,
  rows,
  100.0 * shared_blks_hit / nullif(shared_blks_hit + shared_blks_read, 0) AS hit_percent
FROM pg_stat_statements 
ORDER BY mean_exec_time DESC 
LIMIT 20;

-- Find most frequent queries
SELECT 
  query,
  calls,
  total_exec_time,
  mean_exec_time
FROM pg_stat_statements 
ORDER BY calls DESC 
LIMIT 20;

-- ### Index Usage Analysis

-- Check index usage
SELECT 
  schemaname,
  tablename,
  indexname,
  idx_scan,
  idx_tup_read,
  idx_tup_fetch
FROM pg_stat_user_indexes 
ORDER BY idx_scan DESC;

-- Find unused indexes
SELECT 
  schemaname,
  tablename,
  indexname,
  idx_scan
FROM pg_stat_user_indexes 
WHERE idx_scan = 0
  AND indexname NOT LIKE '%_pkey';

-- Check index size
SELECT 
  tablename,
  indexname,
  pg_size_pretty(pg_relation_size(indexrelid)) as size
FROM pg_stat_user_indexes 
ORDER BY pg_relation_size(indexrelid) DESC;

-- ### Connection & Lock Monitoring

-- Monitor active connections
SELECT 
  state,
  COUNT(*) as connections,
  AVG(EXTRACT(EPOCH FROM (now() - state_change))) as avg_duration_seconds
FROM pg_stat_activity 
WHERE datname = 'driveflow_prod'
GROUP BY state;

-- Check for lock contention
SELECT 
  blocked_locks.pid AS blocked_pid,
  blocked_activity.usename AS blocked_user,
  blocking_locks.pid AS blocking_pid,
  blocking_activity.usename AS blocking_user,
  blocked_activity.query AS blocked_statement,
  blocking_activity.query AS blocking_statement
FROM pg_catalog.pg_locks blocked_locks
JOIN pg_catalog.pg_stat_activity blocked_activity ON blocked_activity.pid = blocked_locks.pid
JOIN pg_catalog.pg_locks blocking_locks ON blocking_locks.locktype = blocked_locks.locktype
JOIN pg_catalog.pg_stat_activity blocking_activity ON blocking_activity.pid = blocking_locks.pid
WHERE NOT blocked_locks.granted;

-- ### Automated Performance Monitoring

      SELECT query, calls, mean_exec_time
      FROM pg_stat_statements 
      WHERE mean_exec_time > 100  -- Queries slower than 100ms
      ORDER BY mean_exec_time DESC 
      LIMIT 10;

      SELECT COUNT(*) as count
      FROM pg_stat_activity 
      WHERE datname = current_database();
