"""What all methods work with."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime

from libs import audit
from libs.orgs import Orgs
from libs.pages import Pages
from libs.pooling import Connection, connection
from services.monitor.backlogs import AskingBacklogs
from services.monitor.replicas import Replicas
from services.monitor.scraping import Scraping


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """One per process."""

    orgs: Orgs
    pages: Pages
    scraping: Scraping
    backlogs: AskingBacklogs
    replicas: Replicas
    clock: Callable[[], datetime]
    signals: bool = True
    """Whether sessions may be cancelled and ended."""
    disk_bytes_max: int | None = None
    """How large the database may grow; None: not known."""

    def read(self) -> AbstractAsyncContextManager[Connection]:
        """A connection for SELECTs, each of which is a transaction of its own."""
        return connection(self.orgs.pool)

    def write(self) -> AbstractAsyncContextManager[Connection]:
        """A transaction on the monitor's own tables, audited as the platform's."""
        return self.orgs.write(audit.PLATFORM)
