"""What the migrated database itself must say: who may reach what, by which keys, by which index."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pytest
from psycopg import sql

from libs.bootstrap import LOGINS, SERVICES
from tests.postgres import Database

# Tables whose rows are no school's own, and why.
NOT_TENANT_TABLES = {
    "Tenant": "the list of schools that work across schools walks",
    "Outbox": "events of all schools in one order; schools read it through OutboxOfOrg",
    "OutboxHorizon": "how far a service has deleted events of each topic",
    "EventConsumer": "who takes in a service's events",
    "EventCursor": "how far a service has taken in another's events",
    "ParkedEvent": "events whose effect failed",
    "WebhookEvent": "a provider's calls, before it is known whose they are",
    "schema_migrations": "which migrations were applied",
}
# Tenant tables whose keys do not start with orgId, and why.
KEYS_WITHOUT_ORG = {
    "TripPoint": "a fifth of the hottest table's cost; trip ids are made by the database alone",
    "Org": "its id is the school's id",
}
# Foreign keys without an index of their own, and why.
NOT_COVERED = {"ledger_entry_of_account": "accounts are never deleted: nobody has the right to"}
BYPASSING = {"tracking_ingest", "booking_reporting", "migrator"}
# What operators read beside statistics, view -> columns. Only these two cross schemas.
COUNTS = {
    "Outbox": ["service", "topic", "pending", "processed"],
    "AuditLog": ["service", "entityType", "action", "entries"],
}
# index -> (schemas that have it, leading columns)
INDEXES = {
    "idx_trip_lesson": (("tracking",), ["lessonId"]),
    "idx_trip_point_trip_ts": (("tracking",), ["tripId", "ts"]),
    "idx_outbox_topic_processed": (SERVICES, ["topic", "processedAt"]),
    "idx_audit_org_entity": (SERVICES, ["orgId", "entityType", "entityId"]),
    "idx_audit_actor_created": (SERVICES, ["actorUserId", "createdAt"]),
    "outbox_pkey": (SERVICES, ["xactId", "id"]),
    "idx_outbox_pending_aggregate": (
        SERVICES,
        ["aggregateType", "aggregateId", "aggregateVersion"],
    ),
    "gps_upload_pkey": (("tracking",), ["orgId", "subject", "uploadId"]),
    "idx_booking_org_start": (("booking",), ["orgId", "startAt"]),
    "idx_instructor_org_active": (("booking",), ["orgId", "active"]),
    "idx_student_org_name": (("booking",), ["orgId", "fullName"]),
    "idx_booking_instructor_start": (("booking",), ["instructorId", "startAt"]),
    "idx_availability_instructor_day": (("booking",), ["instructorId", "dayOfWeek"]),
    "idx_booking_student_start": (("booking",), ["studentId", "startAt"]),
    "idx_availability_instructor_effective": (
        ("booking",),
        ["instructorId", "effectiveFrom", "effectiveTo"],
    ),
    "idx_availability_exception_instructor_date": (("booking",), ["instructorId", "date"]),
    "idx_booking_status_org_date": (("booking",), ["status", "orgId", "startAt"]),
    "idx_instructor_stats_org": (("booking",), ["orgId"]),
    "idx_payment_org_status": (("payments",), ["orgId", "status"]),
    "idx_payment_org_created_status": (("payments",), ["orgId", "createdAt", "status"]),
    "idx_payment_stripe_intent": (("payments",), ["stripePaymentIntentId"]),
    "idx_payout_instructor_created": (("payments",), ["instructorId", "createdAt"]),
    "idx_payout_stripe_transfer": (("payments",), ["stripeTransferId"]),
    "idx_webhook_event_id": (("payments",), ["eventId"]),
    "idx_webhook_provider_processed": (("payments",), ["provider", "processedAt"]),
    "rejected_point_pkey": (
        ("tracking",),
        ["orgId", "subject", "uploadId", "sequence", "index"],
    ),
}


@dataclass(frozen=True)
class Key:
    """A primary, unique, foreign or exclusion key."""

    table: str
    name: str
    kind: str
    columns: list[str]
    other_columns: list[str] | None
    on_delete: str


@pytest.fixture
def catalog(template: Database) -> Iterator[psycopg.Connection]:
    """The superuser's connection to the migrated database."""
    with psycopg.connect(template.admin_dsn, autocommit=True) as connection:
        yield connection


