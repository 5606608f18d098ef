"""The tracking service as a process that may be killed, stopped and started again."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from libs import issuer
from libs.local.paths import ROOT
from tests.postgres import Database, free_port

SCHOOL = UUID("0c000000-0000-7000-8000-000000000001")
PATIENCE_S = 90.0
"""Longest wait for anything that must come; nothing that is measured."""
# One connection for each channel, and no long wait for a server that has just come back.
CHANNEL_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
)


class Service:
    """One tracking service at a fixed address."""

    def __init__(self, database: Database, folder: Path, *, drain_s: float = 2.0) -> None:
        self.drain_s = drain_s
        self.address = f"127.0.0.1:{free_port()}"
        self.log = folder / "tracking.log"
        self._database = database
        self._jwks = folder / "jwks.json"
        self._key = issuer.new_key()
        self._jwks.write_text(issuer.jwks(self._key))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The number of the running process."""
        return self._running.pid

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the service is not running")
        return self._process

    def token(self, subject: str, scopes: tuple[str, ...] = issuer.TENANT_SCOPES) -> str:
        """A token of the school."""
        ttl = timedelta(hours=4)
        return issuer.sign(self._key, subject=subject, scopes=scopes, org_id=SCHOOL, ttl=ttl)

    def channel(self) -> grpc.aio.Channel:
        """A connection of its own."""
        return grpc.aio.insecure_channel(self.address, CHANNEL_OPTIONS)

    async def start(self) -> None:
        """Start it and return once it serves."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220 (returns at once)
                [sys.executable, "-P", "-m", "services.tracking"],
                cwd=ROOT,
                env=os.environ | self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        await until(self.is_serving, "the service serves")

    async def is_serving(self) -> bool:
        """Whether health says so. Raises when the process has ended."""
        if self._running.poll() is not None:
            raise RuntimeError(
                f"the service has ended, code {self._running.returncode}: {self.log}"
            )
        async with self.channel() as channel:
            health = health_pb2_grpc.HealthStub(channel)
            try:
                request = health_pb2.HealthCheckRequest()
                answer = await health.Check(request, timeout=2)  # type: ignore[attr-defined]
            except grpc.aio.AioRpcError:
                return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def kill9(self) -> None:
        """Kill it; it gets no chance to say anything."""
        self._running.send_signal(signal.SIGKILL)
        await self._ended()

    async def stop(self) -> tuple[int, float]:
        """Ask it to stop; its exit code and how long it took, seconds."""
        began = time.monotonic()
        self._running.send_signal(signal.SIGTERM)
        return await self._ended(), time.monotonic() - began

    async def close(self) -> None:
        """Make sure that it is gone."""
        if self._process is not None:
            await self.kill9()

    async def _ended(self) -> int:
        code = await asyncio.to_thread(self._running.wait, PATIENCE_S)
        self._process = None
        return code

    def _environment(self) -> dict[str, str]:
        return {
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'protos'}",
            "DRIVEFLOW_LISTEN": self.address,
            "DRIVEFLOW_DSN": self._database.dsn("tracking"),
            "DRIVEFLOW_INGEST_DSN": self._database.dsn("tracking_ingest"),
            "DRIVEFLOW_MAINTENANCE_DSN": self._database.dsn("tracking_maintenance"),
            "DRIVEFLOW_JWKS": str(self._jwks),
            "DRIVEFLOW_PAGE_TOKEN_KEY": "chaos" * 16,
            "DRIVEFLOW_DRAIN_S": str(self.drain_s),
        }


async def until(condition: Callable[[], object], what: str, timeout_s: float = PATIENCE_S) -> float:
    """Wait until `condition` holds; how long that took, seconds. Raises TimeoutError."""
    began = time.monotonic()
    while True:
        answer = condition()
        if asyncio.iscoroutine(answer):
            answer = await answer
        if answer:
            return time.monotonic() - began
        if time.monotonic() - began > timeout_s:
            raise TimeoutError(f"{what}: not within {timeout_s:g} s")
        await asyncio.sleep(0.02)
