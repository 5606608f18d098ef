"""`driveflow alerts`: what has fired, and who looks after it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import typer
from google.protobuf.json_format import MessageToJson
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from driveflow.monitor.v1 import alerts_pb2 as pb
from driveflow.monitor.v1 import health_pb2
from libs.cli import session

PAGE = 100
STYLES = {
    health_pb2.VERDICT_WARNING: ("warning", "yellow"),
    health_pb2.VERDICT_CRITICAL: ("CRITICAL", "bold red"),
}

app = typer.Typer()
alerts = typer.Typer(help="Alerts: what has fired, and who looks after it.")
app.add_typer(alerts, name="alerts")

Id = Annotated[str, typer.Argument(metavar="ID", help="As `driveflow alerts` shows it.")]


@alerts.callback(invoke_without_command=True)
def show(
    context: typer.Context,
    address: session.MonitorAddress = None,
    token: session.OperatorToken = "",
    every: Annotated[bool, typer.Option("--all", help="The last resolved ones, too.")] = False,
    watch: Annotated[bool, typer.Option(help="Go on with each change.")] = False,
    as_json: session.Json = False,
) -> None:
    """List the alerts that are open. Exit code 1: there are some."""
    context.obj = (address, token)
    if context.invoked_subcommand is None:
        work = _watch if watch else _list
        session.run(work(address, token, every=every, as_json=as_json))


@alerts.command()
def acknowledge(
    context: typer.Context,
    id_: Id,
    note: Annotated[str, typer.Option(help="What is known, or being done.")] = "",
) -> None:
    """Note that you look after an alert."""
    address, token = context.obj
    session.run(_acknowledge(address, token, id_, note))


async def _list(address: str | None, token: str, *, every: bool, as_json: bool) -> None:
    state = pb.ALERT_STATE_UNSPECIFIED if every else pb.ALERT_STATE_OPEN
    async with session.monitor(address, token) as connection:
        request = pb.ListAlertsRequest(state=state, page_size=PAGE)
        found = (await connection.monitor.ListAlerts(request)).alerts
    if as_json:
        typer.echo(
            MessageToJson(pb.ListAlertsResponse(alerts=found), preserving_proto_field_name=True)
        )
    elif found:
        session.output().print(picture(found))
    else:
        session.output().print("no alert is open")
    if any(not alert.HasField("resolve_time") for alert in found):
        raise typer.Exit(1)


async def _watch(address: str | None, token: str, *, every: bool, as_json: bool) -> None:
    async with session.monitor(address, token) as connection:
        async for alert in connection.monitor.WatchAlerts(pb.WatchAlertsRequest()):
            if as_json:
                typer.echo(MessageToJson(alert, preserving_proto_field_name=True, indent=None))
            else:
                session.output().print(picture([alert]))


async def _acknowledge(address: str | None, token: str, id_: str, note: str) -> None:
    async with session.monitor(address, token) as connection:
        request = pb.AcknowledgeAlertRequest(alert_id=id_, note=note)
        alert = await connection.monitor.AcknowledgeAlert(request)
    typer.echo(f"{alert.rule} is looked after by {alert.acknowledged_by}")


def picture(found: Iterable[pb.Alert]) -> RenderableType:
    """A row for each alert, and below it what it looked like and what to do."""
    return Group(*map(_picture, found))


def _picture(alert: pb.Alert) -> RenderableType:
    word, style = STYLES.get(alert.severity, ("", ""))
    state = "open"
    if alert.HasField("resolve_time"):
        state = f"resolved {session.local(alert.resolve_time)}"
    elif alert.acknowledged_by:
        state = f"{alert.acknowledged_by} looks after it: {alert.note}".rstrip(": ")
    head = Table.grid(padding=(0, 2))
    head.add_row(
        Text(word, style=style),
        Text(alert.rule, style="bold"),
        session.local(alert.fire_time),
        escape(state),
        "muted" if alert.muted else "",
    )
    lines = [Text(f"  {line}", overflow="fold") for line in (alert.summary, *alert.evidence)]
    lines += [Text(f"  → {alert.next_step}"), Text(f"  {alert.command}", style="dim")]
    if state == "open":
        lines.append(Text(f"  driveflow alerts acknowledge {alert.id}", style="dim"))
    return Group(head, *lines, Text())
