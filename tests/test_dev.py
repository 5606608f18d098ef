"""./dev: the stack comes up, says how to reach it, and goes without leaving anything behind."""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
import pytest
from psycopg.rows import dict_row

from driveflow.tracking.v1 import tracking_pb2 as pb
from libs.bootstrap import DATABASE, SERVICES
from libs.client import Connection
from libs.healthcheck import status
from libs.local.paths import ROOT
from libs.local.postgres import AS_USER, EmbeddedPostgres
from libs.local.stack import METRICS_OFFSET, STRIPE_OFFSET, Stack
from tests import guide, observability
from tests.postgres import free_port

PARTS = ("dev", "libs", "services", "protos", "deploy")
TIMEOUT_S = 120
PORTS = [*range(1, STRIPE_OFFSET + 1), *range(METRICS_OFFSET + 1, METRICS_OFFSET + 5)]


@dataclass(frozen=True)
class Dev:
    """A checkout, a data folder in it and ports of its own."""

    checkout: Path
    name: str
    port_base: int

    @property
    def data(self) -> Path:
        return self.checkout / self.name

    @property
    def stack(self) -> Stack:
        return Stack(self.data)

    def command(self, command: str, *arguments: str) -> list[str]:
        return [str(self.checkout / "dev"), command, "--data", str(self.data), *arguments]

    def run(
        self, command: str, *arguments: str, **environ: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(command, *arguments),
            env=environment() | environ,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )

    def up(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return self.run("up", "--port-base", str(self.port_base), *arguments, **environ)

    def foreground(self) -> subprocess.Popen[str]:
        """An `up` that stays, once it is ready."""
        process = subprocess.Popen(
            self.command("up", "--port-base", str(self.port_base)),
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if "Ctrl-C stops it" in line:
                return process
        process.communicate()
        pytest.fail("".join(said))

    def exports(self) -> dict[str, str]:
        lines = self.run("env").stdout.splitlines()
        words = [shlex.split(line)[1].partition("=") for line in lines]
        return {name: value for name, _, value in words}

    def is_gone(self) -> bool:
        return not self.stack.processes() and self.stack.postgres.postmaster() is None


def environment() -> dict[str, str]:
    """The caller's, without what points to another stack; nothing is installed."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("DRIVEFLOW_")}
    return ours | {"DRIVEFLOW_VENV": sys.prefix}


def remove(dev: Dev) -> None:
    dev.run("down")
    home = (dev.data / "postgres").resolve()
    shutil.rmtree(home, ignore_errors=True)  # elsewhere, where the server's user can't get in here


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project in a path with a space, which the database's user may not enter."""
    folder = tmp_path_factory.mktemp("a drive") / "drive flow"
    folder.mkdir(mode=0o700)
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / part)
    return folder


@pytest.fixture(scope="module")
def running(checkout: Path) -> Iterator[Dev]:
    """A stack that is up; tests leave it so."""
    dev = Dev(checkout, ".driveflow", free_port(PORTS))
    started = dev.up("--detach", DRIVEFLOW_SCHEDULE_S="10")
    assert started.returncode == 0, started.stderr
    yield dev
    remove(dev)


@pytest.fixture(scope="module")
def another(checkout: Path) -> Iterator[Dev]:
    """A second stack, whose data stay between tests: to make them takes most of an `up`."""
    dev = Dev(checkout, "another one", free_port(PORTS))
    yield dev
    remove(dev)
    shutil.rmtree(dev.data, ignore_errors=True)


@pytest.fixture
def other(another: Dev) -> Iterator[Dev]:
    """The second stack, not started."""
    yield another
    another.run("down")


def test_up_returns_when_every_service_serves(running: Dev) -> None:
    assert {status(running.stack.address(service)) for service in SERVICES} == {"SERVING"}


def test_up_again_says_that_it_runs(running: Dev) -> None:
    again = running.up("--detach")
    assert again.returncode == 0
    assert "runs already" in again.stderr


async def test_env_lets_scripts_reach_the_demo_school(running: Dev) -> None:
    exports = running.exports()
    address, token = exports["DRIVEFLOW_TRACKING_ADDR"], exports["DRIVEFLOW_TOKEN"]
    async with Connection(address, token) as connection:
        trips = (await connection.tracking.ListTrips(pb.ListTripsRequest())).trips
    assert len(trips) == 4
    assert trips[0].lesson_verified
    assert all(trip.summary.point_count > 0 for trip in trips)


def test_every_line_that_up_prints_works_when_it_is_pasted(running: Dev) -> None:
    printed = running.up("--detach").stdout
    lines = printed.partition("Try it:\n")[2]
    assert lines.count("grpcurl") >= 6
    pasted = subprocess.run(
        ["bash", "-e"],
        input=lines,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert pasted.returncode == 0, pasted.stderr
    for shown in ("Ruth Novak", "slot_token", "BOOKING_STATUS_", "trip_id", "TripPoint_"):
        assert shown in pasted.stdout


def test_a_restarted_stack_has_the_school_that_it_had(other: Dev) -> None:
    schools = []
    for _ in range(2):
        started = other.up("--detach")
        assert started.returncode == 0, started.stderr
        schools.append(other.exports()["DRIVEFLOW_ORG_ID"])
        count = 'SELECT count(*) FROM booking."Org"'
        assert other.run("psql", "admin", "-Atc", count).stdout == "1\n"
        assert other.run("down").returncode == 0
    assert schools[0] == schools[1]


def test_env_names_what_it_should(running: Dev) -> None:
    assert set(running.exports()) == {
        *(f"DRIVEFLOW_{service.upper()}_ADDR" for service in SERVICES),
        "DRIVEFLOW_TOKEN", "DRIVEFLOW_OPS_TOKEN", "DRIVEFLOW_TOKEN_KEY", "DRIVEFLOW_JWKS",
        "DRIVEFLOW_ADMIN_DSN", "DRIVEFLOW_OPS_DSN", "DRIVEFLOW_ORG_ID",
        "DRIVEFLOW_STRIPE_API",
    }  # fmt: skip


def test_psql_is_the_operators_or_the_superusers(running: Dev) -> None:
    query = ("-Atc", "SELECT current_user")
    assert running.run("psql", "ops", *query).stdout == "ops\n"
    assert running.run("psql", "admin", *query).stdout == "postgres\n"


def test_logs_show_what_a_service_wrote(running: Dev) -> None:
    assert "tracking" in running.run("logs", "tracking").stdout
    assert "ready to accept connections" in running.run("logs", "postgres").stdout


def test_a_doctor_finds_nothing_wrong_with_a_running_stack(running: Dev) -> None:
    done = subprocess.run(
        [running.checkout / "dev", "run", "driveflow", "doctor"],
        env=environment() | running.exports(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAIL" not in done.stdout


# --- what operators read of it -----------------------------------------------------------------


@pytest.fixture
def found(running: Dev) -> dict[str, list[dict[str, object]]]:
    """What each statement of the guide finds as `ops`, while a session waits for another's lock."""
    admin, ops = running.stack.postgres.dsn(database=DATABASE), running.stack.dsn("ops")
    rows = {}
    with (
        psycopg.connect(admin, application_name="holder") as holder,
        psycopg.connect(admin, application_name="waiter") as waiter,
        psycopg.connect(ops, autocommit=True, row_factory=dict_row) as asking,
    ):
        holder.execute('LOCK TABLE monitor."Outbox"')
        waiter.pgconn.send_query(b'SELECT count(*) FROM monitor."Outbox"')
        give_up = time.monotonic() + TIMEOUT_S
        while not asking.execute("SELECT FROM pg_locks WHERE NOT granted").rowcount:
            assert time.monotonic() < give_up
        for statement in guide.statements():
            as_here = statement.replace(guide.DATABASE_OF_THE_GUIDE, DATABASE)
            cursor = asking.execute(as_here.encode())
            rows[guide.title(statement)] = cursor.fetchall() if cursor.description else []
        holder.rollback()
        while waiter.pgconn.get_result():
            pass
    return rows


def test_the_guides_monitoring_statements_run_as_written_and_find_what_they_are_for(
    found: dict[str, list[dict[str, object]]],
) -> None:
    assert len(found) == 11
    patterns = [str(row["query"]) for row in found["Analyze actual query patterns"]]
    assert any("/* booking." in query for query in patterns)
    for title in ("Find slowest queries", "Find most frequent queries"):
        assert len(found[title]) == 20, title
    used = {row["indexname"]: row for row in found["Check index usage"]}
    assert used["idx_booking_org_start"]["tablename"] == "Booking"
    assert used["booking_pkey"]["idx_scan"]
    assert "idx_payment_stripe_intent" in {row["indexname"] for row in found["Check index size"]}
    assert found["Find unused indexes"]
    assert {"active", "idle"} <= {row["state"] for row in found["Monitor active connections"]}
    pairs = [
        (row["blocked_user"], row["blocking_user"]) for row in found["Check for lock contention"]
    ]
    assert ("postgres", "postgres") in pairs
    (sessions,) = found["SELECT COUNT(*) as count"]
    assert isinstance(sessions["count"], int)
    assert sessions["count"] >= 3


def test_an_operator_counts_events_and_audit_entries_over_all_services(running: Dev) -> None:
    with psycopg.connect(running.stack.dsn("ops")) as ops:
        events = ops.execute('SELECT service, topic, pending + processed FROM "Outbox"').fetchall()
        entries = ops.execute('SELECT service, "entityType", action FROM "AuditLog"').fetchall()
    assert ("booking", "booking") in {row[:2] for row in events}
    assert {"booking", "payments", "tracking"} == {row[0] for row in events}
    assert ("booking", "booking", "create") in entries


def test_every_metric_and_label_of_alert_rules_and_dashboard_is_exported(running: Dev) -> None:
    exported: dict[str, set[str]] = {}
    give_up = time.monotonic() + TIMEOUT_S
    # The first report was made before there was any event.
    while "driveflow_outbox_age_seconds" not in exported:
        assert time.monotonic() < give_up
        for service in SERVICES:
            url = f"http://{running.stack.metrics_address(service)}/metrics"
            with urllib.request.urlopen(url, timeout=5) as answer:
                for name, labels in observability.exported(answer.read().decode()).items():
                    exported.setdefault(name, set()).update(labels)
    expressions = observability.expressions()
    assert len(expressions) > 50
    for expression in expressions:
        names = expression.metrics - observability.WITH_A_REPLICA - {"up"}
        assert names <= exported.keys(), expression
        labels = {label for name in names for label in exported[name]}
        if names == expression.metrics - {"up"}:
            assert expression.labels <= labels | observability.OF_THE_SCRAPE, expression


def test_two_stacks_stand_side_by_side(running: Dev, other: Dev) -> None:
    assert other.up("--detach").returncode == 0
    assert other.run("down").returncode == 0
    assert other.is_gone()
    assert running.stack.is_serving()


def test_down_stops_what_a_killed_up_left(other: Dev) -> None:
    foreground = other.foreground()
    foreground.kill()
    foreground.communicate()
    with_stripe = len(SERVICES) + 1
    assert len(other.stack.processes()) == with_stripe
    assert other.run("down").returncode == 0
    assert other.is_gone()


def test_ctrl_c_stops_everything(other: Dev) -> None:
    foreground = other.foreground()
    foreground.send_signal(signal.SIGINT)
    foreground.communicate(timeout=TIMEOUT_S)
    assert foreground.returncode == 130
    assert other.is_gone()


def test_down_ends_an_up_that_stays(other: Dev) -> None:
    foreground = other.foreground()
    assert other.run("down").returncode == 0
    foreground.communicate(timeout=TIMEOUT_S)
    assert other.is_gone()


def test_a_taken_port_is_named_with_the_way_out(other: Dev) -> None:
    with socket.create_server(("127.0.0.1", other.port_base + 3)):
        refused = other.up("--detach")
    assert refused.returncode == 1
    assert f"port {other.port_base + 3} of 127.0.0.1 is taken" in refused.stderr
    assert "--port-base" in refused.stderr


def test_a_service_that_dies_is_named_with_its_last_words(other: Dev) -> None:
    failed = other.up("--detach", DRIVEFLOW_POOL_MAX_SIZE="0")
    assert failed.returncode == 1
    assert "has ended" in failed.stderr
    assert "DRIVEFLOW_POOL_MAX_SIZE" in failed.stderr
    assert other.is_gone()


def test_env_without_a_stack_says_what_to_do(other: Dev) -> None:
    refused = other.run("env")
    assert refused.returncode == 1
    assert refused.stdout == ""
    assert "up --detach" in refused.stderr


def test_a_process_that_has_the_number_of_a_dead_postmaster_is_left_alone(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "postgres", free_port())
    (tmp_path / "postgres" / "cluster").mkdir(parents=True)
    with subprocess.Popen(["sleep", "60"]) as stranger:
        pid_file = tmp_path / "postgres" / "cluster" / "postmaster.pid"
        pid_file.write_text(f"{stranger.pid}\n")
        assert server.postmaster() is None
        server.stop()
        assert stranger.poll() is None
        stranger.kill()


def test_a_service_of_somebody_else_is_left_alone(other: Dev) -> None:
    stranger = [sys.executable, "-c", "input()", "services.booking", str(other.data)]
    with subprocess.Popen(stranger, stdin=subprocess.PIPE, env=environment()) as process:
        assert other.run("down").returncode == 0
        assert psutil.pid_exists(process.pid)
        assert process.poll() is None
        process.kill()


def test_a_folder_too_long_for_a_socket_is_no_hindrance() -> None:
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    server = EmbeddedPostgres(folder / ("long" * 30) / "postgres", free_port())
    try:
        server.start()
        with psycopg.connect(server.dsn(), host=str(server.socket_folder)):
            pass
    finally:
        server.stop()
        shutil.rmtree(server.socket_folder, ignore_errors=True)
        shutil.rmtree(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="is an ordinary user")
def test_an_ordinary_user_can_do_it_too() -> None:
    nobody = pwd.getpwnam("nobody")
    python = Path(sys.executable).resolve()
    if not all(path.stat().st_mode & 0o001 for path in (*ROOT.parents, python, *python.parents)):
        pytest.skip("an ordinary user can't enter this checkout or its Python")
    folder = Path(tempfile.mkdtemp())
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    dev = Dev(ROOT, str(folder / "data"), free_port(PORTS))
    try:
        for command in (
            dev.command("up", "--detach", "--port-base", str(dev.port_base)),
            dev.command("down"),
        ):
            done = subprocess.run(
                # By a program of its own: to change the user, subprocess forks, which a process
                # that speaks gRPC does not always survive.
                [
                    sys.executable,
                    "-c",
                    AS_USER,
                    str(nobody.pw_uid),
                    str(nobody.pw_gid),
                    *command,
                ],
                env=environment() | {"HOME": str(folder)},
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
            )
            assert done.returncode == 0, done.stderr
        assert dev.is_gone()
    finally:
        dev.run("down")
        shutil.rmtree(folder)


@pytest.mark.parametrize("arguments", [[], ["help"], ["--help"]])
def test_help_has_a_line_for_every_command(arguments: list[str]) -> None:
    text = subprocess.run(
        [ROOT / "dev", *arguments], capture_output=True, text=True, check=True
    ).stdout
    for command in ("up", "down", "env", "run", "psql", "logs", "test", "check", "generate"):
        assert f"./dev {command} " in text


def test_an_unknown_command_is_refused() -> None:
    done = subprocess.run([ROOT / "dev", "fly"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "./dev help" in done.stderr
