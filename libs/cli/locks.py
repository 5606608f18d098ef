"""`driveflow locks`: who waits for whom, and which transactions have been open for long."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Annotated

import typer
from google.protobuf.json_format import MessageToDict
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from driveflow.monitor.v1 import sessions_pb2 as pb
from libs.cli import session
from libs.cli.outbox import age

WATCH_EVERY_S = 2.0
LISTED_MAX = 50
WAITED_LONG_S = 5.0

app = typer.Typer()


@app.command()
def locks(
    address: session.MonitorAddress = None,
    token: session.OperatorToken = "",
    min_age: Annotated[
        float, typer.Option(min=0, help="List transactions that are open for so many seconds.")
    ] = 10.0,
    watch: Annotated[bool, typer.Option(help="Show it again every two seconds.")] = False,
    as_json: session.Json = False,
) -> None:
    """Show the sessions that wait for locks below those that hold them, and long transactions."""
    session.run(show(address, token, min_age, watch=watch, as_json=as_json))


async def show(
    address: str | None, token: str, min_age_s: float, *, watch: bool, as_json: bool
) -> None:
    async with session.monitor(address, token) as connection:
        while True:
            tree = await connection.monitor.GetLockTree(pb.GetLockTreeRequest())
            request = pb.ListLongTransactionsRequest(
                min_age_seconds=min_age_s, page_size=LISTED_MAX
            )
            long = (await connection.monitor.ListLongTransactions(request)).sessions
            if as_json:
                typer.echo(_json(tree, long, indent=None if watch else 2))
            else:
                console = session.output()
                if watch and console.is_terminal:
                    console.clear()
                console.print(picture(tree, long))
            if not watch:
                return
            await asyncio.sleep(WATCH_EVERY_S)


def _json(tree: pb.LockTree, long: Iterable[pb.Session], indent: int | None) -> str:
    shown = {
        "lock_tree": MessageToDict(tree, preserving_proto_field_name=True),
        "long_transactions": [MessageToDict(s, preserving_proto_field_name=True) for s in long],
    }
    return json.dumps(shown, indent=indent, ensure_ascii=False)


def picture(tree: pb.LockTree, long: Iterable[pb.Session]) -> RenderableType:
    """The tree, a line for each session, and a table of the long transactions."""
    parts: list[RenderableType] = []
    if tree.roots:
        parts.append(
            f"{tree.waiting} sessions wait for locks, the longest for"
            f" {age(tree.longest_wait_seconds)}"
        )
        parts += [grown(root) for root in tree.roots]
    else:
        parts.append("no session waits for a lock")
    listed = list(long)
    parts.append(transactions(listed) if listed else "no transaction has been open for long")
    return Group(*parts)


def grown(node: pb.LockNode) -> Tree:
    """A session with those that wait for it."""
    branch = Tree(_told(node), guide_style="dim")
    for below in node.blocks:
        branch.children.append(grown(below))
    return branch


def _told(node: pb.LockNode) -> Text:
    who = node.session
    name = Text(f"{who.application_name or who.role or 'nameless'}", style="bold")
    # Who waits for its client ran something else since it took its locks.
    last = "last " if who.state.startswith("idle") else ""
    line = Text.assemble(name, f" pid {who.pid}", f" {last}{who.query}" if who.query else "")
    if who.state:
        line.append(f" · {who.state}")
    if who.HasField("transaction_seconds"):
        line.append(f" · in a transaction for {age(who.transaction_seconds)}")
    if node.waits_for:
        style = "red" if node.wait_seconds >= WAITED_LONG_S else "yellow"
        wait = f" · waits {age(node.wait_seconds)} for {node.waits_for}"
        line.append(wait, style=style)
    if node.holds:
        line.append(f" · holds {node.holds}", style="cyan")
    return line


def transactions(sessions: Iterable[pb.Session]) -> Table:
    """A row for each."""
    drawn = Table(box=None, pad_edge=False, header_style="bold", title="long transactions")
    for column in ("pid", "open", "in state"):
        drawn.add_column(column, justify="right")
    for column in ("role", "who", "state", "query", "waits for", "connected"):
        drawn.add_column(column)
    for each in sessions:
        drawn.add_row(
            str(each.pid),
            age(each.transaction_seconds),
            age(each.state_seconds),
            Text(each.role),
            Text(each.application_name),
            Text(each.state),
            Text(each.query),
            Text(each.wait),
            # With pid it names the session: CancelBackend and TerminateBackend want both.
            each.backend_start.ToJsonString(),
        )
    return drawn
