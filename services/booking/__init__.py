"""Booking: a school's directory, calendar and lessons.

Owns the schema booking. So far it holds the tables that every service has (tenants, outbox,
idempotency keys, audit log) and serves health; its RPCs come next.
"""
