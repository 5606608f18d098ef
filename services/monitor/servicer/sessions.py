"""Sessions: connections, who waits for whom, long transactions, signals."""

from __future__ import annotations

from services.monitor.servicer.desk import Desk


class Sessions:
    """Sessions: connections, who waits for whom, long transactions, signals."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
