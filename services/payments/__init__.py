"""Payments: what lessons cost, who paid, and what instructors earn.

Owns the schema payments. So far it holds the tables that every service has (tenants, outbox,
idempotency keys, audit log) and serves health; its RPCs come after booking's.
"""
