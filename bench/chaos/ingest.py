"""Kills everything under devices that stream points, and proves that nothing is lost or doubled.

    ./dev run python bench/chaos/ingest.py
    ./dev run python bench/chaos/ingest.py --database-kills 5 --service-kills 5 --stops 10

The harness and its verdict are those of tests/tracking/test_crashes.py, for longer. Prints what was
broken and what that cost, what the tables say, and last one line of JSON. Exit code 1: a promise
was not kept.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from tests import postgres
from tests.tracking.chaos.service import until
from tests.tracking.chaos.site import Outage, Site, site
from tests.tracking.chaos.verdict import Verdict

RECOVERY_P95_S = 3.0
NOT_SERVING_S = 5.0
THAWED_S = 10.0
EXIT_SLACK_S = 2.0


def main() -> None:
    """Run it and say how it went."""
    options = _options()
    began = time.monotonic()
    with postgres.embedded_server() as server, tempfile.TemporaryDirectory() as folder:
        database = postgres.make_template(server)
        place, verdict = asyncio.run(run(options, database, Path(folder)))
    result = summary(place, verdict, options) | {"seconds": round(time.monotonic() - began)}
    _print(place, verdict, result)
    sys.exit(0 if result["ok"] else 1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    add = parser.add_argument
    add("--database-kills", type=int, default=20)
    add("--service-kills", type=int, default=20)
    add("--stops", type=int, default=50, help="SIGTERM of the service")
    add("--freezes", type=int, default=1, help="SIGSTOP of every process of PostgreSQL")
    add("--freeze-s", type=float, default=20.0)
    add("--devices", type=int, default=8)
    add("--points", type=int, default=200_000, help="go on until so many are acknowledged")
    add("--points-per-s", type=float, default=150.0, help="of each device")
    add("--drain-s", type=float, default=5.0)
    add("--seed", type=int, default=time.time_ns() % 1_000_000)
    return parser.parse_args()


async def run(
    options: argparse.Namespace, database: postgres.Database, folder: Path
) -> tuple[Site, Verdict]:
    """All disturbances in a random order, then the verdict."""
    rng = random.Random(options.seed)
    async with site(
        database,
        folder,
        devices=options.devices,
        points_per_s=options.points_per_s,
        drain_s=options.drain_s,
        seed=options.seed,
    ) as (place, running):
        disturbances: list[Callable[[], Awaitable[None]]] = [
            *[place.kill_database] * options.database_kills,
            *[place.kill_service] * options.service_kills,
            *[place.stop_service] * options.stops,
            *[lambda: place.freeze_database(options.freeze_s)] * options.freezes,
        ]
        rng.shuffle(disturbances)
        for number, disturb in enumerate(disturbances, 1):
            await place.streaming()
            await asyncio.sleep(rng.uniform(0, 0.5))
            await disturb()
            _say(f"{number}/{len(disturbances)} {_told(place.outages[-1])}")
        await until(
            lambda: sum(len(d.acknowledged) for d in place.devices) >= options.points,
            "the points are made",
            timeout_s=3_600,
        )
        _say("waiting for every device to finish")
        return place, await place.finish(running)


def summary(place: Site, verdict: Verdict, options: argparse.Namespace) -> dict[str, object]:
    """The figures, and whether every promise was kept."""
    silent = {kind: [o.silent_s for o in place.outages if o.kind == kind] for kind in KINDS}
    stops = [outage for outage in place.outages if outage.kind == "service stopped"]
    freezes = [outage for outage in place.outages if outage.kind == "database frozen"]
    kept = {
        "nothing lost or doubled": not verdict.faults,
        "recovery": _p95(silent["database killed"]) <= RECOVERY_P95_S,
        "stops": all(
            stop.exit_code == 0 and stop.exit_s <= options.drain_s + EXIT_SLACK_S for stop in stops
        ),
        "freezes": all(
            freeze.not_serving_s <= NOT_SERVING_S and freeze.silent_s <= THAWED_S
            for freeze in freezes
        ),
    }
    return {
        "ok": all(kept.values()),
        "broken_promises": [name for name, well in kept.items() if not well],
        "points": verdict.points,
        "acked": verdict.acknowledged,
        "acked_missing": verdict.acked_missing,
        "duplicates": verdict.duplicates,
        "faults": len(verdict.faults),
        "database_kills": len(silent["database killed"]),
        "service_kills": len(silent["service killed"]),
        "stops": len(stops),
        "database_recovery_p95_s": _p95(silent["database killed"]),
        "service_recovery_p95_s": _p95(silent["service killed"]),
        "exit_max_s": max((round(stop.exit_s, 2) for stop in stops), default=0.0),
        "not_serving_max_s": max((round(f.not_serving_s, 2) for f in freezes), default=0.0),
        "thawed_max_s": max((round(f.silent_s, 2) for f in freezes), default=0.0),
        "seed": options.seed,
    }


KINDS = ("database killed", "service killed", "service stopped", "database frozen")


def _p95(values: Sequence[float]) -> float:
    if not values:
        return 0.0
    return round(sorted(values)[math.ceil(0.95 * len(values)) - 1], 2)


def _told(outage: Outage) -> str:
    line = f"{outage.kind}: every device acknowledged again after {outage.silent_s:.1f} s"
    if outage.exit_s:
        line += f", exit code {outage.exit_code} after {outage.exit_s:.1f} s"
    if outage.not_serving_s:
        line += f", NOT_SERVING after {outage.not_serving_s:.1f} s"
    return line


def _print(place: Site, verdict: Verdict, result: dict[str, object]) -> None:
    print(f"\n{'disturbance':<18}{'times':>6}{'silent s: median':>18}{'p95':>7}{'max':>7}")
    for kind in KINDS:
        silent = sorted(o.silent_s for o in place.outages if o.kind == kind)
        if silent:
            median = silent[len(silent) // 2]
            print(
                f"{kind:<18}{len(silent):>6}{median:>18.1f}{_p95(silent):>7.1f}{silent[-1]:>7.1f}"
            )
    print(f"\n{'what ended':<10}{'code':<20}{'reason':<24}{'times':>6}")
    for (what, code, reason), times in sorted(place.endings.items()):
        print(f"{what:<10}{code:<20}{reason:<24}{times:>6}")
    print()
    for name, value in asdict(verdict).items():
        print(f"{name:<18}{len(value) if isinstance(value, list) else value:>9,}")
    for line in verdict.violations[:20]:
        print(f"  {line}")
    print(json.dumps(result))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    # Its channels are many, and the database is started again beside them.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    main()
