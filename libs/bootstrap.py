"""The database, its roles, schemas and extensions: what migrations stand on and never touch.

Run by a superuser, as often as one likes: it makes what is missing and puts right what has
drifted, and leaves tables alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import LiteralString

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from libs.failures import Failure

SERVICES = ("booking", "payments", "tracking", "monitor")
DATABASE = "driveflow"
EXTENSIONS = ("pg_stat_statements", "btree_gist")
POSTGRES_VERSION_MIN = 180000
ADVISORY_LOCK = 0x64726976  # "driv": one bootstrap at a time on a server


class BootstrapFailed(Failure):
    """The server can't be prepared; the message says why."""


@dataclass(frozen=True)
class Membership:
    """A role that another belongs to: uses its rights (inherit), may become it (become)."""

    role: str
    inherit: bool = True
    become: bool = False


@dataclass(frozen=True, kw_only=True)
class Role:
    """A role exactly as it must be; anything else that it has is taken away."""

    name: str
    purpose: str
    login: bool = False
    bypass_rls: bool = False
    member_of: tuple[Membership, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)


# A query that outlives its caller, a lock that stops others and a forgotten transaction all end.
SERVICE_LIMITS = {
    "statement_timeout": "5s",
    "lock_timeout": "2s",
    "idle_in_transaction_session_timeout": "10s",
    "transaction_timeout": "30s",
    "client_connection_check_interval": "1s",
}
# Dropping a month waits for readers, and ANALYZE reads for long: no limit on a statement.
MAINTENANCE_LIMITS = {
    "lock_timeout": "2s",
    "idle_in_transaction_session_timeout": "10s",
    "client_connection_check_interval": "1s",
}
STATISTICS = (Membership("pg_monitor"),)

ROLES = (
    *(
        Role(
            name=f"{service}_owner",
            purpose=f"owns the objects of schema {service}",
            member_of=(Membership("pg_read_all_stats"),),
        )
        for service in SERVICES
    ),
    *(
        Role(
            name=service,
            purpose=f"the {service} service",
            login=True,
            member_of=(
                (*STATISTICS, Membership("pg_signal_backend")) if service == "monitor" else ()
            ),
            settings={"search_path": service, **SERVICE_LIMITS},
        )
        for service in SERVICES
    ),
    Role(
        name="tracking_ingest",
        purpose="copies GPS points of many schools in one transaction",
        login=True,
        bypass_rls=True,
        settings={"search_path": "tracking", **SERVICE_LIMITS},
    ),
    Role(
        name="tracking_maintenance",
        purpose="drops and analyzes months of GPS points",
        login=True,
        member_of=(Membership("tracking_owner"),),
        settings={"search_path": "tracking", **MAINTENANCE_LIMITS},
    ),
    Role(
        name="booking_reporting",
        purpose="owns reports over all schools",
        bypass_rls=True,
    ),
    Role(
        name="migrator",
        purpose="runs migrations",
        login=True,
        bypass_rls=True,
        member_of=tuple(
            Membership(owner, become=True)
            for owner in (*(f"{service}_owner" for service in SERVICES), "booking_reporting")
        ),
        settings={"lock_timeout": "5s"},
    ),
    Role(
        name="ops",
        purpose="statistics for operators, no school's data",
        login=True,
        member_of=STATISTICS,
        settings={
            "search_path": "guide, pg_catalog, public, booking, payments, tracking, monitor",
            "statement_timeout": "30s",
            "idle_in_transaction_session_timeout": "60s",
        },
    ),
)
LOGINS = tuple(role.name for role in ROLES if role.login)

# schema -> its owner
SCHEMA_OWNERS = {service: f"{service}_owner" for service in SERVICES} | {"guide": "migrator"}
# schema -> role -> rights on the schema itself; what is in it is granted by migrations
SCHEMA_RIGHTS: Mapping[str, Mapping[str, LiteralString]] = {
    "booking": {
        "booking": "USAGE",
        "booking_reporting": "USAGE, CREATE",
        "monitor": "USAGE",
        "ops": "USAGE",
    },
    "payments": {"payments": "USAGE", "monitor": "USAGE", "ops": "USAGE"},
    "tracking": {
        "tracking": "USAGE",
        "tracking_ingest": "USAGE",
        "monitor": "USAGE",
        "ops": "USAGE",
    },
    "monitor": {"monitor": "USAGE", "ops": "USAGE"},
    "guide": {"ops": "USAGE"},
}


def password_variable(role: str) -> str:
    """Name of the environment variable with a login role's password."""
    return f"DRIVEFLOW_{role.upper()}_PASSWORD"


def passwords(environ: Mapping[str, str]) -> dict[str, str]:
    """The passwords of all login roles; raise BootstrapFailed naming every one that is missing."""
    missing = [name for name in map(password_variable, LOGINS) if not environ.get(name)]
    if missing:
        raise BootstrapFailed("not set: " + ", ".join(missing))
    return {role: environ[password_variable(role)] for role in LOGINS}


def bootstrap(admin_dsn: str, passwords: Mapping[str, str], database: str = DATABASE) -> None:
    """Prepare the server of `admin_dsn` (a superuser) and `database` on it.

    Passwords leave this process as SCRAM verifiers only. Raises BootstrapFailed when the server is
    too old or the user is no superuser.
    """
    with psycopg.connect(make_conninfo(admin_dsn, dbname="postgres"), autocommit=True) as server:
        _require_superuser(server)
        # Taken in one named database, because advisory locks are per database.
        server.execute("SELECT pg_advisory_lock(%s)", [ADVISORY_LOCK])
        with server.transaction():
            for role in ROLES:
                _make_role(server, role, passwords)
            for role in ROLES:
                _set_memberships(server, role)
        _make_database(server, database)
        with psycopg.connect(make_conninfo(admin_dsn, dbname=database)) as inside:
            for role in ROLES:
                _run(
                    inside,
                    "ALTER ROLE {} IN DATABASE {} RESET ALL",
                    sql.Identifier(role.name),
                    sql.Identifier(database),
                )
            _make_schemas(inside)
            for extension in EXTENSIONS:
                _run(
                    inside,
                    "CREATE EXTENSION IF NOT EXISTS {} SCHEMA public",
                    sql.Identifier(extension),
                )


