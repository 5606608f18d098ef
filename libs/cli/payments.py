"""`driveflow revenue` and `driveflow reconcile`: a school's money."""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer
from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp
from rich.table import Table
from rich.text import Text

from driveflow.booking.v1 import directory_pb2
from driveflow.payments.v1 import payments_pb2 as pb
from driveflow.payments.v1 import reconciliation_pb2 as reconciliation_pb
from driveflow.payments.v1.reconciliation_pb2_grpc import ReconciliationServiceStub
from libs import issuer
from libs.cli import session
from libs.client import Connection

WEEKS = 8
"""A revenue report shows this week and those before it."""
DAYS = 7
"""A reconciliation looks back so far."""
SETTLED_AFTER = timedelta(minutes=2)
"""The service compares nothing that is younger than a minute, by its own clock."""
POLL_S = 0.5
TOKEN_TTL = timedelta(hours=1)
PAGE = 1_000
SHOWN_MAX = 10_000
"""More discrepancies of a run are counted, not listed."""
# Of ISO 4217: minor units are hundredths but for these.
WHOLE = frozenset(
    {"BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "VND", "VUV"}
    | {"XAF", "XOF", "XPF"}
)
THOUSANDTHS = frozenset(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"))

app = typer.Typer()
reconcile = typer.Typer(help="Our books against Stripe's.")
app.add_typer(reconcile, name="reconcile")

Address = Annotated[
    str,
    typer.Option(envvar="DRIVEFLOW_PAYMENTS_ADDR", help="host:port of the payments service."),
]
BookingAddress = Annotated[
    str,
    typer.Option(envvar="DRIVEFLOW_BOOKING_ADDR", help="host:port of the booking service."),
]
OperatorToken = Annotated[
    str,
    typer.Option(
        "--token",
        help="An operator's token of the school (driveflow token --ops --org); without it one is"
        " made with DRIVEFLOW_TOKEN_KEY for DRIVEFLOW_ORG_ID.",
        show_default=False,
    ),
]


class Bucket(StrEnum):
    """How long a row of the report is."""

    day = "day"
    week = "week"
    month = "month"


# --- revenue -----------------------------------------------------------------------------------


@app.command()
def revenue(
    address: Address,
    booking_address: BookingAddress,
    token: session.Token,
    first: Annotated[
        str, typer.Option("--from", metavar="DATE", help="First day; else eight weeks.")
    ] = "",
    last: Annotated[str, typer.Option("--to", metavar="DATE", help="Last day; else today.")] = "",
    bucket: Annotated[Bucket, typer.Option(help="What a row adds up.")] = Bucket.week,
    currency: Annotated[str, typer.Option(help="ISO 4217 code; else the school's.")] = "",
    as_json: session.Json = False,
) -> None:
    """Show what came in and went back, on the school's own clock."""
    where, days = (address, booking_address, token), (first, last)
    session.run(_revenue(where, days, bucket, currency, as_json=as_json))


async def _revenue(
    where: tuple[str, str, str],
    days: tuple[str, str],
    bucket: Bucket,
    currency: str,
    *,
    as_json: bool,
) -> None:
    address, booking_address, token = where
    async with Connection(booking_address, token) as booking:
        org = await booking.directory.GetOrganization(directory_pb2.GetOrganizationRequest())
    currency = (currency or org.currency).upper()
    request = pb.GetRevenueReportRequest(
        range=_days(*days, ZoneInfo(org.time_zone)),
        bucket=pb.RevenueBucket.Value(f"REVENUE_BUCKET_{bucket.upper()}"),
        currency=currency,
    )
    async with Connection(address, token) as payments:
        report = await payments.payments.GetRevenueReport(request)
    if as_json:
        _print_json(_dict(report) | {"currency": currency})
    else:
        session.output().print(revenue_table(report, bucket, currency))


def _days(first: str, last: str, zone: ZoneInfo) -> pb.Period:
    """Whole days of the school's calendar; without dates the last eight weeks."""
    to_day = _date(last) if last else datetime.now(zone).date()
    monday = to_day - timedelta(days=to_day.weekday())
    from_day = _date(first) if first else monday - timedelta(weeks=WEEKS - 1)
    return _period(_midnight(from_day, zone), _midnight(to_day + timedelta(days=1), zone))


def revenue_table(report: pb.RevenueReport, bucket: str, currency: str) -> Table:
    """A row for each bucket, and their sum below."""
    title = f"revenue by {bucket}, {currency}, {report.time_zone}"
    drawn = Table(title=title, show_footer=True)
    total = cells(report.total, currency)
    names = ("payments", "paid", "given back", "platform", "school")
    drawn.add_column(bucket, footer="total")
    for name, figure in zip(names, total, strict=True):
        drawn.add_column(name, footer=figure, justify="right")
    zone = ZoneInfo(report.time_zone)
    form = "%Y-%m" if bucket == "month" else "%Y-%m-%d"
    for row in report.rows:
        begins = row.start_time.ToDatetime(UTC).astimezone(zone)
        drawn.add_row(begins.strftime(form), *cells(row, currency))
    return drawn


def cells(row: pb.RevenueRow, currency: str) -> list[str]:
    """The figures of a row for people."""
    amounts = (row.captured_cents, row.refunded_cents, row.fee_cents, row.net_cents)
    return [f"{row.payments:,}", *(money(each, currency) for each in amounts)]


def money(cents: int, currency: str) -> str:
    """8,000.50 for 800050 minor units of most currencies."""
    digits = 0 if currency in WHOLE else 3 if currency in THOUSANDTHS else 2
    return f"{Decimal(cents).scaleb(-digits):,.{digits}f}"


# --- reconciliation ----------------------------------------------------------------------------


@reconcile.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    address: Address,
    token: OperatorToken = "",
    first: Annotated[
        str, typer.Option("--from", metavar="DATE", help="First day, UTC; else a week before.")
    ] = "",
    last: Annotated[
        str, typer.Option("--to", metavar="DATE", help="Last day, UTC; else until now.")
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count, and keep nothing.")] = False,
    as_json: session.Json = False,
) -> None:
    """Compare payments and payouts with Stripe's. Exit code 1: they differ."""
    context.obj = (address, token)
    if context.invoked_subcommand is None:
        session.run(_reconcile((address, token), (first, last), dry_run=dry_run, as_json=as_json))


@reconcile.command()
def resolve(
    context: typer.Context,
    id_: Annotated[str, typer.Argument(metavar="ID", help="Of the discrepancy.")],
    note: Annotated[str, typer.Option(help="What was done; the audit log keeps it.")],
) -> None:
    """Note how a discrepancy was dealt with."""
    address, token = context.obj
    session.run(_resolve(address, token, id_, note))


async def _reconcile(
    where: tuple[str, str], days: tuple[str, str], *, dry_run: bool, as_json: bool
) -> None:
    period, (address, token) = _past_days(*days), where
    async with Connection(address, token or _own_token()) as connection:
        stub = connection.reconciliation
        request = reconciliation_pb.StartReconciliationRequest(
            period=period, dry_run=dry_run, request_id=str(uuid.uuid4())
        )
        run = await _followed(stub, await stub.StartReconciliation(request))
        found = [] if dry_run else await _found(stub, run.id)
    if as_json:
        _print_json({"run": _dict(run), "discrepancies": [_dict(each) for each in found]})
    else:
        _print_run(run, found)
    if run.status == reconciliation_pb.RECONCILIATION_STATUS_FAILED:
        raise session.CommandFailed(f"the run was given up: {run.failure}")
    if run.discrepancies:
        raise typer.Exit(1)


async def _followed(
    stub: ReconciliationServiceStub, run: reconciliation_pb.ReconciliationRun
) -> reconciliation_pb.ReconciliationRun:
    """The run when it has ended; its progress is shown meanwhile."""
    request = reconciliation_pb.GetReconciliationRunRequest(run_id=run.id)
    with session.progress("compared") as bar:
        task = bar.add_task(_told(run), total=None)
        while run.status == reconciliation_pb.RECONCILIATION_STATUS_RUNNING:
            await asyncio.sleep(POLL_S)
            run = await stub.GetReconciliationRun(request)
            bar.update(task, completed=run.compared, description=_told(run))
    return run


async def _found(
    stub: ReconciliationServiceStub, run_id: str
) -> list[reconciliation_pb.Discrepancy]:
    found: list[reconciliation_pb.Discrepancy] = []
    request = reconciliation_pb.ListDiscrepanciesRequest(run_id=run_id, page_size=PAGE)
    while len(found) < SHOWN_MAX:
        page = await stub.ListDiscrepancies(request)
        found += page.discrepancies
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break
    return found


async def _resolve(address: str, token: str, id_: str, note: str) -> None:
    request = reconciliation_pb.ResolveDiscrepancyRequest(
        discrepancy_id=id_, note=note, request_id=str(uuid.uuid4())
    )
    async with Connection(address, token or _own_token()) as connection:
        done = await connection.reconciliation.ResolveDiscrepancy(request)
    typer.echo(f"{_kind(done)} of {_named(done)} is resolved by {done.resolved_by}: {done.note}")


def _own_token() -> str:
    """An operator's token of the environment's school, where the issuer's key is at hand."""
    key, org = os.environ.get("DRIVEFLOW_TOKEN_KEY"), os.environ.get("DRIVEFLOW_ORG_ID")
    if not key or not org:
        raise session.CommandFailed(
            "pass an operator's token of the school by --token: driveflow token --ops --org ID"
        )
    try:
        org_id, pem = uuid.UUID(org), Path(key).read_text(encoding="utf-8")
    except (ValueError, OSError) as error:
        raise session.CommandFailed(
            f"no token can be made for DRIVEFLOW_ORG_ID with DRIVEFLOW_TOKEN_KEY: {error}"
        ) from None
    return issuer.sign(
        pem,
        subject=os.environ.get("USER", "operator"),
        scopes=issuer.OPS_SCOPES,
        ttl=TOKEN_TTL,
        org_id=org_id,
        issuer=os.environ.get("DRIVEFLOW_TOKEN_ISSUER", issuer.ISSUER),
        audience=os.environ.get("DRIVEFLOW_TOKEN_AUDIENCE", issuer.AUDIENCE),
    )


def _past_days(first: str, last: str) -> pb.Period:
    """Whole days UTC, as far as they are over."""
    over = datetime.now(UTC) - SETTLED_AFTER
    utc = ZoneInfo("UTC")
    end = min(over, _midnight(_date(last) + timedelta(days=1), utc)) if last else over
    return _period(_midnight(_date(first), utc) if first else end - timedelta(days=DAYS), end)


def _print_run(
    run: reconciliation_pb.ReconciliationRun, found: list[reconciliation_pb.Discrepancy]
) -> None:
    console = session.output()
    if found:
        console.print(discrepancy_table(found))
    console.print(_told(run))


def discrepancy_table(found: list[reconciliation_pb.Discrepancy]) -> Table:
    """A row for each."""
    drawn = Table("id", "kind", "what", "of Stripe", "of ours", "here", "there")
    for each in found:
        texts = (each.object_type, each.stripe_id, each.object_id, each.here, each.there)
        # Stripe's names and states are what Stripe sent: no markup.
        drawn.add_row(each.id, _kind(each), *map(Text, texts))
    return drawn


def _told(run: reconciliation_pb.ReconciliationRun) -> str:
    """7 equal, 2 different."""
    return f"{run.matched:,} equal, {run.discrepancies:,} different"


def _kind(discrepancy: reconciliation_pb.Discrepancy) -> str:
    name = reconciliation_pb.DiscrepancyKind.Name(discrepancy.kind)
    return name.removeprefix("DISCREPANCY_KIND_").lower().replace("_", " ")


def _named(discrepancy: reconciliation_pb.Discrepancy) -> str:
    return f"{discrepancy.object_type} {discrepancy.stripe_id or discrepancy.object_id}"


# --- both --------------------------------------------------------------------------------------


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise session.CommandFailed(f"{text!r} is no date: give one such as 2026-11-24") from None


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time(), zone).astimezone(UTC)


def _period(start: datetime, end: datetime) -> pb.Period:
    return pb.Period(start_time=_stamp(start), end_time=_stamp(end))


def _stamp(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def _dict(message: Any) -> dict[str, Any]:
    """With zeros: of money they matter."""
    return MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def _print_json(value: dict[str, Any]) -> None:
    typer.echo(json.dumps(value, indent=2))
