"""What the services' processes tell of themselves: their pools, and how long their RPCs take.

Each process has a Prometheus endpoint (DRIVEFLOW_METRICS_LISTEN); the monitor reads those that its
settings name. RPC durations are counted there since the process began: those of a while are the
difference to what was read before.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeAlias

import aiohttp

from services.monitor.shared import Shared

TIMEOUT_S = 1.0
BYTES_MAX = 16 * 1024 * 1024
WINDOW = timedelta(minutes=5)
_POOL_NAME = "db_client_connection_pool_name"
_LINE = re.compile(r"^(\w+)\{([^}]*)\} (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')
_BUCKET = "rpc_server_call_duration_seconds_bucket"

Buckets: TypeAlias = Mapping[str, Mapping[float, float]]
"""By method: calls that took at most so many seconds, up to infinity."""


@dataclass(frozen=True, slots=True)
class PoolFigures:
    """A pool of connections of one process."""

    service: str
    pool: str
    open: int
    idle: int
    limit: int
    waiting: int

    @property
    def used(self) -> int:
        """Connections in use."""
        return max(0, self.open - self.idle)

    @property
    def used_percent(self) -> float:
        """Share of the most that it may open."""
        return 100.0 * self.used / self.limit if self.limit else 0.0


@dataclass(frozen=True, slots=True)
class Durations:
    """How long the calls of a method took within a while."""

    service: str
    method: str
    """driveflow.booking.v1.BookingService/GetBooking"""
    calls: int
    p50_ms: float
    p95_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Scrape:
    """What one process told at one time."""

    service: str
    address: str
    at: datetime
    pools: Sequence[PoolFigures]
    buckets: Buckets


@dataclass(frozen=True, slots=True)
class Scraped:
    """What all processes told."""

    scrapes: Sequence[Scrape]
    silent: Mapping[str, str] = field(default_factory=dict)
    """Services whose process did not answer, with the reason."""

    @property
    def pools(self) -> list[PoolFigures]:
        """Of all processes."""
        return [pool for scrape in self.scrapes for pool in scrape.pools]


class Scraping:
    """Reads the metrics of the processes that the settings name."""

    def __init__(self, sources: Sequence[tuple[str, str]], clock: Callable[[], datetime]) -> None:
        """`sources` are (service, host:port), one for each process."""
        self._sources = sources
        self._clock = clock
        self._before: dict[str, deque[Scrape]] = {address: deque() for _, address in sources}
        self._shared = Shared(self._read)

    @property
    def is_configured(self) -> bool:
        """Whether there is any process to ask."""
        return bool(self._sources)

    async def read(self) -> Scraped:
        """Ask all of them, side by side."""
        return await self._shared()

    async def _read(self) -> Scraped:
        found = await asyncio.gather(*(self._ask(*source) for source in self._sources))
        scrapes = [each for each in found if isinstance(each, Scrape)]
        silent = {
            service: each
            for (service, _), each in zip(self._sources, found, strict=True)
            if isinstance(each, str)
        }
        return Scraped(scrapes, silent)

    async def durations(self) -> tuple[list[Durations], Scraped]:
        """Of the last five minutes, or since the first time that was read, or the process began."""
        scraped = await self.read()
        found: list[Durations] = []
        for scrape in scraped.scrapes:
            found += _durations(scrape, self._earlier(scrape))
        return found, scraped

    def _earlier(self, now: Scrape) -> Buckets:
        """What was told at the beginning of the window; then `now` is remembered."""
        kept = self._before[now.address]
        while len(kept) > 1 and kept[1].at <= now.at - WINDOW:
            kept.popleft()
        earlier = kept[0].buckets if kept else {}
        if not kept or now.at - kept[-1].at >= WINDOW / 10:
            kept.append(now)
        return earlier

    async def _ask(self, service: str, address: str) -> Scrape | str:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(f"http://{address}/metrics") as answer,
            ):
                if answer.status != 200:
                    return f"{address} answers {answer.status}"
                text = (await answer.content.read(BYTES_MAX)).decode(errors="replace")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return f"{address}: {type(error).__name__}"
        return read(service, address, self._clock(), text)


def read(service: str, address: str, at: datetime, text: str) -> Scrape:
    """What a process told, from the text of its endpoint."""
    pools: dict[str, dict[str, int]] = {}
    buckets: dict[str, dict[float, float]] = {}
    for name, labels, value in _samples(text):
        if name == _BUCKET:
            by_bound = buckets.setdefault(labels.get("rpc_method", ""), {})
            bound = float(labels["le"].replace("+Inf", "inf"))
            # Of all statuses together: a call that failed took its time as well.
            by_bound[bound] = by_bound.get(bound, 0.0) + value
        elif _POOL_NAME in labels:
            figures = pools.setdefault(labels[_POOL_NAME], {})
            figures[name.removeprefix("db_client_connection_")] = int(value)
    return Scrape(
        service,
        address,
        at,
        [
            PoolFigures(
                service,
                pool,
                figures.get("count", 0),
                figures.get("idle", 0),
                figures.get("max", 0),
                figures.get("pending_requests", 0),
            )
            for pool, figures in sorted(pools.items())
        ],
        buckets,
    )


def _samples(text: str) -> Iterator[tuple[str, dict[str, str], float]]:
    for name, labels, value in _LINE.findall(text):
        if name == _BUCKET or name.startswith("db_client_connection_"):
            yield name, dict(_LABEL.findall(labels)), float(value)


def _durations(scrape: Scrape, earlier: Buckets) -> Iterator[Durations]:
    for method, counted in sorted(scrape.buckets.items()):
        before = earlier.get(method, {})
        if before.get(math.inf, 0.0) > counted.get(math.inf, 0.0):
            before = {}  # the process is another one: it counts from its own beginning
        within = {bound: count - before.get(bound, 0.0) for bound, count in counted.items()}
        calls = int(within.get(math.inf, 0.0))
        if calls and method.startswith("driveflow."):
            p50, p95, p99 = (1000 * percentile(within, share) for share in (0.5, 0.95, 0.99))
            yield Durations(scrape.service, method, calls, p50, p95, p99)


def percentile(buckets: Mapping[float, float], share: float) -> float:
    """Seconds within which a share of the calls ended; between two bounds by straight line."""
    bounds = sorted(buckets)
    wanted = share * buckets[bounds[-1]]
    lower, below = 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= wanted:
            if math.isinf(bound):
                return lower
            inside = buckets[bound] - below
            return lower + (bound - lower) * ((wanted - below) / inside if inside else 1.0)
        lower, below = bound, buckets[bound]
    return lower
