"""Migrations: made from one template where they are the same, sound in their text, and applied."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from libs import migrations
from libs.bootstrap import SERVICES
from libs.migrations import MigrationFailed, lint
from tests.postgres import Database

UP, DOWN = "-- migrate:up\n", "\n-- migrate:down\n"
TABLE = 'CREATE TABLE tracking."X" ("orgId" uuid);\n'
OWNER = 'ALTER TABLE tracking."X" OWNER TO tracking_owner;\n'
SECURITY = 'ALTER TABLE tracking."X" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;\n'
POLICY = 'CREATE POLICY org_only ON tracking."X" USING (true);\n'


@pytest.fixture
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Migrations of the test's own instead of the services'."""
    monkeypatch.setattr(migrations, "SERVICES_FOLDER", tmp_path)
    folder = migrations.folder("monitor")
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("name", migrations.SHARED)
@pytest.mark.parametrize("service", SERVICES)
def test_shared_migrations_are_what_their_templates_say(service: str, name: str) -> None:
    path = migrations.folder(service) / name
    assert path.read_text() == migrations.render_shared(name, service)


@pytest.mark.parametrize("service", SERVICES)
def test_migrations_are_sound(service: str) -> None:
    assert list(lint.lint(migrations.folder(service))) == []


def test_nothing_is_pending_after_migrating(database: Database) -> None:
    with psycopg.connect(database.admin_dsn) as admin:
        assert list(migrations.pending(admin)) == []
    assert list(migrations.migrate(database.dsn("migrator"))) == []


def test_everything_is_pending_before_migrating(database: Database) -> None:
    with psycopg.connect(database.admin_dsn) as admin:
        admin.execute("DROP TABLE monitor.schema_migrations")
        assert list(migrations.pending(admin, ["monitor"])) == [
            f"monitor/{path.name}" for path in sorted(migrations.folder("monitor").glob("*.sql"))
        ]


def test_every_table_belongs_to_its_services_owner(database: Database) -> None:
    with psycopg.connect(database.admin_dsn) as admin:
        strays = admin.execute(
            "SELECT relnamespace::regnamespace::text, relname, relowner::regrole::text"
            " FROM pg_class WHERE relnamespace::regnamespace::text = ANY(%s)"
            " AND relkind IN ('r', 'p', 'v', 'm', 'S') AND relname <> 'schema_migrations'"
            " AND relowner::regrole::text <> relnamespace::regnamespace::text || '_owner'",
            [list(SERVICES)],
        ).fetchall()
    # Its owner passes row security: a view that adds up all schools would else stay empty.
    assert strays == [("booking", "instructor_stats", "booking_reporting")]


def test_a_school_sees_only_its_own_events_through_the_view(database: Database) -> None:
    mine, other = "0a000000-0000-7000-8000-000000000001", "0b000000-0000-7000-8000-000000000002"
    with psycopg.connect(database.dsn("tracking")) as tracking:
        for org in (mine, other):
            tracking.execute(
                'INSERT INTO "Outbox" ("orgId", "aggregateType", "aggregateId",'
                ' "aggregateVersion", topic, type, payload)'
                " VALUES (%s, 'trip', uuidv7(), 1, 'trip', 'trip.completed', '{}')",
                [org],
            )
        assert tracking.execute('SELECT FROM "OutboxOfOrg"').rowcount == 0
        tracking.execute("SELECT set_config('driveflow.org_id', %s, true)", [mine])
        assert tracking.execute('SELECT "orgId"::text FROM "OutboxOfOrg"').fetchall() == [(mine,)]


def test_a_refused_migration_is_named_with_the_reason(
    database: Database, own_folders: Path
) -> None:
    (own_folders / "20990101000000_wrong.sql").write_text(
        UP + 'CREATE TABLE monitor."X" (a innteger);' + DOWN
    )
    with pytest.raises(MigrationFailed, match=r"monitor/20990101000000_wrong.sql: .*innteger"):
        list(migrations.migrate(database.dsn("migrator"), ["monitor"]))


