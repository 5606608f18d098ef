"""Alerts that have fired."""

from __future__ import annotations

from services.monitor.servicer.desk import Desk


class Alerts:
    """Alerts that have fired."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
