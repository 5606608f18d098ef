"""GPS points come in: exactly once, at COPY speed.

In the order of a point's way: `session` speaks the protocol with a gateway and keeps what `uploads`
describes; `decoding` (plain points by `wire`) turns messages into columns; `writer` gathers what
waits from all streams; `judging` says which points can't be stored and why, from what is `known`;
`flush` puts the others in order; `copying` makes the bytes of one transaction.
"""
