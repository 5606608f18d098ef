"""The bootstrap: roles exactly as designed, whatever was there before."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from libs import bootstrap as roles
from libs.bootstrap import BootstrapFailed, bootstrap, passwords, unexpected_powers
from tests.postgres import PASSWORDS, Database, copied

SERVICES = ("booking", "payments", "tracking", "monitor")
BYPASS_RLS = {"tracking_ingest", "booking_reporting", "migrator"}
LOGINS = {*SERVICES, "tracking_ingest", "tracking_maintenance", "migrator", "ops"}
NO_LOGINS = {*(f"{service}_owner" for service in SERVICES), "booking_reporting"}
# member -> role -> (inherits its rights, may become it)
MEMBERSHIPS = {
    **{f"{service}_owner": {"pg_read_all_stats": (True, False)} for service in SERVICES},
    "tracking_maintenance": {"tracking_owner": (True, False)},
    "monitor": {"pg_monitor": (True, False), "pg_signal_backend": (True, False)},
    "ops": {"pg_monitor": (True, False)},
    "migrator": dict.fromkeys(NO_LOGINS, (True, True)),
}


@pytest.fixture(scope="module")
def prepared(template: Database) -> Iterator[Database]:
    """A database for tests that change nothing."""
    with copied(template) as database:
        yield database


def snapshot(database: Database) -> list[tuple[object, ...]]:
    """Everything that the bootstrap is about, but the passwords' salts."""
    with psycopg.connect(database.admin_dsn) as admin:
        return admin.execute(
            "SELECT rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin,"
            " rolreplication, rolbypassrls, rolconfig FROM pg_roles WHERE rolname = ANY(%s)"
            " UNION ALL SELECT nspname, false, false, false, false, false, false, false,"
            " ARRAY[nspowner::regrole::text] || nspacl::text[] FROM pg_namespace"
            " UNION ALL SELECT member::regrole::name, false, inherit_option, set_option,"
            " admin_option, false, false, false, ARRAY[roleid::regrole::text] FROM pg_auth_members"
            " ORDER BY 1, 9",
            [[*LOGINS, *NO_LOGINS]],
        ).fetchall()


def run(database: Database, role: str, statement: str) -> None:
    with psycopg.connect(database.dsn(role), autocommit=True) as connection:
        connection.execute(statement.encode())


def test_roles_have_exactly_the_attributes_of_the_design(prepared: Database) -> None:
    with psycopg.connect(prepared.admin_dsn) as admin:
        found = admin.execute(
            "SELECT rolname, rolcanlogin, rolbypassrls, rolsuper OR rolcreatedb OR rolcreaterole"
            " OR rolreplication FROM pg_roles WHERE rolname = ANY(%s)",
            [[*LOGINS, *NO_LOGINS]],
        ).fetchall()
    assert sorted(found) == sorted(
        (name, name in LOGINS, name in BYPASS_RLS, False) for name in LOGINS | NO_LOGINS
    )


def test_memberships_are_exactly_those_of_the_design(prepared: Database) -> None:
    found: dict[str, dict[str, tuple[bool, bool]]] = {}
    with psycopg.connect(prepared.admin_dsn) as admin:
        for member, role, inherit, become, admin_option in admin.execute(
            "SELECT member::regrole::text, roleid::regrole::text, inherit_option, set_option,"
            " admin_option FROM pg_auth_members WHERE member::regrole::text = ANY(%s)",
            [[*LOGINS, *NO_LOGINS]],
        ):
            assert not admin_option
            found.setdefault(member, {})[role] = (inherit, become)
    assert found == MEMBERSHIPS


def test_passwords_are_kept_as_scram_verifiers(prepared: Database) -> None:
    with psycopg.connect(prepared.admin_dsn) as admin:
        rows = admin.execute(
            "SELECT rolname, rolpassword FROM pg_authid WHERE rolname = ANY(%s)",
            [[*LOGINS, *NO_LOGINS]],
        ).fetchall()
    for name, password in rows:
        assert (password or "").startswith("SCRAM-SHA-256$") == (name in LOGINS)


@pytest.mark.parametrize("role", [*SERVICES, "tracking_ingest"])
def test_a_service_role_is_bounded_in_time(prepared: Database, role: str) -> None:
    with psycopg.connect(prepared.dsn(role)) as connection:
        limits = {
            name: connection.execute("SELECT current_setting(%s)", [name]).fetchone()
            for name in roles.SERVICE_LIMITS
        }
        assert limits == {name: (value,) for name, value in roles.SERVICE_LIMITS.items()}
        assert connection.execute("SHOW timezone").fetchone() == ("UTC",)


def test_bootstrap_twice_changes_nothing(database: Database) -> None:
    before = snapshot(database)
    bootstrap(database.server.admin_dsn, PASSWORDS, database.name)
    assert snapshot(database) == before