def test_a_database_that_does_not_answer_is_named_without_its_password() -> None:
    with pytest.raises(MigrationFailed, match="connection refused") as raised:
        list(migrations.migrate("postgresql://migrator:secret@127.0.0.1:1/driveflow", wait_s=1))
    assert "secret" not in str(raised.value)


def test_migrations_run_over_a_unix_socket(database: Database) -> None:
    embedded = database.server.embedded
    if embedded is None:
        pytest.skip("the server is not embedded")
    dsn = psycopg.conninfo.make_conninfo(database.dsn("migrator"), host=str(embedded.socket_folder))
    assert list(migrations.migrate(dsn)) == []


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        (TABLE + OWNER + SECURITY + POLICY, None),
        (TABLE + SECURITY + POLICY, "OWNER TO"),
        (TABLE + OWNER + POLICY, "not ENABLE ROW LEVEL SECURITY"),
        (TABLE + OWNER + SECURITY.replace(", FORCE ROW LEVEL SECURITY", "") + POLICY, "not FORCE"),
        (TABLE + OWNER + SECURITY, "no policy"),
        ('CREATE TABLE "X" (a int);', "name the schema"),
        ("CREATE TABLE IF NOT EXISTS a.b (c int); ALTER TABLE a.b OWNER TO x;", "another shape"),
        ("CREATE VIEW a.b AS SELECT 1;", "OWNER TO"),
        ("ALTER DEFAULT PRIVILEGES IN SCHEMA a GRANT SELECT ON TABLES TO b;", "ALTER DEFAULT"),
        ("GRANT ALL ON a.b TO c;", "by name"),
        ("CREATE INDEX ON a.b (c);", "name the index"),
        ("CREATE UNIQUE INDEX ON a.b (c);", "name the index"),
        ("CREATE INDEX CONCURRENTLY i ON a.b (c);", "transaction:false"),
        ("CREATE ROLE a;", "bootstrap"),
        ("CREATE TRIGGER a BEFORE INSERT ON b EXECUTE FUNCTION c();", "no triggers"),
        ("CREATE TABLE a.b PARTITION OF a.c DEFAULT;", "ATTACH"),
        ("ALTER TABLE a.b ADD FOREIGN KEY (c) REFERENCES a.d ON DELETE SET NULL;", "orgId"),
        ("-- CREATE ROLE a;\nSELECT 'CREATE ROLE b', $$CREATE ROLE c$$;", None),
    ],
)
def test_the_linter_finds(text: str, finding: str | None) -> None:
    found = list(lint.findings(UP + text + DOWN))
    if finding is None:
        assert found == []
    else:
        assert any(finding in each for each in found)


def test_the_linter_wants_both_marks_and_nothing_downwards() -> None:
    assert list(lint.findings("SELECT 1;")) != []
    assert list(lint.findings(UP + "SELECT 1;")) != []
    assert list(lint.findings(UP + "SELECT 1;" + DOWN + "SELECT 2;")) != []


def test_the_linter_wants_names_in_order_and_versions_once(own_folders: Path) -> None:
    for name in ("20990101000000_a.sql", "20990101000000_b.sql", "a.sql"):
        (own_folders / name).write_text(UP + DOWN)
    assert list(lint.lint(own_folders)) == [
        "monitor/20990101000000_b.sql: has the version of 20990101000000_a.sql",
        "monitor/a.sql: is not named like 20260131120000_what_it_does.sql",
    ]


def test_an_apostrophe_in_a_comment_hides_nothing() -> None:
    comment = "-- it can't\n"
    assert list(lint.findings(UP + comment + TABLE + OWNER + SECURITY + POLICY + DOWN)) == []
    assert list(lint.findings(UP + comment + TABLE + OWNER + SECURITY + DOWN)) != []
