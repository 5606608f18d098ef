"""GPS points come in: exactly once, at COPY speed.

In the order of a point's way: `session` speaks the protocol with a gateway, `decoding` turns its
messages into columns, `writer` gathers what waits from all streams and stores it in one
transaction, `judging` says which points can't be stored and why, `copying` makes the bytes.
"""
