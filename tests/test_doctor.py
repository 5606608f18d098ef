"""`driveflow doctor`: it names what is wrong, and what to do about it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from libs import issuer
from libs.cli.doctor import Finding, _month_names, examine
from tests.postgres import Database


def found(dsn: str | None, environ: dict[str, str] | None = None) -> dict[str, Finding]:
    return {finding.check: finding for finding in examine(environ or {}, dsn)}


def verdicts(findings: dict[str, Finding]) -> dict[str, str]:
    return {name: finding.verdict for name, finding in findings.items()}


def administer(database: Database, statement: str) -> None:
    with psycopg.connect(database.admin_dsn) as admin:
        admin.execute(statement.encode())


def test_a_prepared_database_is_ok(database: Database) -> None:
    findings = verdicts(found(database.admin_dsn))
    checks = ("database", "durability", "statistics", "roles", "migrations", "partitions", "clock")
    assert {name: findings[name] for name in checks} == dict.fromkeys(checks, "ok")


def test_without_addresses_and_token_it_says_where_they_come_from() -> None:
    findings = found(None)
    assert set(verdicts(findings).values()) == {"ok", "warn"}
    assert "./dev env" in findings["tracking"].next_step


def test_missing_migrations_fail(database: Database) -> None:
    administer(database, "DELETE FROM monitor.schema_migrations")
    assert found(database.admin_dsn)["migrations"].verdict == "FAIL"


def test_missing_months_fail(database: Database) -> None:
    this_month, *_, last_month = _month_names(datetime.now(UTC))
    administer(database, f'DROP TABLE tracking."{last_month}"')
    assert found(database.admin_dsn)["partitions"].verdict == "warn"
    administer(database, 'DROP TABLE tracking."TripPoint" CASCADE')
    finding = found(database.admin_dsn)["partitions"]
    assert finding.verdict == "FAIL"
    assert this_month in finding.figure


def test_unsafe_settings_fail(database: Database) -> None:
    administer(database, f'ALTER DATABASE "{database.name}" SET synchronous_commit = off')
    finding = found(database.admin_dsn)["durability"]
    assert (finding.verdict, finding.figure) == ("FAIL", "off: synchronous_commit")


def test_a_database_that_was_never_prepared_fails_with_the_next_step(database: Database) -> None:
    administer(database, "DROP SCHEMA tracking CASCADE")
    findings = found(database.admin_dsn)
    assert findings["migrations"].verdict == "FAIL"
    assert "driveflow migrate" in findings["migrations"].next_step


def test_what_does_not_answer_fails() -> None:
    findings = found(
        "postgresql://127.0.0.1:1/driveflow", {"DRIVEFLOW_TRACKING_ADDR": "127.0.0.1:1"}
    )
    assert findings["database"].verdict == "FAIL"
    assert findings["tracking"].figure == "UNAVAILABLE at 127.0.0.1:1"


@pytest.mark.parametrize(("ttl_s", "verdict"), [(60, "ok"), (-60, "FAIL")])
def test_a_token_is_ok_until_it_expires(tmp_path: Path, ttl_s: int, verdict: str) -> None:
    key = issuer.new_key()
    (tmp_path / "jwks.json").write_text(issuer.jwks(key))
    token = issuer.sign(key, subject="me", scopes=[], ttl=timedelta(seconds=ttl_s))
    environ = {"DRIVEFLOW_TOKEN": token, "DRIVEFLOW_JWKS": str(tmp_path / "jwks.json")}
    assert found(None, environ)["token"].verdict == verdict
