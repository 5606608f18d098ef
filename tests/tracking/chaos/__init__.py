"""Breaks things under devices that stream points, and proves that nothing was lost or doubled.

A site is a PostgreSQL and a tracking service as processes of their own. Devices speak the protocol
with code of their own, so that the proof does not rest on the project's client, and remember every
point that was acknowledged. At the end the tables are held against their memory.
"""