# --- row-level security ------------------------------------------------------------------------

TABLES = """
SELECT c.relnamespace::regnamespace::text, c.relname, c.relrowsecurity, c.relforcerowsecurity,
       c.relispartition,
       ARRAY(SELECT pg_get_expr(p.polqual, p.polrelid) FROM pg_policy AS p
              WHERE p.polrelid = c.oid AND p.polpermissive AND p.polcmd = '*'
                AND p.polwithcheck IS NULL AND p.polroles = '{0}'),
       EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attname = 'orgId')
  FROM pg_class AS c
 WHERE c.relkind IN ('r', 'p') AND c.relnamespace = ANY (%(schemas)s::regnamespace[])
"""
POLICY = (
    "(\"orgId\" = ( SELECT (NULLIF(current_setting('driveflow.org_id'::text, true),"
    " ''::text))::uuid AS \"nullif\"))"
)


def test_every_tenant_table_and_partition_is_closed_to_other_schools(
    catalog: psycopg.Connection,
) -> None:
    checked = set()
    for schema, name, enabled, forced, partition, policies, has_org in tables(catalog):
        if name in NOT_TENANT_TABLES or (schema == "monitor" and not has_org):
            continue
        is_org = name == "Org"
        assert has_org or is_org, f"{schema}.{name} has no orgId and is no named exception"
        policy = POLICY.replace('"orgId" =', "id =") if is_org else POLICY
        assert (enabled, forced, policies) == (True, True, [policy]), f"{schema}.{name}"
        checked.add("partition" if partition else name)
    assert {"Trip", "TripPoint", "partition", "GpsUpload", "AuditLog"} <= checked


def tables(catalog: psycopg.Connection) -> list[tuple[str, str, bool, bool, bool, list[str], bool]]:
    return catalog.execute(TABLES, {"schemas": list(SERVICES)}).fetchall()


def test_a_partition_made_later_is_closed_as_well(database: Database) -> None:
    with psycopg.connect(database.dsn("tracking"), autocommit=True) as service:
        service.execute("SELECT create_monthly_partition('TripPoint', '2031-05-17')")
    with psycopg.connect(database.admin_dsn, autocommit=True) as admin:
        (made,) = (row for row in tables(admin) if row[1] == "TripPoint_2031_05")
        assert made[2:6] == (True, True, True, [POLICY])
        assert grants_on_partitions(admin) == []


# --- grants ------------------------------------------------------------------------------------


def test_no_login_holds_a_grant_on_a_partition(catalog: psycopg.Connection) -> None:
    assert grants_on_partitions(catalog) == []


def test_a_grant_on_a_partition_would_be_found(catalog: psycopg.Connection) -> None:
    with catalog.transaction(force_rollback=True):
        row = catalog.execute("SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r'")
        (name,) = row.fetchone() or ("",)
        grant = sql.SQL("GRANT SELECT (ts) ON tracking.{} TO tracking")
        catalog.execute(grant.format(sql.Identifier(name)))
        assert grants_on_partitions(catalog) == [("tracking", name)]


def grants_on_partitions(catalog: psycopg.Connection) -> list[tuple[str, str]]:
    """Roles other than those that inherit the owner's rights, with a partition they may touch."""
    return catalog.execute(
        """
        SELECT r.rolname, c.relname
          FROM pg_roles AS r CROSS JOIN pg_class AS c
         WHERE c.relispartition AND c.relkind = 'r' AND r.rolname = ANY (%(logins)s)
           AND NOT pg_has_role(r.rolname, c.relowner, 'USAGE')
           AND (has_table_privilege(r.oid, c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE,'
                                    ' REFERENCES, TRIGGER, MAINTAIN')
                OR has_any_column_privilege(r.oid, c.oid, 'SELECT, INSERT, UPDATE, REFERENCES'))
        """,
        {"logins": list(LOGINS)},
    ).fetchall()


