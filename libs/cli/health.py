"""`driveflow health`: everything that the monitor checks, as a table."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer
from google.protobuf.json_format import MessageToJson
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from driveflow.monitor.v1 import health_pb2 as pb
from libs.cli import session

EXIT_CODES = {pb.VERDICT_OK: 0, pb.VERDICT_WARNING: 1, pb.VERDICT_CRITICAL: 2}
NO_ANSWER = 3
"""Exit code when there is no report: the four are those of Nagios and its heirs."""
WATCH_EVERY_S = 5
STYLES = {
    pb.VERDICT_OK: ("ok", "green"),
    pb.VERDICT_WARNING: ("warning", "yellow"),
    pb.VERDICT_CRITICAL: ("CRITICAL", "bold red"),
    pb.VERDICT_UNKNOWN: ("unknown", "magenta"),
}
UNITS = {"percent": " %", "ms": " ms", "seconds": " s", "days": " d", "count": "", "ratio": ""}

app = typer.Typer()

Checks = Annotated[list[str] | None, typer.Argument(metavar="[CHECK]…", help="Only these.")]


@app.command()
def health(
    checks: Checks = None,
    address: session.MonitorAddress = None,
    token: session.OperatorToken = "",
    watch: Annotated[bool, typer.Option(help="Show it again every five seconds.")] = False,
    as_json: session.Json = False,
) -> None:
    """Check the database and the services.

    Exit code: 0 all is well, 1 a warning, 2 critical, 3 no answer.
    """
    work = _health(checks or [], address, token, watch=watch, as_json=as_json)
    session.run(work, failure=NO_ANSWER)


async def _health(
    checks: list[str], address: str | None, token: str, *, watch: bool, as_json: bool
) -> None:
    async with session.monitor(address, token) as connection:
        request = pb.CheckHealthRequest(checks=checks)
        while True:
            report = await connection.monitor.CheckHealth(request)
            _print(report, as_json=as_json, clear=watch)
            if not watch:
                raise typer.Exit(EXIT_CODES.get(report.status, NO_ANSWER))
            await asyncio.sleep(WATCH_EVERY_S)


def _print(report: pb.HealthReport, *, as_json: bool, clear: bool) -> None:
    if as_json:
        typer.echo(MessageToJson(report, preserving_proto_field_name=True))
        return
    console = session.output()
    if clear:
        console.clear()
    console.print(picture(report))


def picture(report: pb.HealthReport) -> RenderableType:
    """The table, and below it what to do about each check that is not well."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("check", "verdict", "figure", "threshold", "what it says"):
        table.add_column(heading, justify="right" if heading in ("figure", "threshold") else "left")
    for check in report.checks:
        word, style = STYLES[check.verdict]
        table.add_row(
            escape(check.title),
            Text(word, style=style),
            _amount(check, "figure"),
            _amount(check, "threshold"),
            escape(check.summary),
        )
    bad = [check for check in report.checks if check.verdict != pb.VERDICT_OK]
    word, style = STYLES[report.status]
    ending = Text.assemble(
        "\n",
        (word, style),
        f": {len(report.checks) - len(bad)} of {len(report.checks)} checks are"
        f" well, in {report.duration_ms:.0f} ms",
    )
    return Group(table, *map(_advice, bad), ending)


def _advice(check: pb.Check) -> RenderableType:
    lines = [Text.assemble("\n", (check.title, "bold"), f": {check.why}")]
    lines += [Text(f"  {line}", overflow="fold") for line in check.evidence]
    lines += [Text(f"  → {check.next_step}"), Text(f"  {check.command}", style="dim")]
    return Group(*lines)


def _amount(check: pb.Check, field: str) -> str:
    if not check.HasField(field):  # type: ignore[arg-type]
        return "-"
    value: Any = getattr(check, field)
    number = f"{value:,.0f}" if value == int(value) or value >= 1000 else f"{value:.2f}"
    return f"{number}{UNITS.get(check.unit, ' ' + check.unit)}"
