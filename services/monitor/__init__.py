"""Monitor: what an operator wants to know of the database, by one RPC each.

Owns the schema monitor: health reports, alert rules and alerts, snapshots of statements, tables and
indexes, the ledger of the guide's indexes, backups. None of it is a school's; the monitor sees
statistics, never a tenant's row: of other schemas it may read counters and ask for plans
(`explain`), no table. Pools and RPC durations come from the metrics of each process, backlogs of
events from each service's GetBacklog.

One process of all, the leader, checks every five minutes, keeps the report, and fires alerts.
Emits and takes in no events.
"""