def test_public_may_do_nothing_in_our_schemas(catalog: psycopg.Connection) -> None:
    found = catalog.execute(
        """
        SELECT c.relname::text FROM pg_class AS c CROSS JOIN aclexplode(c.relacl) AS a
         WHERE a.grantee = 0 AND c.relnamespace = ANY (%(schemas)s::regnamespace[])
        UNION ALL
        SELECT p.proname::text
          FROM pg_proc AS p
          CROSS JOIN aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a
         WHERE a.grantee = 0 AND p.pronamespace = ANY (%(schemas)s::regnamespace[])
        UNION ALL
        SELECT n.nspname::text FROM pg_namespace AS n CROSS JOIN aclexplode(n.nspacl) AS a
         WHERE a.grantee = 0 AND n.oid = ANY (%(schemas)s::regnamespace[])
        """,
        {"schemas": [*SERVICES, "guide"]},
    ).fetchall()
    assert found == []


def test_services_own_nothing_and_never_truncate(catalog: psycopg.Connection) -> None:
    found = catalog.execute(
        """
        SELECT r.rolname, c.relname FROM pg_roles AS r CROSS JOIN pg_class AS c
         WHERE r.rolname = ANY (%(roles)s) AND c.relnamespace = ANY (%(schemas)s::regnamespace[])
           AND c.relkind IN ('r', 'p', 'v', 'm')
           AND (c.relowner = r.oid OR has_table_privilege(r.oid, c.oid, 'TRUNCATE, TRIGGER'))
        """,
        {"roles": [*SERVICES, "tracking_ingest", "ops"], "schemas": list(SERVICES)},
    ).fetchall()
    assert found == []


def test_no_service_reaches_the_schema_of_another(catalog: psycopg.Connection) -> None:
    found = catalog.execute(
        "SELECT r.rolname, n.nspname FROM pg_roles AS r CROSS JOIN pg_namespace AS n"
        " WHERE r.rolname = ANY (%(services)s) AND n.nspname = ANY (%(services)s)"
        "   AND r.rolname <> n.nspname AND has_schema_privilege(r.oid, n.oid, 'USAGE, CREATE')"
        "   AND r.rolname <> 'monitor'",
        {"services": list(SERVICES)},
    ).fetchall()
    assert found == []


def test_the_monitor_reads_counters_and_asks_for_plans_of_others_and_no_more(
    catalog: psycopg.Connection,
) -> None:
    schemas = {"schemas": [name for name in SERVICES if name != "monitor"]}
    relations = catalog.execute(
        """
        SELECT c.relname, c.relkind = 'S' AND has_sequence_privilege('monitor', c.oid, 'SELECT')
               AND NOT has_sequence_privilege('monitor', c.oid, 'USAGE, UPDATE')
          FROM pg_class AS c
         WHERE c.relnamespace = ANY (%(schemas)s::regnamespace[])
           AND CASE WHEN c.relkind = 'S' THEN true
               WHEN c.relkind IN ('r', 'p', 'v', 'm')
               THEN has_any_column_privilege('monitor', c.oid, 'SELECT, INSERT, UPDATE, REFERENCES')
                 OR has_table_privilege('monitor', c.oid, 'DELETE, TRUNCATE, TRIGGER, MAINTAIN')
               ELSE false END
        """,
        schemas,
    ).fetchall()
    assert relations
    assert all(counter for _, counter in relations), relations
    functions = catalog.execute(
        "SELECT DISTINCT p.proname FROM pg_proc AS p"
        " WHERE p.pronamespace = ANY (%(schemas)s::regnamespace[])"
        "   AND has_function_privilege('monitor', p.oid, 'EXECUTE')",
        schemas,
    ).fetchall()
    assert functions == [("explain",)]
    for schema in schemas["schemas"]:
        row = catalog.execute("SELECT has_schema_privilege('monitor', %s, 'CREATE')", [schema])
        assert row.fetchone() == (False,)


