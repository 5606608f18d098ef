"""`driveflow revenue` and `driveflow reconcile`, as processes beside the services."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from rich.console import Console

from driveflow.payments.v1 import payments_pb2 as pb
from driveflow.payments.v1 import reconciliation_pb2
from libs.cli import payments as cli
from libs.cli import session
from tests import commands
from tests.commands import Done
from tests.payments.conftest import Services
from tests.payments.stories import School

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture
def environment(services: Services, school: School) -> dict[str, str]:
    """As `./dev env` prints it."""
    return {
        "DRIVEFLOW_PAYMENTS_ADDR": school.service.address,
        "DRIVEFLOW_BOOKING_ADDR": school.booked.service.address,
        "DRIVEFLOW_TOKEN": school.token(scopes=("payments:read", "booking:read")),
        "DRIVEFLOW_TOKEN_KEY": str(services.town.service_key()),
        "DRIVEFLOW_ORG_ID": str(school.org_id),
        "USER": "olga",
    }


async def driveflow(environment: dict[str, str], *arguments: object) -> Done:
    return await commands.driveflow(environment, *arguments)


def table_rows(done: Done) -> list[list[str]]:
    """The cells of each line of a table."""
    lines = [line.strip() for line in done.stdout.splitlines()]
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]


# --- revenue -----------------------------------------------------------------------------------


async def test_revenue_is_eight_weeks_with_a_total(
    school: School, environment: dict[str, str]
) -> None:
    payment = await school.paid()
    await school.refund(payment, 2_000)
    await school.until(payment, "PARTIALLY_REFUNDED")
    done = await driveflow(environment, "revenue")
    assert done.code == 0, done.stderr
    assert done.stdout.splitlines()[0].strip() == "revenue by week, AUD, Australia/Sydney"
    rows = table_rows(done)
    monday = datetime.fromisoformat(rows[-2][0])
    figures = ["1", "80.00", "20.00", "9.00", "51.00"]
    assert rows[-2:] == [[f"{monday:%Y-%m-%d}", *figures], ["total", *figures]]
    assert (len(rows), monday.weekday()) == (8 + 1, 0)
    assert rows[0] == [f"{monday - timedelta(weeks=7):%Y-%m-%d}", "0", *["0.00"] * 4]


async def test_revenue_has_days_of_the_schools_calendar_both_ends_included(
    environment: dict[str, str],
) -> None:
    dates = ("--from", "2026-10-03", "--to", "2026-10-05")  # the clocks change on the 4th
    more = ("--bucket", "day", "--currency", "nzd", "--json")
    report = (await driveflow(environment, "revenue", *dates, *more)).json()
    assert [each["start_time"] for each in report["rows"]] == [
        "2026-10-02T14:00:00Z",
        "2026-10-03T14:00:00Z",
        "2026-10-04T13:00:00Z",
    ]
    assert (report["currency"], report["total"]["payments"]) == ("NZD", "0")


@pytest.mark.parametrize(("first", "last"), [("yesterday", ""), ("", "2026-02-31")])
async def test_what_is_no_date_is_said(first: str, last: str) -> None:
    said = f"'{first or last}' is no date: give one such as"
    with pytest.raises(session.CommandFailed, match=said):
        cli._past_days(first, last)
    with pytest.raises(session.CommandFailed, match=said):
        cli._days(first, last, ZoneInfo("UTC"))


@pytest.mark.parametrize(
    ("cents", "currency", "shown"),
    [
        (123_456_789, "AUD", "1,234,567.89"),
        (-5, "AUD", "-0.05"),
        (8_000, "JPY", "8,000"),
        (8_000, "KWD", "8.000"),
    ],
)
async def test_money_is_shown_in_the_currencys_own_unit(
    cents: int, currency: str, shown: str
) -> None:
    assert cli.money(cents, currency) == shown


# --- reconciliation ----------------------------------------------------------------------------


async def paid_an_hour_ago(school: School, cents: int = 8_000) -> pb.Payment:
    """A payment, of `cents` in our books."""
    payment = await school.paid()
    query = 'UPDATE payments."Payment" SET "capturedCents" = %s, "capturedAt" = %s WHERE id = %s'
    await school.rows(query, cents, datetime.now(UTC) - timedelta(hours=1), payment.id)
    return payment


async def test_books_that_are_the_same_end_with_exit_code_0(
    school: School, environment: dict[str, str]
) -> None:
    await paid_an_hour_ago(school)
    done = await driveflow(environment, "reconcile")
    assert (done.code, done.stdout) == (0, "1 equal, 0 different\n"), done.stderr


async def test_differences_end_with_exit_code_1_and_can_be_resolved(
    school: School, environment: dict[str, str]
) -> None:
    payment = await paid_an_hour_ago(school, 7_999)
    done = await driveflow(environment, "reconcile", "--json")
    found = json.loads(done.stdout)
    (difference,) = found["discrepancies"]
    assert (done.code, found["run"]["discrepancies"]) == (1, "1")
    assert (difference["here"], difference["there"]) == ("7999 AUD", "8000 AUD")
    bare = {**environment, "DRIVEFLOW_TOKEN_KEY": ""}
    given = ("--token", school.token("otto"))
    resolve = ("resolve", difference["id"], "--note", "a cent by hand")
    done = await driveflow(bare, "reconcile", *given, *resolve)
    name = f"payment {payment.stripe_payment_intent_id}"
    assert done.stdout == f"amount of {name} is resolved by otto: a cent by hand\n", done.stderr


async def test_a_dry_run_says_how_many_differ_and_keeps_nothing(
    school: School, environment: dict[str, str]
) -> None:
    await paid_an_hour_ago(school, 7_999)
    done = await driveflow(environment, "reconcile", "--dry-run", "--from", "2026-01-01")
    assert (done.code, done.stdout) == (1, "0 equal, 1 different\n")
    kept = 'SELECT count(*) FROM payments."Discrepancy" WHERE "orgId" = %s'
    assert await school.rows(kept, school.org_id) == [(0,)]


async def test_discrepancies_are_a_table_of_what_stripe_sent() -> None:
    difference = reconciliation_pb2.Discrepancy(
        id="7",
        kind=reconciliation_pb2.DISCREPANCY_KIND_MISSING_HERE,
        object_type="payment",
        stripe_id="[bold]pi_1",
        there="8000 AUD",
    )
    with (console := Console(width=120)).capture() as drawn:
        console.print(cli.discrepancy_table([difference]))
    (line,) = (line for line in drawn.get().splitlines() if "8000 AUD" in line)
    cells = [cell.strip() for cell in line.split("│")[1:-1]]
    assert cells == ["7", "missing here", "payment", "[bold]pi_1", "", "", "8000 AUD"]


@pytest.mark.parametrize(
    ("key", "org", "said"),
    [
        ("", "", "driveflow token --ops --org"),
        ("none.pem", "0a000000-0000-7000-8000-000000000001", "DRIVEFLOW_TOKEN_KEY"),
        ("none.pem", "my school", "DRIVEFLOW_ORG_ID"),
    ],
)
async def test_without_a_token_it_says_how_to_get_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key: str, org: str, said: str
) -> None:
    monkeypatch.setenv("DRIVEFLOW_TOKEN_KEY", str(tmp_path / key) if key else "")
    monkeypatch.setenv("DRIVEFLOW_ORG_ID", org)
    with pytest.raises(session.CommandFailed, match=said):
        cli._own_token()
