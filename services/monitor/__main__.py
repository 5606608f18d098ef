"""The monitor service: settings, a small pool, what it asks others, servicer, serve."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

from pydantic import AnyHttpUrl, Field, SecretStr, ValidationInfo, field_validator

from driveflow.monitor.v1 import monitor_pb2, monitor_pb2_grpc
from libs import audit, background, checks, pooling, server
from libs.access import Verifier
from libs.leader import Leader, at_most_every, forget_requests
from libs.orgs import Orgs
from libs.pages import Pages
from libs.settings import Settings as CommonSettings
from services.monitor import backlogs, tables, usage
from services.monitor.alerting import Alerting
from services.monitor.checks import ALL
from services.monitor.exporting import LOOK_EVERY_S as EXPORT_EVERY_S
from services.monitor.exporting import Exporting
from services.monitor.health import Health
from services.monitor.plans import Plans
from services.monitor.replicas import Replicas
from services.monitor.schedule import Schedule
from services.monitor.scraping import Scraping
from services.monitor.servicer.desk import Desk
from services.monitor.servicer.monitor import MonitorServicer
from services.monitor.snapshots import Snapshots
from services.monitor.webhook import Webhook

LEADER_LOCK = 0x6D6F6E69746F72  # "monitor"
LOOK_EVERY_S = 2.0
FORGET_S = 600.0
# It must never make a bad situation worse: short statements, and it queues behind no lock.
SESSION = {
    "statement_timeout": 2_000,
    "lock_timeout": 500,
    "transaction_timeout": 10_000,
    "idle_in_transaction_session_timeout": 5_000,
}
LONG_CALLS_S = {"VerifyQueryPlans": 30.0, "CaptureSnapshot": 30.0}


class Settings(CommonSettings):
    """What the monitor needs beside the common settings."""

    pool_max_size: int = Field(6, ge=2, description="connections of the monitor's own")
    services: str | None = Field(
        None, description="whom to ask for backlogs of events: name=host:port,…"
    )
    metrics_sources: str | None = Field(
        None, description="metrics endpoints of all processes: name=host:port,…"
    )
    replica_dsns: SecretStr | None = Field(
        None, description="replicas and how to connect: name=postgresql://…, with spaces between"
    )
    disk_bytes_max: int | None = Field(
        None, gt=0, description="how large the database may grow; forecasts and checks use it"
    )
    schedule_s: float = Field(300.0, gt=0, description="seconds between two scheduled checks")
    signals: bool = Field(True, description="let CancelBackend and TerminateBackend act")
    alert_webhook_url: AnyHttpUrl | None = Field(None, description="is told of alerts by POST")
    alert_webhook_secret: SecretStr | None = Field(
        None, validate_default=True, description="signs what that is told"
    )

    @field_validator("services", "metrics_sources")
    @classmethod
    def _pairs(cls, text: str | None) -> str | None:
        if text is not None and not re.fullmatch(r"([a-z][a-z0-9_-]*=[^\s,=]+:\d+(,|$))*", text):
            raise ValueError("not name=host:port, with commas between")
        return text

    @field_validator("replica_dsns")
    @classmethod
    def _named_dsns(cls, text: SecretStr | None) -> SecretStr | None:
        form = r"([a-z][a-z0-9_-]*=postgres(ql)?://\S+(\s+|$))*"
        if text is not None and not re.fullmatch(form, text.get_secret_value()):
            raise ValueError("not name=postgresql://…, with spaces between")
        return text

    @field_validator("alert_webhook_secret")
    @classmethod
    def _goes_with_the_url(cls, secret: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if info.data.get("alert_webhook_url") and not (secret and secret.get_secret_value()):
            raise ValueError("missing: what the webhook is told must be signed")
        return secret


def now() -> datetime:
    """The clock of production; tests inject their own."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Parts:
    """What the service is made of."""

    desk: Desk
    health: Health
    schedule: Schedule
    exporting: Exporting
    snapshots: Snapshots
    plans: Plans
    alerting: Alerting
    webhook: Webhook | None