def test_only_the_named_roles_pass_row_level_security(catalog: psycopg.Connection) -> None:
    rows = catalog.execute(
        "SELECT rolname FROM pg_roles WHERE (rolbypassrls OR rolsuper) AND rolname = ANY (%s)",
        [[*LOGINS, "booking_reporting", *(f"{service}_owner" for service in SERVICES)]],
    ).fetchall()
    assert {name for (name,) in rows} == BYPASSING


def test_the_ingest_role_can_store_points_and_move_marks_and_no_more(
    catalog: psycopg.Connection,
) -> None:
    rows = catalog.execute(
        """
        SELECT table_name, privilege_type, array_agg(column_name::text ORDER BY column_name)
          FROM information_schema.column_privileges
         WHERE grantee = 'tracking_ingest' GROUP BY 1, 2
        """
    ).fetchall()
    held = {(table, right): columns for table, right, columns in rows}
    assert set(held) == {
        ("TripPoint", "INSERT"),
        ("GpsUpload", "SELECT"),
        ("GpsUpload", "UPDATE"),
    }
    assert held["GpsUpload", "UPDATE"] == ["durableThrough", "updatedAt"]


def test_functions_that_run_as_their_owner_fix_their_search_path(
    catalog: psycopg.Connection,
) -> None:
    rows = catalog.execute(
        "SELECT p.proname, p.proconfig FROM pg_proc AS p"
        " WHERE p.prosecdef AND p.pronamespace = ANY (%(schemas)s::regnamespace[])",
        {"schemas": list(SERVICES)},
    ).fetchall()
    assert "create_monthly_partition" in {name for name, _ in rows}
    for name, settings in rows:
        assert "search_path=pg_catalog, pg_temp" in settings, name


def test_views_over_tenant_tables_run_as_their_caller_or_filter_themselves(
    catalog: psycopg.Connection,
) -> None:
    rows = catalog.execute(
        "SELECT c.relname, c.reloptions, pg_get_viewdef(c.oid) FROM pg_class AS c"
        " WHERE c.relkind = 'v' AND c.relnamespace = ANY (%(schemas)s::regnamespace[])",
        {"schemas": list(SERVICES)},
    ).fetchall()
    for name, options, definition in rows:
        invoker = "security_invoker=true" in (options or [])
        filtered = "security_barrier=true" in (options or []) and "driveflow.org_id" in definition
        assert invoker or filtered, name


def test_two_views_pass_row_level_security_and_count_and_no_others_cross_schemas(
    catalog: psycopg.Connection,
) -> None:
    crossing = catalog.execute(
        """
        SELECT DISTINCT v.relnamespace::regnamespace::text, v.relname, v.relowner::regrole::text,
               'security_barrier=true' = ANY (v.reloptions),
               ARRAY(SELECT attname::text FROM pg_attribute
                      WHERE attrelid = v.oid AND attnum > 0 ORDER BY attnum)
          FROM pg_depend AS d
          JOIN pg_rewrite AS w ON w.oid = d.objid AND d.classid = 'pg_rewrite'::regclass
          JOIN pg_class AS v ON v.oid = w.ev_class
          JOIN pg_class AS t ON t.oid = d.refobjid AND d.refclassid = 'pg_class'::regclass
         WHERE t.relnamespace <> v.relnamespace AND v.relnamespace <> 'public'::regnamespace
           AND t.relnamespace = ANY (%(schemas)s::regnamespace[])
        """,
        {"schemas": [*SERVICES, "guide"]},
    ).fetchall()
    views = [("guide", name, "migrator", True, columns) for name, columns in COUNTS.items()]
    assert sorted(crossing) == sorted(views)
    bypassing = catalog.execute(
        "SELECT c.relnamespace::regnamespace::text, c.relname FROM pg_class AS c"
        " JOIN pg_roles AS r ON r.oid = c.relowner"
        " WHERE c.relkind IN ('v', 'm') AND r.rolbypassrls AND NOT r.rolsuper"
    ).fetchall()
    assert sorted(bypassing) == [
        ("booking", "instructor_stats"),
        ("guide", "AuditLog"),
        ("guide", "Outbox"),
        ("guide", "pg_stat_user_indexes"),
    ]


