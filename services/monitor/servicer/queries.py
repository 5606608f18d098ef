"""Statements: slow and frequent ones, their plans, snapshots."""

from __future__ import annotations

from services.monitor.servicer.desk import Desk


class Queries:
    """Statements: slow and frequent ones, their plans, snapshots."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