@pytest.mark.parametrize(
    "drift",
    [
        "ALTER ROLE tracking BYPASSRLS",
        "ALTER ROLE booking SUPERUSER CREATEDB",
        "ALTER ROLE payments_owner LOGIN PASSWORD 'secret'",
        "ALTER ROLE monitor SET statement_timeout = 0",
        "GRANT tracking_owner TO tracking",
        "GRANT tracking_owner TO tracking_maintenance WITH SET TRUE",
        "GRANT CREATE ON SCHEMA tracking TO tracking",
        "GRANT USAGE ON SCHEMA payments TO booking, PUBLIC",
        "GRANT CREATE ON SCHEMA public TO PUBLIC",
        "ALTER SCHEMA monitor OWNER TO ops",
    ],
)
def test_bootstrap_repairs(database: Database, drift: str) -> None:
    before = snapshot(database)
    with psycopg.connect(database.admin_dsn) as admin:
        admin.execute(drift.encode())
    assert snapshot(database) != before
    bootstrap(database.server.admin_dsn, PASSWORDS, database.name)
    assert snapshot(database) == before


def test_a_role_with_too_much_power_is_named(database: Database) -> None:
    with psycopg.connect(database.admin_dsn) as admin:
        admin.execute("ALTER ROLE tracking BYPASSRLS")
        assert list(unexpected_powers(admin)) == ["role tracking has BYPASSRLS"]
        admin.rollback()
        assert list(unexpected_powers(admin)) == []


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        *((service, f"CREATE TABLE {service}.mine (a int)") for service in SERVICES),
        *((service, "CREATE TABLE public.mine (a int)") for service in SERVICES),
        *((service, f"SET ROLE {service}_owner") for service in SERVICES),
        *((service, f'TRUNCATE {service}."Outbox"') for service in SERVICES),
        *((service, f'DELETE FROM {service}."AuditLog"') for service in SERVICES),
        *((service, f"""UPDATE {service}."AuditLog" SET action = ''""") for service in SERVICES),
        *((service, f"SELECT * FROM {service}.schema_migrations") for service in SERVICES),
        ("booking", 'SELECT * FROM payments."Outbox"'),
        ("payments", 'SELECT * FROM tracking."Tenant"'),
        ("tracking", 'SELECT * FROM booking."AuditLog"'),
        ("monitor", 'SELECT * FROM tracking."Outbox"'),
        ("tracking_ingest", 'SELECT * FROM tracking."Outbox"'),
        ("tracking_ingest", 'SELECT * FROM tracking."AuditLog"'),
        ("tracking_maintenance", "SET ROLE tracking_owner"),
        ("tracking_maintenance", 'SELECT * FROM booking."Outbox"'),
        ("ops", 'SELECT * FROM tracking."Outbox"'),
        ("ops", 'SELECT * FROM booking."AuditLog"'),
        ("ops", "CREATE TABLE guide.mine (a int)"),
        ("migrator", "CREATE ROLE mine"),
        ("migrator", "CREATE SCHEMA mine"),
        ("migrator", "ALTER ROLE tracking BYPASSRLS"),
    ],
)
def test_a_login_role_cannot(prepared: Database, role: str, statement: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        run(prepared, role, statement)


@pytest.mark.parametrize("role", sorted(NO_LOGINS))
def test_an_owner_cannot_log_in(prepared: Database, role: str) -> None:
    dsn = psycopg.conninfo.make_conninfo(prepared.admin_dsn, user=role, password="any")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(dsn)


def test_only_three_roles_pass_row_level_security(prepared: Database) -> None:
    with psycopg.connect(prepared.admin_dsn) as admin:
        found = admin.execute(
            "SELECT rolname FROM pg_roles WHERE rolbypassrls AND NOT rolsuper"
        ).fetchall()
    assert {name for (name,) in found} == BYPASS_RLS


def test_an_operator_sees_the_statistics_of_every_role(prepared: Database) -> None:
    with psycopg.connect(prepared.dsn("ops")) as ops:
        row = ops.execute("SELECT count(*) FROM pg_stat_statements").fetchone()
    assert row is not None


def test_missing_passwords_are_named_all_at_once() -> None:
    with pytest.raises(BootstrapFailed) as raised:
        passwords({"DRIVEFLOW_OPS_PASSWORD": "x", "DRIVEFLOW_BOOKING_PASSWORD": ""})
    missing = set(str(raised.value).removeprefix("not set: ").split(", "))
    assert missing == {roles.password_variable(role) for role in LOGINS - {"ops"}}


def test_bootstrap_refuses_a_user_who_is_no_superuser(prepared: Database) -> None:
    # Connecting to another database than its own is all that this role may do there.
    with pytest.raises(BootstrapFailed, match="ops is no superuser"):
        bootstrap(prepared.dsn("ops"), PASSWORDS, prepared.name)


def test_default_privileges_grant_nothing(prepared: Database) -> None:
    with psycopg.connect(prepared.admin_dsn) as admin:
        row = admin.execute(sql.SQL("SELECT count(*) FROM pg_default_acl")).fetchone()
    assert row == (0,)