def test_an_operator_reads_the_guides_views_and_nothing_else_of_ours(
    catalog: psycopg.Connection,
) -> None:
    found = catalog.execute(
        """
        SELECT c.relnamespace::regnamespace::text, c.relname,
               has_table_privilege('ops', c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE, TRIGGER')
          FROM pg_class AS c
         WHERE c.relnamespace = ANY (%(schemas)s::regnamespace[])
           AND CASE WHEN c.relkind = 'S' THEN has_sequence_privilege('ops', c.oid, 'SELECT, USAGE')
               WHEN c.relkind IN ('r', 'p', 'v', 'm')
               THEN has_any_column_privilege('ops', c.oid, 'SELECT, INSERT, UPDATE, REFERENCES')
               ELSE false END
        """,
        {"schemas": [*SERVICES, "guide"]},
    ).fetchall()
    assert sorted(found) == [
        ("guide", "AuditLog", False),
        ("guide", "Outbox", False),
        ("guide", "pg_stat_user_indexes", False),
    ]
    row = catalog.execute(
        "SELECT count(*) FROM pg_proc WHERE pronamespace = ANY (%(schemas)s::regnamespace[])"
        " AND has_function_privilege('ops', oid, 'EXECUTE')",
        {"schemas": [*SERVICES, "guide"]},
    ).fetchone()
    assert row == (0,)


# --- keys --------------------------------------------------------------------------------------

KEYS = """
SELECT t.relname, k.conname, k.contype,
       ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY AS u (number, place)
               JOIN pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = u.number
              ORDER BY u.place),
       CASE WHEN k.contype = 'f' THEN
       ARRAY(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY AS u (number, place)
               JOIN pg_attribute AS a ON a.attrelid = k.confrelid AND a.attnum = u.number
              ORDER BY u.place) END,
       k.confdeltype
  FROM pg_constraint AS k
  JOIN pg_class AS t ON t.oid = k.conrelid
 WHERE k.contype IN ('p', 'u', 'f', 'x') AND NOT t.relispartition
   AND t.relnamespace = ANY (%(schemas)s::regnamespace[])
   AND (t.relnamespace <> 'monitor'::regnamespace OR EXISTS (
        SELECT FROM pg_attribute AS a WHERE a.attrelid = t.oid AND a.attname = 'orgId'))
UNION ALL
SELECT t.relname, i.relname, 'u',
       ARRAY(SELECT a.attname::text
               FROM unnest(x.indkey::int2[]) WITH ORDINALITY AS u (number, place)
               JOIN pg_attribute AS a ON a.attrelid = t.oid AND a.attnum = u.number
              ORDER BY u.place), NULL, ' '
  FROM pg_index AS x
  JOIN pg_class AS i ON i.oid = x.indexrelid
  JOIN pg_class AS t ON t.oid = x.indrelid
 WHERE x.indisunique AND NOT t.relispartition
   AND NOT EXISTS (SELECT FROM pg_constraint AS k WHERE k.conindid = i.oid)
   AND t.relnamespace = ANY (%(schemas)s::regnamespace[])
   AND (t.relnamespace <> 'monitor'::regnamespace OR EXISTS (
        SELECT FROM pg_attribute AS a WHERE a.attrelid = t.oid AND a.attname = 'orgId'))
"""


def keys(catalog: psycopg.Connection) -> list[Key]:
    rows = catalog.execute(KEYS, {"schemas": list(SERVICES)}).fetchall()
    found = [Key(*row) for row in rows]
    return [key for key in found if key.table not in NOT_TENANT_TABLES | KEYS_WITHOUT_ORG]


def test_every_key_names_the_school_so_that_none_tells_of_another(
    catalog: psycopg.Connection,
) -> None:
    checked = keys(catalog)
    assert {"p", "u", "f"} <= {key.kind for key in checked}
    for key in checked:
        # A unique index with a name of the guide keeps the guide's columns first, orgId last.
        ends = {key.columns[0]} | ({key.columns[-1]} if key.name.startswith("idx_") else set())
        assert "orgId" in ends, key


