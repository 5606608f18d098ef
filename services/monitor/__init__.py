"""Monitor: what an operator wants to know of the database.

Owns the schema monitor. So far it holds the tables that every service has (tenants, outbox,
idempotency keys, audit log) and serves health; its RPCs come after those of payments.
"""
