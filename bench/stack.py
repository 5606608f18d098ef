"""A PostgreSQL and a service for a bench, as in production, and what they cost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import psutil
import psycopg

from libs import issuer
from libs.healthcheck import status
from libs.local.paths import ROOT
from tests.collector import Collector, collecting
from tests.postgres import Database, embedded_server, free_port, make_template

SCHOOL = uuid.UUID("0a000000-0000-7000-8000-000000000001")
CORES = 2
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 20.0
STABLE_TRIES = 100


@dataclass(frozen=True)
class Cpu:
    """Seconds of CPU used so far, in user and system mode."""

    service: float
    postgres: float
    machine: float
    """All processes on the cores of the bench."""
    bench: float
    """The bench with its clients."""

    def __sub__(self, before: Cpu) -> Cpu:
        return Cpu(
            self.service - before.service,
            self.postgres - before.postgres,
            self.machine - before.machine,
            self.bench - before.bench,
        )

    @property
    def strangers(self) -> float:
        """Of processes that have nothing to do with the bench."""
        return max(0.0, self.machine - self.service - self.postgres - self.bench)


@dataclass(frozen=True)
class Stack:
    """A running service and its database."""

    database: Database
    address: str
    service: psutil.Process
    cores: list[int]
    key: str
    folder: Path
    """Of its keys and logs."""
    metrics: str
    """host:port of the service's Prometheus endpoint."""
    collector: Collector
    """Of its traces: one call in a hundred, as by default."""

    def token(self, org_id: uuid.UUID = SCHOOL) -> str:
        """A token of the bench's school, or of another."""
        return issuer.sign(
            self.key,
            subject="bench",
            scopes=issuer.TENANT_SCOPES,
            org_id=org_id,
            ttl=timedelta(hours=2),
        )

    def admin(self) -> psycopg.Connection:
        """A superuser's connection, autocommit."""
        return psycopg.connect(self.database.admin_dsn, autocommit=True)

    def rss_mb(self) -> float:
        """Memory of the service that is resident."""
        return float(self.service.memory_info().rss) / 1e6

    def cpu(self) -> Cpu:
        """What was used until now."""
        service = _own(self.service)
        cores = psutil.cpu_times(percpu=True)
        busy = sum(sum(cores[core]) - cores[core].idle - cores[core].iowait for core in self.cores)
        # The service is a child of the bench; PostgreSQL, a daemon, is not.
        bench = _with_children(psutil.Process()) - service
        return Cpu(service, self._postgres_s(), busy, bench)

    def _postgres_s(self) -> float:
        embedded = self.database.server.embedded
        postmaster = embedded.postmaster() if embedded is not None else None
        assert postmaster is not None
        return _with_children(postmaster)


def _own(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _with_children(process: psutil.Process) -> float:
    """CPU of a process and of its children, those included that have ended."""
    for _ in range(STABLE_TRIES):
        children = set(process.children())
        try:
            living = sum(_own(child) for child in children)
        except psutil.NoSuchProcess:
            continue
        times = process.cpu_times()
        own = times.user + times.system + times.children_user + times.children_system
        # One that ended in between would be missing, or counted twice.
        if set(process.children()) == children:
            return living + float(own)
    raise RuntimeError("the processes change all the time")


@contextmanager
def running_stack(service: str = "tracking") -> Iterator[Stack]:
    """PostgreSQL with the configuration as shipped, migrated, and a service, on two cores."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    cores = sorted(os.sched_getaffinity(0))[:CORES]
    os.sched_setaffinity(0, cores)
    with (
        tempfile.TemporaryDirectory(prefix="driveflow-bench-") as folder,
        embedded_server() as pg,
        collecting() as collector,
    ):
        database = make_template(pg)
        key = issuer.new_key()
        (Path(folder) / "jwks.json").write_text(issuer.jwks(key))
        more = {"DRIVEFLOW_OTLP_ENDPOINT": collector.endpoint}
        with running_service(service, database, Path(folder), more) as (address, process, metrics):
            yield Stack(database, address, process, cores, key, Path(folder), metrics, collector)


@contextmanager
def running_service(
    name: str, database: Database, folder: Path, more: Mapping[str, str] | None = None
) -> Iterator[tuple[str, psutil.Process, str]]:
    """A service's process: its address, and that of its metrics. `more` are settings."""
    address, metrics = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    settings = {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos'}",
        "DRIVEFLOW_LISTEN": address,
        "DRIVEFLOW_METRICS_LISTEN": metrics,
        "DRIVEFLOW_DSN": database.dsn(name),
        "DRIVEFLOW_JWKS": str(folder / "jwks.json"),
        "DRIVEFLOW_PAGE_TOKEN_KEY": "bench" * 16,
        **(more or {}),
    }
    if name == "tracking":
        settings["DRIVEFLOW_INGEST_DSN"] = database.dsn("tracking_ingest")
        settings["DRIVEFLOW_MAINTENANCE_DSN"] = database.dsn("tracking_maintenance")
    log = folder / f"{name}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", f"services.{name}"],
            cwd=ROOT,
            env=os.environ | settings,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        _wait_serving(address, process, log)
        yield address, psutil.Process(process.pid), metrics
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_serving(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    give_up = time.monotonic() + START_TIMEOUT_S
    while status(address) != "SERVING":
        if process.poll() is not None or time.monotonic() > give_up:
            sys.exit(f"the service does not serve:\n{log.read_text()[-4000:]}")
        time.sleep(0.05)
