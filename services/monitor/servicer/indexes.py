"""Indexes: used, unused, large, broken, missing."""

from __future__ import annotations

from services.monitor.servicer.desk import Desk


class Indexes:
    """Indexes: used, unused, large, broken, missing."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
