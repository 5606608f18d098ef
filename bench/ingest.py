"""How fast points come in and what they cost, beside `\\copy` into the guide's table.

    ./dev run python bench/ingest.py [--quick] [--points N] [--profile [BATCH]]

All cases take turns, round by round, on one PostgreSQL with deploy/postgres/postgresql.conf and on
two cores, which service, PostgreSQL and client share. Each starts on empty tables after a
checkpoint; streams are open and messages serialized before its clock starts, as psql is connected.
Figures are medians over the rounds. When the table does not hold what was sent, the bench fails.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

from google.protobuf.timestamp_pb2 import Timestamp

from bench import points
from bench.client import Client, ClientFailed, Load, Sent
from bench.points import Drive, Totals
from bench.stack import SCHOOL, Cpu, Stack, running_stack
from bench.tables import GUIDE, OURS, CopyFailed, Table, make_guide
from driveflow.tracking.v1 import tracking_pb2 as pb
from libs.client import Connection

GATEWAYS = 50
MANY_GATEWAYS = 500
REPEATED_POINTS = 20_000
STARTS_AT_ONCE = 20
SAMPLE_EVERY_S = 0.2
PROFILE_POINTS = 3_000_000
PROFILE_LINES = 30


class Wrong(Exception):
    """What is stored is not what was sent."""


@dataclass(frozen=True)
class Scale:
    """How much a run does."""

    rounds: int
    points: int
    """Of each case in each round."""
    warm_up_points: int
    memory_points: int


FULL = Scale(rounds=5, points=400_000, warm_up_points=1_000_000, memory_points=5_000_000)
QUICK = Scale(rounds=1, points=200_000, warm_up_points=500_000, memory_points=1_000_000)


@dataclass(frozen=True)
class Figures:
    """What a case did in a round; all but `points` and `seconds` are per point."""

    points: int
    seconds: float
    service_us: float
    postgres_us: float
    client_us: float
    """CPU of psql, or of the gateways."""
    wire_bytes: float
    wal_bytes: float
    disk_bytes: float

    @property
    def rate(self) -> float:
        """Points a second."""
        return self.points / self.seconds

    @property
    def cpu_us(self) -> float:
        """CPU of the service and PostgreSQL, a point."""
        return self.service_us + self.postgres_us


@dataclass(frozen=True)
class Growth:
    """What the service's memory did between a warm-up and millions of points later, MB."""

    warm: float
    at_end: float
    """More than when warm."""
    at_peak: float


Measure = Callable[[int, float, int], Figures]
"""Makes figures of points, seconds and bytes on the wire, since the round began."""


