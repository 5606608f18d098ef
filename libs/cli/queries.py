"""`driveflow queries`: which statements cost what, their plans, and the indexes made for them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from enum import StrEnum
from typing import Annotated, Any

import typer
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from driveflow.monitor.v1 import queries_pb2 as pb
from driveflow.monitor.v1.monitor_pb2_grpc import MonitorServiceStub
from libs.cli import session
from libs.cli.outbox import age

WATCH_EVERY_S = 2.0
SLOW_MS = 100.0
UNNAMED_MAX = 60
"""Characters of a statement without a name."""

app = typer.Typer()
queries = typer.Typer(help="Statements: slow and frequent ones, and their plans.")
app.add_typer(queries, name="queries")


class Order(StrEnum):
    """By what statements are ordered."""

    MEAN = "mean"
    TOTAL = "total"
    CALLS = "calls"


@queries.callback(invoke_without_command=True)
def show(
    context: typer.Context,
    address: session.MonitorAddress = None,
    token: session.OperatorToken = "",
    frequent: Annotated[
        bool, typer.Option("--frequent", help="Those that ran most often, whatever they took.")
    ] = False,
    window: Annotated[int, typer.Option(min=1, help="Figures of so many seconds.")] = 3_600,
    order: Annotated[Order, typer.Option(help="Greatest first.")] = Order.MEAN,
    min_mean_ms: Annotated[
        float, typer.Option(min=0, help="Leave out what takes less on average.")
    ] = SLOW_MS,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="Show so many.")] = 20,
    watch: Annotated[bool, typer.Option(help="Show it again every two seconds.")] = False,
    as_json: session.Json = False,
) -> None:
    """List the statements that were slow, or ran often, within a window."""
    context.obj = (address, token)
    if context.invoked_subcommand is not None:
        return
    slow = pb.ListSlowQueriesRequest(
        window_seconds=window,
        min_mean_ms=min_mean_ms,
        order=pb.QueryOrder.Value(f"QUERY_ORDER_{order.name}"),
        page_size=limit,
    )
    often = pb.ListFrequentQueriesRequest(window_seconds=window, page_size=limit)

    async def ask(stub: MonitorServiceStub) -> Message:
        return await (stub.ListFrequentQueries(often) if frequent else stub.ListSlowQueries(slow))

    session.run(_show(context.obj, ask, drawn, watch=watch, as_json=as_json))


# Many numbers are negative: they are no options.
@queries.command(context_settings={"ignore_unknown_options": True})
def explain(
    context: typer.Context,
    query_id: Annotated[int, typer.Argument(metavar="ID", help="As `driveflow queries` shows it.")],
    as_json: session.Json = False,
) -> None:
    """Show how PostgreSQL would run a statement today, whatever its values; it is not run."""

    async def ask(stub: MonitorServiceStub) -> Message:
        return await stub.ExplainQuery(pb.ExplainQueryRequest(query_id=query_id))

    session.run(_show(context.obj, ask, explained, as_json=as_json))


@queries.command()
def plans(
    context: typer.Context,
    index: Annotated[str, typer.Option(help="Only the queries that need this one.")] = "",
    as_json: session.Json = False,
) -> None:
    """Look whether the queries still go by the indexes that were made for them.

    Exit code 1: one does not, or its index is missing.
    """
    found: list[pb.PlanCheck] = []

    async def ask(stub: MonitorServiceStub) -> Message:
        answer = await stub.VerifyQueryPlans(pb.VerifyQueryPlansRequest(index=index))
        found.extend(answer.plan_checks)
        return answer

    session.run(_show(context.obj, ask, verified, as_json=as_json))
    if any(check.verdict in BAD for check in found):
        raise typer.Exit(1)


# --- asking ------------------------------------------------------------------------------------

Asking = Callable[[MonitorServiceStub], Awaitable[Message]]
Drawing = Callable[[Any], RenderableType]


async def _show(
    asked: tuple[str | None, str],
    ask: Asking,
    draw: Drawing,
    *,
    watch: bool = False,
    as_json: bool = False,
) -> None:
    address, token = asked
    async with session.monitor(address, token) as connection:
        while True:
            answer = await ask(connection.monitor)
            if as_json:
                found = MessageToDict(answer, preserving_proto_field_name=True)
                typer.echo(json.dumps(found, indent=None if watch else 2))
            else:
                console = session.output()
                if watch and console.is_terminal:
                    console.clear()
                console.print(draw(answer))
            if not watch:
                return
            await asyncio.sleep(WATCH_EVERY_S)


# --- showing -----------------------------------------------------------------------------------


def drawn(answer: pb.ListSlowQueriesResponse | pb.ListFrequentQueriesResponse) -> RenderableType:
    """A row for each statement, and what the figures are of."""
    table = Table("query")
    # What is to be copied stays in one piece.
    table.add_column("id", no_wrap=True)
    table.add_column("role")
    for column in ("calls", "mean ms", "± ms", "before", "total", "share", "rows", "in memory"):
        table.add_column(column, justify="right", no_wrap=True)
    for each in answer.queries:
        table.add_row(
            Text(each.name or " ".join(each.text.split())[:UNNAMED_MAX]),
            str(each.query_id),
            each.role,
            f"{each.calls:,}",
            _ms(each.mean_ms),
            _ms(each.stddev_ms),
            _ms(each.mean_before_ms) if each.HasField("mean_before_ms") else "",
            age(each.total_ms / 1_000) if each.total_ms >= 1_000 else f"{each.total_ms:.0f} ms",
            f"{each.share_percent:.1f} %",
            f"{each.rows:,}",
            f"{each.hit_percent:.1f} %" if each.HasField("hit_percent") else "",
        )
    return Group(table if answer.queries else Text("no statement"), Text(_window(answer)))


def _window(answer: pb.ListSlowQueriesResponse | pb.ListFrequentQueriesResponse) -> str:
    window = answer.window
    length_s = (window.end_time.ToNanoseconds() - window.start_time.ToNanoseconds()) / 1e9
    if not length_s:
        return "No snapshot was taken yet: the first one begins the counting."
    parts = [f"within the last {age(length_s)}"]
    total = getattr(answer, "total_size", 0)
    if total > len(answer.queries):
        parts.append(f"{len(answer.queries)} of {total}")
    if window.evicted:
        parts.append(f"PostgreSQL forgot {window.evicted:,} statements meanwhile")
    return "; ".join(parts)


def explained(plan: pb.QueryPlan) -> RenderableType:
    """The statement, its plan, and the indexes in it."""
    lines = [plan.name or "(no name)", plan.text, "", plan.plan, ""]
    lines.append(f"indexes: {', '.join(plan.indexes) or 'none'}")
    return Text("\n".join(lines), no_wrap=True, overflow="ignore")


VERDICTS = {
    pb.PLAN_VERDICT_USED: "used",
    pb.PLAN_VERDICT_SMALL_TABLE: "small table",
    pb.PLAN_VERDICT_NOT_USED: "NOT USED",
    pb.PLAN_VERDICT_NOT_SEEN: "not seen",
    pb.PLAN_VERDICT_INDEX_MISSING: "MISSING",
    pb.PLAN_VERDICT_FAILED: "failed",
}
BAD = (pb.PLAN_VERDICT_NOT_USED, pb.PLAN_VERDICT_INDEX_MISSING)


def verified(answer: pb.VerifyQueryPlansResponse) -> RenderableType:
    """A row for each need of an index."""
    return Group(_checks(answer.plan_checks), Text(_counted(answer.plan_checks)))


def _checks(checks: Iterable[pb.PlanCheck]) -> Table:
    table = Table()
    for column in ("index", "query", "needed by", "plan", "instead"):
        table.add_column(column, overflow="fold")
    for each in checks:
        verdict = Text(VERDICTS.get(each.verdict, "?"), "bold red" if each.verdict in BAD else "")
        rpc = each.rpc.rpartition("/")[2]
        schema = each.table.partition(".")[0]
        table.add_row(f"{schema}.{each.index}", each.query, rpc, verdict, each.detail)
    return table


def _counted(checks: Iterable[pb.PlanCheck]) -> str:
    told = [VERDICTS.get(each.verdict, "?") for each in checks]
    return ", ".join(f"{told.count(each)} {each}" for each in dict.fromkeys(told))


def _ms(of: float) -> str:
    return f"{of:,.0f}" if of >= 100 else f"{of:.2f}"