async def assemble(
    settings: Settings, stack: AsyncExitStack, clock: Callable[[], datetime] = now
) -> Parts:
    """All parts, with nothing under way yet; the stack closes what they opened."""
    dsn = settings.dsn.get_secret_value()
    pool = pooling.create("monitor", dsn, settings, min_size=1, session=SESSION)
    await checks.open_pools(stack, settings.start_timeout_s, pool)
    await checks.refuse_wrong_start(pool, "monitor")

    desk = Desk(
        orgs=Orgs(pool),
        pages=Pages(settings.page_token_key.get_secret_value().encode()),
        scraping=Scraping(_pairs(settings.metrics_sources), clock),
        backlogs=backlogs.connected(settings, stack, dict(_pairs(settings.services))),
        replicas=Replicas(_named(settings.replica_dsns)),
        clock=clock,
        signals=settings.signals,
        disk_bytes_max=settings.disk_bytes_max,
    )
    health = Health(desk, ALL)
    await health.make_rules()
    every = timedelta(seconds=settings.schedule_s)
    exporting = Exporting(desk, report_every=every)
    captures = {"tables": tables.capture_tables, "indexes": usage.capture_indexes}
    forced = {"tables": partial(tables.capture_tables, force=True)}
    snapshots, plans = Snapshots(desk, captures, forced), Plans(desk)
    webhook = _webhook(desk, settings)
    alerting = Alerting(desk, webhook=webhook is not None)
    schedule = Schedule(
        desk,
        health,
        every=every,
        snapshots=[snapshots.take_scheduled, plans.verify_when_due],
        # What Prometheus is told counts the alerts that are open then.
        told=[alerting.told, exporting.told],
    )
    return Parts(desk, health, schedule, exporting, snapshots, plans, alerting, webhook)


async def build(
    settings: Settings, stack: AsyncExitStack, clock: Callable[[], datetime] = now
) -> server.Server:
    """Everything of the service, started but for listening; the stack ends it in order."""
    parts = await assemble(settings, stack, clock)
    background.run(stack, maintenance(parts, settings.dsn.get_secret_value()).run())
    probe = partial(checks.answer, parts.desk.orgs.pool)
    serving = server.Server(settings, Verifier.of(settings), probe=probe)
    serving.add(
        monitor_pb2.DESCRIPTOR.services_by_name["MonitorService"],
        monitor_pb2_grpc.add_MonitorServiceServicer_to_server,
        MonitorServicer(parts.desk, parts.health, parts.snapshots, parts.plans),
        long_calls_s=LONG_CALLS_S,
    )
    return serving


def maintenance(parts: Parts, dsn: str) -> Leader:
    """What one process of all does."""
    forget = partial(forget_requests, parts.desk.orgs, audit.PLATFORM)
    duties = [
        ("export", at_most_every(EXPORT_EVERY_S, parts.exporting.look)),
        ("health", parts.schedule.when_due),
        ("forget reports", at_most_every(FORGET_S, parts.schedule.forget)),
        ("forget requests", at_most_every(FORGET_S, forget)),
        ("forget snapshots", at_most_every(FORGET_S, parts.snapshots.forget)),
        ("forget alerts", at_most_every(FORGET_S, parts.alerting.forget)),
        ("thin snapshots", at_most_every(FORGET_S, partial(tables.thin_snapshots, parts.desk))),
    ]
    if parts.webhook is not None:
        duties.append(("webhook", parts.webhook.deliver))
    return Leader(dsn, lock=LEADER_LOCK, every_s=LOOK_EVERY_S, name="monitor", duties=duties)


def _pairs(text: str | None) -> list[tuple[str, str]]:
    """name=host:port,… as pairs; a name may come twice, for two processes."""
    each = (pair.partition("=") for pair in (text or "").split(",") if pair)
    return [(name, address) for name, _, address in each]


def _named(dsns: SecretStr | None) -> dict[str, str]:
    each = (pair.partition("=") for pair in (dsns.get_secret_value() if dsns else "").split())
    return {name: dsn for name, _, dsn in each}


def _webhook(desk: Desk, settings: Settings) -> Webhook | None:
    url, secret = settings.alert_webhook_url, settings.alert_webhook_secret
    return Webhook(desk, str(url), secret.get_secret_value()) if url and secret else None


async def main(settings: Settings) -> None:
    """Serve until told to stop."""
    async with AsyncExitStack() as stack:
        await (await build(settings, stack)).serve()


if __name__ == "__main__":
    server.run("monitor", Settings, main)