class Bench:
    """The cases, on one stack."""

    def __init__(self, stack: Stack, scale: Scale, folder: Path) -> None:
        self._stack = stack
        self._scale = scale
        self._folder = folder
        self._admin = stack.admin()
        # Last month: a trip that began then and goes on may have points of any moment since.
        this_month = datetime.now(UTC).replace(day=1, hour=1, minute=0, second=0, microsecond=0)
        self._start = (this_month - timedelta(days=1)).replace(day=1)
        self._trips: list[str] = []

    def prepare(self) -> None:
        """The guide's table, trips, and the files for `\\copy`; a first run warms everything up."""
        make_guide(self._admin, self._start.date(), months=2)
        self._trips = asyncio.run(self._start_trips(MANY_GATEWAYS + 1))
        fleet = self._fleet(GATEWAYS, self._scale.points)
        for table, prefix in ((GUIDE, ""), (OURS, f"{SCHOOL}\t")):
            with self._rows(table).open("w") as file:
                points.write_rows(file, [prefix + trip for trip in self._trips[:GATEWAYS]], fleet)
        self.stream(GATEWAYS, 100)

    def copy_guide(self) -> Figures:
        """`\\copy` into the guide's table."""
        return self._copy(GUIDE, self._stack.database.admin_dsn)

    def copy_ours(self) -> Figures:
        """`\\copy` into our table, as the role that ingests."""
        return self._copy(OURS, self._stack.database.dsn("tracking_ingest"))

    def stream(
        self, gateways: int, batch_points: int, *, dense: bool = False, repeater: bool = False
    ) -> Figures:
        """Gateways stream until all is durable; beside them a repeater sends only duplicates."""
        load = replace(self._load(gateways, batch_points), dense=dense)
        wanted = self._fleet(gateways, sum(load.phases) * gateways)
        if repeater:
            load = replace(load, repeater=self._trips[-1], repeater_points=REPEATED_POINTS)
            wanted.append(points.drive(gateways, load.start, REPEATED_POINTS))
        self._empty()
        with Client(load) as client, self._measured(OURS) as measure:
            sent = client.send()
            figures = measure(sent.points, sent.seconds, sent.wire_bytes)
        self._check(OURS, wanted)
        _check_told(sent, repeater=repeater)
        return figures

    def memory(self) -> tuple[Growth, Figures]:
        """Streams that live on: a warm-up, then millions of points."""
        phases = [self._scale.warm_up_points // GATEWAYS, self._scale.memory_points // GATEWAYS]
        load = replace(self._load(GATEWAYS, 100), phases=phases)
        self._empty()
        with Client(load) as client:
            client.send()
            warm = self._stack.rss_mb()
            with self._measured(OURS) as measure, self._sampled_rss() as samples:
                sent = client.send()
                figures = measure(sent.points, sent.seconds, sent.wire_bytes)
            growth = Growth(warm, self._stack.rss_mb() - warm, max(samples) - warm)
        self._check(OURS, self._fleet(GATEWAYS, sum(phases) * GATEWAYS))
        return growth, figures

    def profile(self, batch_points: int) -> Path:
        """Where the service spends its time: collapsed stacks, as flame graphs are made of."""
        # A folder of its own: another bench on the machine may be writing a profile as well.
        folder = Path(tempfile.mkdtemp(prefix="driveflow-profile-"))
        target = folder / f"ingest-{batch_points}.stacks"
        gateways = MANY_GATEWAYS if batch_points < 100 else GATEWAYS
        count = PROFILE_POINTS * min(batch_points, 100) // 100
        load = self._load(gateways, batch_points, count)
        self._empty()
        py_spy = Path(sys.executable).with_name("py-spy")
        options = ["--native", "--rate", "200", "--format", "raw", "--output", str(target)]
        with (
            Client(load) as client,
            subprocess.Popen(
                [py_spy, "record", *options, "--pid", str(self._stack.service.pid)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            ) as recorder,
        ):
            client.send()
            recorder.send_signal(signal.SIGINT)
        return target

    async def _start_trips(self, count: int) -> list[str]:
        request = pb.StartTripRequest(start_time=Timestamp(seconds=int(self._start.timestamp())))
        gate = asyncio.Semaphore(STARTS_AT_ONCE)
        async with Connection(self._stack.address, self._stack.token()) as connection:

            async def start() -> str:
                async with gate:
                    return (await connection.tracking.StartTrip(request)).id

            return list(await asyncio.gather(*(start() for _ in range(count))))

    def _load(self, gateways: int, batch_points: int, count: int | None = None) -> Load:
        batches = (count or self._scale.points) // gateways // batch_points
        return Load(
            address=self._stack.address,
            token=self._stack.token(),
            trip_ids=self._trips[:gateways],
            start=int(self._start.timestamp()),
            phases=[batches * batch_points],
            batch_points=batch_points,
        )

    def _fleet(self, gateways: int, count: int) -> list[Drive]:
        start = int(self._start.timestamp())
        return [points.drive(number, start, count // gateways) for number in range(gateways)]

    def _copy(self, table: Table, dsn: str) -> Figures:
        self._empty()
        with self._measured(table) as measure:
            seconds = table.copy(dsn, self._rows(table))
            figures = measure(self._scale.points, seconds, self._rows(table).stat().st_size)
        self._check(table, self._fleet(GATEWAYS, self._scale.points))
        # What the service does while it rests is no part of this.
        return replace(figures, service_us=0.0)

    def _empty(self) -> None:
        """No rows, and nothing left to write from the round before."""
        GUIDE.empty(self._admin)
        OURS.empty(self._admin)
        self._admin.execute("CHECKPOINT")

    @contextmanager
    def _measured(self, table: Table) -> Iterator[Measure]:
        """What is used from here on."""
        size, wal = table.size(self._admin), self._wal()
        cpu = self._stack.cpu()

        def measure(count: int, seconds: float, wire_bytes: int) -> Figures:
            used = self._stack.cpu() - cpu
            return Figures(
                points=count,
                seconds=seconds,
                service_us=used.service / count * 1e6,
                postgres_us=used.postgres / count * 1e6,
                client_us=used.bench / count * 1e6,
                wire_bytes=wire_bytes / count,
                wal_bytes=(self._wal() - wal) / count,
                disk_bytes=(table.size(self._admin) - size) / count,
            )

        yield measure

    @contextmanager
    def _sampled_rss(self) -> Iterator[list[float]]:
        """The service's memory, looked at all the time."""
        samples = [self._stack.rss_mb()]
        done = threading.Event()

        def sample() -> None:
            while not done.wait(SAMPLE_EVERY_S):
                samples.append(self._stack.rss_mb())

        thread = threading.Thread(target=sample)
        thread.start()
        try:
            yield samples
        finally:
            done.set()
            thread.join()

    def _wal(self) -> int:
        row = self._admin.execute("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn").fetchone()
        assert row is not None
        return int(row[0])

    def _check(self, table: Table, wanted: Sequence[Drive]) -> None:
        """Raise Wrong unless exactly these points are in the table."""
        found, sent = table.totals(self._admin), Totals.of(wanted)
        if found != sent:
            raise Wrong(f"sent {sent}, stored {found}")

    def _rows(self, table: Table) -> Path:
        return self._folder / f"{table.schema}.rows"


def _check_told(sent: Sent, *, repeater: bool) -> None:
    """Raise Wrong unless the gateways were told what became of their points."""
    if sent.stored != sent.points:
        raise Wrong(f"sent {sent.points:,}, acknowledged as stored {sent.stored:,}")
    if repeater and not sent.repeated:
        raise Wrong("none of the repeater's points was acknowledged meanwhile")


# What is run, in the order in which it is told.
CASES: Mapping[str, tuple[str, Callable[[Bench], Figures]]] = {
    "guide": (r"psql \copy, the guide's table", Bench.copy_guide),
    "ours": (r"psql \copy, our table", Bench.copy_ours),
    "100": ("gRPC, 50 gateways, batches of 100", lambda bench: bench.stream(GATEWAYS, 100)),
    "10": ("gRPC, 500 gateways, batches of 10", lambda bench: bench.stream(MANY_GATEWAYS, 10)),
    "1000": ("gRPC, 50 gateways, batches of 1,000", lambda bench: bench.stream(GATEWAYS, 1_000)),
    "100d": (
        "gRPC, 50 gateways, batches of 100, dense",
        lambda bench: bench.stream(GATEWAYS, 100, dense=True),
    ),
    "1000d": (
        "gRPC, 50 gateways, batches of 1,000, dense",
        lambda bench: bench.stream(GATEWAYS, 1_000, dense=True),
    ),
    "repeater": (
        "gRPC, 50 gateways by 100 + one of duplicates",
        lambda bench: bench.stream(GATEWAYS, 100, repeater=True),
    ),
}


def run_rounds(bench: Bench, rounds: int) -> dict[str, Figures]:
    """The medians of all cases."""
    results: dict[str, list[Figures]] = {name: [] for name in CASES}
    for number in range(rounds):
        # There and back, so that what drifts hits all alike.
        for name in list(CASES)[:: -1 if number % 2 else 1]:
            label, case = CASES[name]
            figures = case(bench)
            results[name].append(figures)
            say(f"round {number + 1}/{rounds}  {label:46}{figures.rate:10,.0f} points/s")
    return {name: _median(figures) for name, figures in results.items()}


def _median(figures: Sequence[Figures]) -> Figures:
    def of(name: str) -> float:
        return float(median(getattr(one, name) for one in figures))

    count = figures[0].points
    return Figures(
        points=count,
        seconds=count / of("rate"),
        service_us=of("service_us"),
        postgres_us=of("postgres_us"),
        client_us=of("client_us"),
        wire_bytes=of("wire_bytes"),
        wal_bytes=of("wal_bytes"),
        disk_bytes=of("disk_bytes"),
    )


def print_table(results: Mapping[str, Figures], sustained: Figures) -> None:
    """All figures side by side."""
    print(
        f"\n{'':46}{'points/s':>9}{'ratio':>7}"
        f"  CPU us/point: {'service':>7}{'postgres':>9}{'sum':>7}{'client':>8}"
        f"  bytes/point: {'wire':>6}{'WAL':>7}{'disk':>7}"
    )
    rows = [(CASES[name][0], figures) for name, figures in results.items()]
    rows.append(("gRPC, 50 gateways by 100, sustained", sustained))
    for label, figures in rows:
        print(
            f"{label:46}{figures.rate:9,.0f}{figures.rate / results['guide'].rate:7.2f}"
            f"{figures.service_us:23.2f}{figures.postgres_us:9.2f}{figures.cpu_us:7.2f}{figures.client_us:8.2f}"
            f"{figures.wire_bytes:21.1f}{figures.wal_bytes:7.1f}{figures.disk_bytes:7.1f}"
        )


def summary(results: Mapping[str, Figures], growth: Growth, strangers: float) -> dict[str, float]:
    """What the last line says."""
    base = results["guide"].rate
    lowered = 100 * (1 - results["repeater"].rate / results["100"].rate)
    return {
        "ratio_100": round(results["100"].rate / base, 2),
        "ratio_1000": round(results["1000"].rate / base, 2),
        "cpu_us_per_point_10": round(results["10"].cpu_us, 2),
        "cpu_us_per_point_100": round(results["100"].cpu_us, 2),
        "cpu_us_per_point_1000": round(results["1000"].cpu_us, 2),
        "memory_growth_mb": round(growth.at_end, 1),
        "cpu_us_per_point_1000_dense": round(results["1000d"].cpu_us, 2),
        "duplicates_lower_others_percent": round(lowered, 1),
        "ratio_100_dense": round(results["100d"].rate / base, 2),
        "ratio_1000_dense": round(results["1000d"].rate / base, 2),
        "guide_points_per_s": round(base),
        "points_per_s_100": round(results["100"].rate),
        "cpu_of_others_percent": round(strangers, 1),
    }


BARS: Mapping[str, tuple[float, float]] = {
    "ratio_100": (1.5, float("inf")),
    "cpu_us_per_point_10": (0, 16),
    "cpu_us_per_point_100": (0, 7),
    "cpu_us_per_point_1000": (0, 5),
    "cpu_us_per_point_1000_dense": (0, 4.3),
    "duplicates_lower_others_percent": (-float("inf"), 20),
    "memory_growth_mb": (-float("inf"), 50),
}


def print_bars(found: Mapping[str, float]) -> None:
    """Each bar, and whether it is met."""
    print()
    for name, (low, high) in BARS.items():
        bar = f"at least {low:g}" if high == float("inf") else f"at most {high:g}"
        verdict = "met" if low <= found[name] <= high else "MISSED"
        print(f"{name:34}{found[name]:8.2f}   bar: {bar:14}{verdict}")


def print_profile(target: Path) -> None:
    """What the service's main thread was busy with, by Python function with what it calls in C."""
    inside: Counter[str] = Counter()
    itself: Counter[str] = Counter()
    for line in target.read_text().splitlines():
        stack, _, samples = line.rpartition(" ")
        frames = stack.split(";")
        python = [frame for frame in frames if ".py:" in frame]
        waits = frames[-1].startswith(("poll (", "epoll_wait (", "epoll_pwait ("))
        if waits or not python or any("threading.py" in frame for frame in python):
            continue
        itself[python[-1]] += int(samples)
        for frame in set(python):
            inside[frame] += int(samples)
    total = sum(itself.values())
    print(f"\nprofile: {target} ({total:,} busy samples)\n{'itself':>8}{'with callees':>14}")
    for frame, count in itself.most_common(PROFILE_LINES):
        print(f"{100 * count / total:7.1f}%{100 * inside[frame] / total:13.1f}%  {frame}")


def say(line: str) -> None:
    """Progress; not part of the result."""
    print(line, file=sys.stderr, flush=True)


def run(scale: Scale, profiled: int | None) -> None:
    """The whole bench, or the profile alone."""
    with running_stack() as stack, tempfile.TemporaryDirectory() as folder:
        bench = Bench(stack, scale, Path(folder))
        bench.prepare()
        if profiled is not None:
            print_profile(bench.profile(profiled))
            return
        before = stack.cpu()
        results = run_rounds(bench, scale.rounds)
        growth, sustained = bench.memory()
        used = stack.cpu() - before
    print_table(results, sustained)
    print(
        f"\nservice memory: {growth.warm:.0f} MB when warm; {sustained.points:,} points later"
        f" {growth.at_end:+.1f} MB ({growth.at_peak:+.1f} MB at its peak)"
    )
    found = summary(results, growth, _strangers_percent(used))
    print(f"CPU used meanwhile by processes of others: {found['cpu_of_others_percent']:.0f} %")
    print_bars(found)
    print(json.dumps(found))


def _strangers_percent(used: Cpu) -> float:
    return 100 * used.strangers / max(used.machine, 1e-9)


def main() -> None:
    """Read the options and run. Exit code 1: what was stored is not what was sent."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one round; about a minute")
    parser.add_argument("--points", type=int, metavar="N", help="points of the memory case")
    parser.add_argument(
        "--profile", type=int, nargs="?", const=100, metavar="BATCH", help="py-spy; no figures"
    )
    options = parser.parse_args()
    scale = QUICK if options.quick else FULL
    if options.points is not None:
        scale = replace(scale, memory_points=options.points)
    points.check_wire()
    try:
        run(scale, options.profile)
    except (Wrong, ClientFailed, CopyFailed) as error:
        sys.exit(f"the bench failed: {error}")


if __name__ == "__main__":
    main()
