"""MonitorService: one class for each topic, with the methods that belong together."""

from __future__ import annotations

from driveflow.monitor.v1 import monitor_pb2_grpc
from services.monitor.health import Health
from services.monitor.plans import Plans
from services.monitor.servicer.alerts import Alerts
from services.monitor.servicer.desk import Desk
from services.monitor.servicer.health import HealthReports
from services.monitor.servicer.indexes import Indexes
from services.monitor.servicer.queries import Queries
from services.monitor.servicer.rules import Rules
from services.monitor.servicer.sessions import Sessions
from services.monitor.servicer.tables import Tables
from services.monitor.snapshots import Snapshots


class MonitorServicer(
    HealthReports,
    Queries,
    Indexes,
    Sessions,
    Tables,
    Alerts,
    Rules,
    monitor_pb2_grpc.MonitorServiceServicer,
):
    """Health, statements, indexes, sessions, tables, alerts."""

    def __init__(self, desk: Desk, health: Health, snapshots: Snapshots, plans: Plans) -> None:
        HealthReports.__init__(self, desk, health)
        Queries.__init__(self, desk, snapshots, plans)
        for topic in (Indexes, Sessions, Tables, Alerts, Rules):
            topic.__init__(self, desk)
