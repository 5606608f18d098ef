"""Events over crashes: none lost, none made up, each effect once and in its order.

    ./dev run python bench/chaos/events.py
    ./dev run python bench/chaos/events.py --quick

Eight writers change trips in transactions of up to ten, a tenth of them rolled back. Tracking tells
of the changes, booking has the effects; tracking, booking, the writers and PostgreSQL are killed in
turn. Before that, without kills, every transaction commits up to 500 ms late. At the end each
committed change is held against the effects. Prints a table and last one line of JSON. Exit code 1:
a promise was not kept.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tests import postgres
from tests.libs.changes import Verdict, site
from tests.postgres import Server

VICTIMS = ("producer", "consumer", "database", "writers")
LATE_OF_ALL, LATE_OF_SOME = 1.0, 0.1
QUICK = {"changes": 4_000, "late_changes": 1_000, "kills": 3}


def main() -> None:
    """Run it and say how it went."""
    options = _options()
    began = time.monotonic()
    with postgres.embedded_server() as server:
        late = asyncio.run(run(server, options.late_changes, [], LATE_OF_ALL))
        kills = list(VICTIMS) * options.kills
        random.Random(options.seed).shuffle(kills)
        killed = asyncio.run(run(server, options.changes, kills, LATE_OF_SOME))
    report(late, killed, kills)
    ok = not late.faults and not killed.faults
    result = {"ok": ok, "late": asdict(late), "killed": asdict(killed), "kills": Counter(kills)}
    print(json.dumps(result | {"seed": options.seed, "seconds": round(time.monotonic() - began)}))
    sys.exit(0 if ok else 1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--changes", type=int, default=20_000, help="with kills")
    add("--late-changes", type=int, default=8_000, help="without, every commit late")
    add("--kills", type=int, default=10, help="of each of the four")
    add("--quick", action="store_true", help="a fifth of it")
    add("--seed", type=int, default=time.time_ns() % 1_000_000)
    options = parser.parse_args()
    if options.quick:
        vars(options).update(QUICK)
    return options


async def run(server: Server, changes: int, kills: Sequence[str], late: float) -> Verdict:
    """So many changes on a database of their own, with the kills at even distances."""
    with (
        tempfile.TemporaryDirectory(prefix="driveflow-chaos-") as folder,
        postgres.copied(postgres.make_template(server)) as database,
    ):
        async with site(database, Path(folder), late=late) as place:
            for number, what in enumerate(kills):
                await place.changed(changes * number // len(kills))
                await place.kill(what)
                print(f"{number + 1}/{len(kills)}: {what} killed", file=sys.stderr, flush=True)
            await place.changed(changes)
            return await place.judge()


def report(late: Verdict, killed: Verdict, kills: Sequence[str]) -> None:
    """The findings side by side."""
    print(f"{'':18}{'every commit late':>20}{f'{len(kills)} kills':>12}")
    for name, count in asdict(late).items():
        print(f"{name:18}{count:>20,}{asdict(killed)[name]:>12,}")


if __name__ == "__main__":
    main()
