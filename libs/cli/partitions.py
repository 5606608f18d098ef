"""`driveflow partitions`: until when each partitioned table has partitions."""

from __future__ import annotations

import typer
from google.protobuf.json_format import MessageToJson
from google.protobuf.timestamp_pb2 import Timestamp
from rich.markup import escape
from rich.table import Table

from driveflow.monitor.v1 import tables_pb2 as pb
from libs.cli import session

RUNWAY_DAYS_MIN = 14
"""Less is shown in red: the monitor warns then."""

app = typer.Typer()


@app.command()
def partitions(
    address: session.MonitorAddress = None,
    token: session.OperatorToken = "",
    as_json: session.Json = False,
) -> None:
    """Show each partition, and until when they lie side by side."""
    session.run(_partitions(address, token, as_json=as_json))


async def _partitions(address: str | None, token: str, *, as_json: bool) -> None:
    async with session.monitor(address, token) as connection:
        runway = await connection.monitor.GetPartitionRunway(pb.GetPartitionRunwayRequest())
    if as_json:
        typer.echo(MessageToJson(runway, preserving_proto_field_name=True))
        return
    console = session.output()
    for table in runway.tables:
        console.print(picture(table))
    if not runway.tables:
        console.print("no table is partitioned by time")


def picture(table: pb.PartitionedTable) -> Table:
    """A row for each partition, and below them how long they last."""
    style = "red" if table.runway_days < RUNWAY_DAYS_MIN else "green"
    ending = (
        f"[{style}]until {_time(table, 'runway_end_time')}: {table.runway_days:.0f} days[/{style}],"
        f" analyzed {_time(table, 'last_analyze_time') or 'never'}"
    )
    if table.default_partition:
        ending += f", [red]default partition {escape(table.default_partition)}[/red]"
    drawn = Table(title=escape(f"{table.schema}.{table.table}"), caption=ending)
    for column in ("partition", "from", "to before"):
        drawn.add_column(column)
    for column in ("rows", "bytes"):
        drawn.add_column(column, justify="right")
    for each in table.partitions:
        drawn.add_row(
            escape(each.partition) + (" [red]half detached[/red]" if each.detaching else ""),
            _time(each, "start_time") or "-∞",
            _time(each, "end_time") or "∞",
            f"{each.rows:,}",
            f"{each.total_bytes:,}",
        )
    return drawn


def _time(of: pb.PartitionedTable | pb.PartitionStats, field: str) -> str:
    """In UTC, as partitions are cut; empty when it is unset."""
    if not of.HasField(field):  # type: ignore[arg-type]
        return ""
    time: Timestamp = getattr(of, field)
    return f"{time.ToDatetime():%Y-%m-%d %H:%M}"