def _require_superuser(server: psycopg.Connection) -> None:
    if server.info.server_version < POSTGRES_VERSION_MIN:
        raise BootstrapFailed(
            f"PostgreSQL 18 or newer is needed, this is {server.info.server_version // 10000}"
        )
    if server.info.parameter_status("is_superuser") != "on":
        raise BootstrapFailed(f"{server.info.user} is no superuser")


def _make_database(server: psycopg.Connection, database: str) -> None:
    known = server.execute("SELECT FROM pg_database WHERE datname = %s", [database]).rowcount
    name = sql.Identifier(database)
    if not known:
        _run(server, "CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'", name)
    _run(server, "ALTER DATABASE {} SET timezone = 'UTC'", name)


def _make_role(server: psycopg.Connection, role: Role, passwords: Mapping[str, str]) -> None:
    name = sql.Identifier(role.name)
    if not server.execute("SELECT FROM pg_roles WHERE rolname = %s", [role.name]).rowcount:
        _run(server, "CREATE ROLE {}", name)
    _run(
        server,
        "ALTER ROLE {} NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION INHERIT {} {}"
        " CONNECTION LIMIT -1 VALID UNTIL 'infinity' PASSWORD {}",
        name,
        sql.SQL("LOGIN" if role.login else "NOLOGIN"),
        sql.SQL("BYPASSRLS" if role.bypass_rls else "NOBYPASSRLS"),
        sql.Literal(_verifier(server, role.name, passwords[role.name]) if role.login else None),
    )
    _run(server, "COMMENT ON ROLE {} IS {}", name, sql.Literal(role.purpose))
    _run(server, "ALTER ROLE {} RESET ALL", name)
    for setting, value in role.settings.items():
        _run(server, "ALTER ROLE {} SET {} = {}", name, sql.Identifier(setting), _value(value))


def _set_memberships(server: psycopg.Connection, role: Role) -> None:
    wanted = {membership.role for membership in role.member_of}
    granted = server.execute(
        "SELECT roleid::regrole::text, grantor::regrole::text FROM pg_auth_members"
        " WHERE member = %s::text::regrole",
        [role.name],
    ).fetchall()
    for other, grantor in granted:
        if other not in wanted:
            _run(
                server,
                "REVOKE {} FROM {} GRANTED BY {} CASCADE",
                *map(sql.Identifier, (other, role.name, grantor)),
            )
    for membership in role.member_of:
        _run(
            server,
            "GRANT {} TO {} WITH ADMIN FALSE, INHERIT {}, SET {}",
            sql.Identifier(membership.role),
            sql.Identifier(role.name),
            sql.SQL("TRUE" if membership.inherit else "FALSE"),
            sql.SQL("TRUE" if membership.become else "FALSE"),
        )


def _make_schemas(inside: psycopg.Connection) -> None:
    _run(inside, "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    for schema, owner in SCHEMA_OWNERS.items():
        name = sql.Identifier(schema)
        _run(inside, "CREATE SCHEMA IF NOT EXISTS {}", name)
        _run(inside, "ALTER SCHEMA {} OWNER TO {}", name, sql.Identifier(owner))
        strangers = [role.name for role in ROLES if role.name != owner]
        _run(inside, "REVOKE ALL ON SCHEMA {} FROM PUBLIC, {}", name, _names(strangers))
        for role, rights in SCHEMA_RIGHTS[schema].items():
            _run(inside, "GRANT {} ON SCHEMA {} TO {}", sql.SQL(rights), name, sql.Identifier(role))


def _verifier(server: psycopg.Connection, role: str, password: str) -> str:
    return server.pgconn.encrypt_password(
        password.encode(), role.encode(), b"scram-sha-256"
    ).decode()


def _value(value: str) -> sql.Composable:
    """A setting's value; a list (of schemas) is one literal for each of its parts."""
    return sql.SQL(", ").join(sql.Literal(part.strip()) for part in value.split(","))


def _names(names: Sequence[str]) -> sql.Composable:
    return sql.SQL(", ").join(map(sql.Identifier, names))


def _run(connection: psycopg.Connection, statement: LiteralString, *parts: sql.Composable) -> None:
    connection.execute(sql.SQL(statement).format(*parts))


def unexpected_powers(connection: psycopg.Connection) -> Iterator[str]:
    """One sentence for each role that can do more, or less, than it should."""
    expected = {role.name: role for role in ROLES}
    rows = connection.execute(
        "SELECT rolname, rolsuper, rolbypassrls, rolcanlogin FROM pg_roles WHERE rolname = ANY(%s)",
        [list(expected)],
    ).fetchall()
    for name in sorted(expected.keys() - {row[0] for row in rows}):
        yield f"role {name} is missing"
    for name, superuser, bypass_rls, login in rows:
        if superuser:
            yield f"role {name} is a superuser"
        if bypass_rls != expected[name].bypass_rls:
            yield f"role {name} {'has' if bypass_rls else 'lacks'} BYPASSRLS"
        if login != expected[name].login:
            yield f"role {name} {'can' if login else 'cannot'} log in"