def test_foreign_keys_carry_the_school_in_one_place_and_never_unset_it(
    catalog: psycopg.Connection,
) -> None:
    for key in keys(catalog):
        if key.kind == "f":
            # An id alone is the key of the school's own row: there it is what others call orgId.
            other = ["orgId"] if key.other_columns == ["id"] else key.other_columns or []
            assert key.columns.index("orgId") == other.index("orgId"), key
            assert key.on_delete not in ("n", "d"), key


def test_every_foreign_key_is_covered_by_an_index(catalog: psycopg.Connection) -> None:
    found = catalog.execute(
        """
        SELECT k.conrelid::regclass::text, k.conname
          FROM pg_constraint AS k
         WHERE k.contype = 'f' AND k.connamespace = ANY (%(schemas)s::regnamespace[])
           AND NOT EXISTS (
               SELECT FROM pg_index AS i
                 JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
                WHERE i.indrelid = k.conrelid AND i.indisvalid
                  AND (i.indpred IS NULL OR NOT a.attnotnull AND
                       pg_get_expr(i.indpred, i.indrelid) = format('(%%I IS NOT NULL)', a.attname))
                  AND ((i.indkey::int2[])[0:cardinality(k.conkey) - 1] @> k.conkey
                       -- The guide fixes how its indexes begin: with a student's id, say, which
                       -- finds the row by itself, for no id is used twice.
                       OR a.attname <> 'orgId' AND cardinality(k.conkey) = 2
                          AND a.attnum = ANY (k.conkey)))
        """,
        {"schemas": list(SERVICES)},
    ).fetchall()
    assert {name for _, name in found} == set(NOT_COVERED)


def test_the_schema_keeps_to_what_a_distributed_one_allows(catalog: psycopg.Connection) -> None:
    """No user triggers, one level of partitions, no serial columns of tenant tables."""
    schemas = {"schemas": list(SERVICES)}
    triggers = catalog.execute(
        "SELECT tgname FROM pg_trigger AS g JOIN pg_class AS c ON c.oid = g.tgrelid"
        " WHERE NOT g.tgisinternal AND c.relnamespace = ANY (%(schemas)s::regnamespace[])",
        schemas,
    ).fetchall()
    nested = catalog.execute(
        "SELECT relname FROM pg_class WHERE relispartition AND relkind = 'p'"
        " AND relnamespace = ANY (%(schemas)s::regnamespace[])",
        schemas,
    ).fetchall()
    identities = catalog.execute(
        "SELECT DISTINCT c.relname FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid"
        " WHERE a.attidentity <> '' AND c.relnamespace = ANY (%(schemas)s::regnamespace[])",
        schemas,
    ).fetchall()
    assert (triggers, nested) == ([], [])
    assert {name for (name,) in identities} <= set(NOT_TENANT_TABLES)


def test_tables_that_point_at_tenant_tables_are_tenant_tables(catalog: psycopg.Connection) -> None:
    rows = catalog.execute(
        "SELECT t.relname, f.relname FROM pg_constraint AS k"
        " JOIN pg_class AS t ON t.oid = k.conrelid JOIN pg_class AS f ON f.oid = k.confrelid"
        " WHERE k.contype = 'f' AND k.connamespace = ANY (%(schemas)s::regnamespace[])",
        {"schemas": list(SERVICES)},
    ).fetchall()
    for table, other in rows:
        assert (table in NOT_TENANT_TABLES) == (other in NOT_TENANT_TABLES), (table, other)


# --- indexes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", INDEXES)
def test_the_indexes_of_the_schema_exist_with_their_leading_columns(
    catalog: psycopg.Connection, name: str
) -> None:
    schemas, columns = INDEXES[name]
    rows = catalog.execute(
        """
        SELECT c.relnamespace::regnamespace::text,
               ARRAY(SELECT pg_get_indexdef(c.oid, place, false)
                       FROM generate_series(1, i.indnkeyatts) AS place)
          FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
         WHERE c.relname = %(name)s AND i.indisvalid
        """,
        {"name": name},
    ).fetchall()
    assert {schema for schema, _ in rows} == set(schemas)
    for _, found in rows:
        assert [column.strip('"') for column in found][: len(columns)] == columns
