"""Fixtures that every test may use."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from libs import scoped, telemetry
from tests import postgres
from tests.postgres import Database, Server
from tests.serving import Tracking, serving

# A busy machine is no failure.
hypothesis.settings.register_profile("suite", deadline=None, max_examples=60)
hypothesis.settings.load_profile("suite")


def pytest_report_header() -> str:
    """Say which database server the run uses."""
    return f"PostgreSQL: {postgres.backend()} (DRIVEFLOW_TEST_DSN, DRIVEFLOW_TEST_BACKEND)"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """What is traced, as if to a collector: every call, unless its caller says no."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    state = telemetry._State(tracer=provider.get_tracer("test"))
    monkeypatch.setattr(telemetry, "_state", state)
    return exporter


@pytest.fixture
def trips(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What left together, from now on."""
    left: list[list[str]] = []
    trip = scoped.Connection._trip

    async def watched(conn: Any, batch: Any, **options: Any) -> Any:
        left.append([each.statement.observe.name for each in batch])
        return await trip(conn, batch, **options)

    monkeypatch.setattr(scoped.Connection, "_trip", watched)
    return left


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """The database server of the run."""
    with postgres.running_server() as server:
        yield server


@pytest.fixture(scope="session")
def template(postgres_server: Server) -> Iterator[Database]:
    """A bootstrapped and migrated database that nobody writes to."""
    database = postgres.make_template(postgres_server)
    yield database
    postgres.drop(database)


@pytest.fixture
def database(template: Database) -> Iterator[Database]:
    """A database of the test's own: `database.dsn("tracking")`, `database.admin_dsn`."""
    with postgres.copied(template) as copy:
        yield copy


@pytest.fixture
def crashable_database() -> Iterator[Database]:
    """A database on a server of the test's own: `crashable_database.server.embedded.kill9()`."""
    with postgres.embedded_server(postgres.in_memory()) as server:
        yield postgres.make_template(server)


@pytest.fixture
async def tracking(database: Database, tmp_path: Path) -> AsyncIterator[Tracking]:
    """The tracking service in this process, with a clock that the test may move."""
    async with serving(database, tmp_path) as running:
        yield running
