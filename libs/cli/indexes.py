"""`driveflow indexes`: which are broken, missing, needless, unused, large."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from google.protobuf.json_format import MessageToDict
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from driveflow.monitor.v1 import indexes_pb2 as pb
from libs.cli import session

LISTED_MAX = 1_000

app = typer.Typer()


@dataclass(frozen=True)
class State:
    """What the monitor told."""

    health: pb.IndexHealth
    unused: pb.ListUnusedIndexesResponse
    largest: Sequence[pb.IndexSize]


@app.command()
def indexes(
    address: session.MonitorAddress = None,
    token: session.OperatorToken = "",
    min_age_days: Annotated[
        int, typer.Option(min=0, max=3650, help="Unused for so many days; 0: never used at all.")
    ] = 14,
    largest: Annotated[int, typer.Option(min=0, max=1000, help="So many of the largest.")] = 10,
    as_json: session.Json = False,
) -> None:
    """Show indexes that are invalid, missing, covered by others, unused, and the largest."""
    session.run(show(address, token, min_age_days, largest, as_json=as_json))


async def show(
    address: str | None, token: str, min_age_days: int, largest: int, *, as_json: bool
) -> None:
    async with session.monitor(address, token) as connection:
        monitor = connection.monitor
        sizes = pb.ListIndexSizesRequest(page_size=largest)
        state = State(
            await monitor.GetIndexHealth(pb.GetIndexHealthRequest()),
            await monitor.ListUnusedIndexes(
                pb.ListUnusedIndexesRequest(min_age_days=min_age_days, page_size=LISTED_MAX)
            ),
            (await monitor.ListIndexSizes(sizes)).indexes if largest else (),
        )
    if as_json:
        typer.echo(json.dumps(_json(state), indent=2, ensure_ascii=False))
    else:
        session.output().print(picture(state))


def _json(state: State) -> dict[str, Any]:
    return {
        "health": MessageToDict(state.health, preserving_proto_field_name=True),
        "unused": MessageToDict(state.unused, preserving_proto_field_name=True),
        "largest": [MessageToDict(s, preserving_proto_field_name=True) for s in state.largest],
    }


def picture(state: State) -> RenderableType:
    """A table for each kind of thing that is wrong, and a line for those that are not."""
    health, unused = state.health, state.unused
    parts = [
        _table(
            "invalid",
            ("index", "table", "state"),
            [
                (_named(each), each.table, "is being built" if each.building else "drop it")
                for each in health.invalid
            ],
        ),
        _table(
            "foreign keys without an index",
            ("foreign key", "table", "remedy"),
            [
                (f"{each.schema}.{each.constraint}", each.table, each.remedy)
                for each in health.foreign_keys
            ],
        ),
        _table(
            "covered by another",
            ("index", "size", "covered by", "note"),
            [
                (
                    _named(each),
                    size(each.size_bytes),
                    each.covered_by + (" (the same)" if each.exact else ""),
                    each.note,
                )
                for each in health.duplicate
            ],
        ),
        _unused(unused),
        _table(
            "tables that are mostly read whole",
            ("table", "rows", "read whole", "by index", "writes for each"),
            [
                (
                    f"{each.schema}.{each.table}",
                    f"{each.rows:,}",
                    f"{each.sequential_scans:,}",
                    f"{each.index_scans:,}",
                    f"{each.writes_per_scan:,.1f}",
                )
                for each in health.sequential_scans
            ],
        ),
    ]
    if state.largest:
        rows = [(_named(each), each.size, size(each.table_bytes)) for each in state.largest]
        parts.append(_table("largest", ("index", "size", "its table"), rows))
    return Group(*parts, *_hits(health))


def _unused(found: pb.ListUnusedIndexesResponse) -> RenderableType:
    if found.undecided:
        return Text(f"unused: {found.undecided}")
    rows = [
        (_named(each), size(each.size_bytes), ", ".join(each.needed_by)) for each in found.indexes
    ]
    return _table("unused", ("index", "size", "needed by"), rows)


def _hits(health: pb.IndexHealth) -> list[RenderableType]:
    if not health.HasField("index_hit_percent"):
        return []
    line = Text(f"in memory: {health.index_hit_percent:.2f} % of index blocks asked for")
    rows = [
        (
            f"{each.schema}.{each.table}",
            f"{each.index_hit_percent:.2f} %",
            f"{each.index_blocks:,}",
        )
        for each in health.cold_tables
    ]
    return [line, _table("cold", ("table", "in memory", "blocks asked for"), rows)]


def _table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> RenderableType:
    if not rows:
        return Text(f"{title}: none")
    drawn = Table(box=None, pad_edge=False, header_style="bold", title=title, title_justify="left")
    for place, heading in enumerate(headings):
        # What is to be copied stays in one piece.
        drawn.add_column(heading, no_wrap=place == 0)
    for row in rows:
        drawn.add_row(*map(Text, row))
    return drawn


def size(size_bytes: float) -> str:
    """12 MB: in the largest unit of which there are ten."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size_bytes < 10 * 1024:
            return f"{size_bytes:.0f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:,.0f} TB"


def _named(each: pb.BrokenIndex | pb.DuplicateIndex | pb.IndexUsage | pb.IndexSize) -> str:
    return f"{each.schema}.{each.index}"
