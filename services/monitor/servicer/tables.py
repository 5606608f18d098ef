"""Tables and what they stand on: growth, partitions, replicas, backups."""

from __future__ import annotations

from services.monitor.servicer.desk import Desk


class Tables:
    """Tables and what they stand on: growth, partitions, replicas, backups."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
