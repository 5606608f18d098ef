"""The services look alike, and what holds for one statement, RPC or error holds for all."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from google.type import date_pb2
from grpc_tools import protoc

from driveflow.access.v1 import access_pb2
from libs import access
from libs.bootstrap import SERVICES
from libs.errors import DomainError
from libs.local.paths import ROOT
from tests import statements, walking
from tests.statements import Statement

STATEMENTS = [each for path in statements.FILES for each in statements.read(path)]
FILES_OF_ALL = {"__init__.py", "__main__.py", "migrations"}
FILES_WITH_RPCS = {*FILES_OF_ALL, "servicer", "model", "store", "messages", "queries"}
"""A module, or a folder of the same name where one file would be too long."""
MODULES = sorted([*ROOT.glob("libs/**/*.py"), *ROOT.glob("services/**/*.py")])


KEYWORDS_IN_CALLS = re.compile(
    r"\bextract\s*\(\s*\w+\s+from\b|\bnormalize\s*\([^()']*,\s*nf|::date\s*[-+]\s*\d+(?!\d|::)",
    re.IGNORECASE,
)


def named(statement: Statement) -> str:
    return str(statement)


# --- files and imports -------------------------------------------------------------------------


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_has_the_same_files(service: str) -> None:
    folder = ROOT / "services" / service
    has_rpcs = (ROOT / "protos" / "driveflow" / service).exists()
    wanted = FILES_WITH_RPCS if has_rpcs else FILES_OF_ALL
    there = {path.name for path in folder.iterdir() if path.name != "__pycache__"}
    if has_rpcs:
        there |= {path.stem for path in folder.iterdir()}
    assert wanted <= there
    assert has_rpcs or there == wanted


def test_no_module_is_a_drawer_for_odds_and_ends() -> None:
    drawers = re.compile(r"util|common|helper|manager|misc")
    assert [path for path in MODULES if drawers.search(path.stem)] == []


def test_libs_know_no_service_and_services_do_not_know_each_other() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in MODULES
        for module in imports(path)
        if module.startswith("services.") and Path(*module.split(".")[:2]) not in parents(path)
    ]
    assert wrong == []


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (f"{alias.name}." for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parents(path: Path) -> set[Path]:
    return set(path.relative_to(ROOT).parents)


# --- queries -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [path for path in statements.FILES if path.name != "shared.sql"],
    ids=lambda path: f"{path.parts[-2]}.{path.stem}",
)
def test_every_query_has_a_store_function_of_its_name(path: Path) -> None:
    tree = ast.parse(statements.store(path).read_text())
    functions = {
        node.name
        for node in tree.body
        if isinstance(node, ast.AsyncFunctionDef) and not node.name.startswith("_")
    }
    assert functions == {statement.name for statement in statements.read(path)}


def test_a_name_says_which_query_it_is() -> None:
    names = [str(each) for each in STATEMENTS]
    assert sorted(names) == sorted(set(names))


def test_no_statement_and_no_request_skips_rows_by_counting_them() -> None:
    codes = {str(each): re.sub(r"--.*", "", each.text) for each in STATEMENTS}
    assert [name for name, code in codes.items() if re.search(r"(?i)\boffset\b", code)] == []
    fields = {field.name for each in walking.methods() for field in each.input_type.fields}
    assert fields & {"skip", "offset", "page", "page_number"} == set()


def test_every_query_is_used() -> None:
    code = "\n".join(path.read_text() for path in MODULES)
    used = {name for pair in re.findall(r'\b(?:SQL|SHARED)\.(\w+)|"(\w+)"', code) for name in pair}
    assert [str(each) for each in STATEMENTS if each.name not in used] == []


@pytest.mark.parametrize("statement", STATEMENTS, ids=named)
def test_a_statement_casts_its_parameters_and_names_its_columns(statement: Statement) -> None:
    code = re.sub(r"--.*", "", statement.text)
    assert re.findall(r"%\(\w+\)s(?!::\w)", code) == []
    assert re.findall(r"%s|%\w", code) == []
    # date '2026-01-01' stops a plan from being kept by the driver's name of the type.
    assert re.findall(r"(?i)\b(?:date|timestamptz?|interval|uuid)\s+'", code) == []
    assert re.findall(r"(?i)select\s+(?:\w+\.)?\*", code) == []
    # As pg_stat_statements keeps it, a parameter for each constant, PostgreSQL must read it again:
    # extract($1 FROM x) it can't; pg_catalog.extract('epoch', x) is the same function.
    assert re.findall(KEYWORDS_IN_CALLS, code) == []
    assert statement.comment.strip("- \n")


@pytest.mark.parametrize("statement", STATEMENTS, ids=named)
def test_a_statement_reaches_the_callers_school_alone(statement: Statement) -> None:
    if statement.platform is None:
        assert list(statements.unbound(statement.text, statements.tables_with_org())) == []


def test_the_statements_that_reach_further_say_why(capsys: pytest.CaptureFixture[str]) -> None:
    further = [each for each in STATEMENTS if each.platform is not None]
    with capsys.disabled():
        print("\nstatements beyond one school:")
        for each in further:
            print(f"  {each}: {each.platform}")
    assert all(each.platform for each in further)


@pytest.mark.parametrize(
    "text",
    [
        'SELECT id FROM "Trip" WHERE id = %(id)s::uuid',
        'SELECT id FROM "Trip" WHERE "orgId" = %(org_id)s::uuid OR id = %(id)s::uuid',
        'SELECT id FROM "Trip" WHERE NOT ("orgId" = %(org_id)s::uuid)',
        'SELECT id FROM "Trip" WHERE "orgId" <> %(org_id)s::uuid',
        'SELECT id FROM "Trip" WHERE "orgId" = %(other)s::uuid',
        'SELECT 1 FROM "Trip" t JOIN "TripPoint" p ON p."tripId" = t.id'
        ' WHERE t."orgId" = %(org_id)s::uuid',
        'SELECT 1 FROM "Trip" t, "TripPoint" p WHERE "orgId" = %(org_id)s::uuid',
        'SELECT (SELECT count(*) FROM "Trip") FROM "TripPoint" WHERE "orgId" = %(org_id)s::uuid',
        'SELECT 1 FROM "Trip" WHERE "orgId" = %(org_id)s::uuid UNION ALL SELECT 1 FROM "Trip"',
        'WITH t AS (SELECT id FROM "Trip") SELECT id FROM t',
        'UPDATE "Trip" SET version = 1 WHERE id = %(id)s::uuid',
        'DELETE FROM "Trip" USING "TripPoint" AS p WHERE "Trip"."orgId" = %(org_id)s::uuid',
        'INSERT INTO "Trip" (id) VALUES (%(id)s::uuid)',
        'INSERT INTO "Trip" ("orgId", id) VALUES (%(id)s::uuid, %(org_id)s::uuid)',
        'INSERT INTO "Trip" ("orgId") SELECT "orgId" FROM "HeldTripPoint"'
        ' WHERE "orgId" = %(org_id)s::uuid',
        'INSERT INTO "Trip" ("orgId") VALUES (%(org_id)s::uuid)'
        " ON CONFLICT (id) DO UPDATE SET version = 1",
    ],
)
def test_a_statement_that_forgets_the_school_is_found(text: str) -> None:
    assert list(statements.unbound(text, statements.tables_with_org())) != []


# --- contracts ---------------------------------------------------------------------------------


def test_every_rpc_declares_who_may_call_it() -> None:
    for method in walking.methods():
        assert access.rule(method).scope in scopes(), method.full_name


# Reports, which no row is behind, and what has no more than five fields.
WHOLE = {
    "GetBacklog",
    "GetInstructorBalance",
    "GetRevenueReport",
    "GetTripRoute",
    "GetLatestPosition",
    "GetUploadStatus",
    "ListPartitions",
}


def test_whoever_reads_may_say_which_fields_he_wants() -> None:
    reading = ("Get", "BatchGet", "List", "Lookup")
    reads = [each for each in walking.methods() if each.name.startswith(reading)]
    whole = [each for each in reads if "read_mask" not in each.input_type.fields_by_name]
    assert {each.name for each in whole} == WHOLE


# What may be repeated as it is: it does again what is done, or has an id of another name.
REPEATABLE = {
    "ApplyRetention",
    "DiscardParkedEvent",
    "EnsurePartitions",
    "ExportStudentData",
    "ReceiveWebhook",
    "RefreshInstructorStats",
    "ReplayRejectedPoints",
    "ReplayWebhookEvent",
    "RetryParkedEvent",
    "SetLegalHold",
    "SweepUndeliveredEvents",
    "UploadTripPoints",
    "VerifyQueryPlans",
}


def test_whoever_changes_may_name_his_request() -> None:
    changes = [
        each
        for each in walking.methods()
        if not each.GetOptions().HasField("idempotency_level")
        and not (each.client_streaming or each.server_streaming)
    ]
    nameless = [each for each in changes if "request_id" not in each.input_type.fields_by_name]
    assert {each.name for each in nameless} == REPEATABLE


def scopes() -> set[str]:
    return {access.scope_name(number) for number in access_pb2.Scope.values() if number}


def test_everything_in_a_contract_has_a_comment(tmp_path: Path) -> None:
    contracts = [str(path) for path in sorted(ROOT.glob("protos/driveflow/**/*.proto"))]
    compiled = tmp_path / "contracts"
    include = Path(protoc.__file__).with_name("_proto")
    common = Path(date_pb2.__file__).parents[2]
    done = protoc.main(
        [
            "protoc",
            f"-I{ROOT / 'protos'}",
            f"-I{include}",
            f"-I{common}",
            "--include_source_info",
            f"--descriptor_set_out={compiled}",
            *contracts,
        ]
    )
    assert done == 0
    files = descriptor_pb2.FileDescriptorSet.FromString(compiled.read_bytes())
    assert [what for file in files.file for what in uncommented(file)] == []


def uncommented(file: descriptor_pb2.FileDescriptorProto) -> Iterator[str]:
    commented = {
        tuple(place.path)
        for place in file.source_code_info.location
        if place.leading_comments.strip()
    }
    for path, name in declared(file):
        if path not in commented:
            yield f"{file.name}: {name}"


def declared(
    file: descriptor_pb2.FileDescriptorProto,
) -> Iterator[tuple[tuple[int, ...], str]]:
    """Paths in the sense of SourceCodeInfo."""
    yield (2,), "package"
    for place, service in enumerate(file.service):
        yield (6, place), service.name
        for number, method in enumerate(service.method):
            yield (6, place, 2, number), f"{service.name}.{method.name}"
    for place, enum in enumerate(file.enum_type):
        yield from declared_enum((5, place), enum)
    for place, message in enumerate(file.message_type):
        yield from declared_message((4, place), message)


def declared_enum(
    path: tuple[int, ...], enum: descriptor_pb2.EnumDescriptorProto
) -> Iterator[tuple[tuple[int, ...], str]]:
    yield path, enum.name
    for place, value in enumerate(enum.value):
        yield (*path, 2, place), value.name


def declared_message(
    path: tuple[int, ...], message: descriptor_pb2.DescriptorProto
) -> Iterator[tuple[tuple[int, ...], str]]:
    yield path, message.name
    for place, field in enumerate(message.field):
        yield (*path, 2, place), f"{message.name}.{field.name}"
    for place, nested in enumerate(message.nested_type):
        yield from declared_message((*path, 3, place), nested)
    for place, enum in enumerate(message.enum_type):
        yield from declared_enum((*path, 4, place), enum)


# --- errors ------------------------------------------------------------------------------------

ROW = re.compile(r"^\| `([A-Z][A-Z0-9_]+)` \| (\w+) \|", re.MULTILINE)
# Those alone that everybody raises: what a module derives from them has a reason of its own.
KINDS = {
    kind.__name__: kind.code.name
    for kind in walking.subclasses(DomainError)
    if kind.__module__ == DomainError.__module__
}


def test_the_list_of_errors_names_what_the_code_can_raise_and_nothing_else() -> None:
    listed = ROW.findall((ROOT / "docs" / "errors.md").read_text())
    assert sorted(listed) == sorted(raised() | rules())


def raised() -> set[tuple[str, str]]:
    """Reason and code of every error that the code makes."""
    made = {("INTERNAL", "INTERNAL")}
    for path in MODULES:
        for name, text in named_calls(ast.parse(path.read_text())):
            if name == "not_found":
                made.add((f"{text.upper()}_NOT_FOUND", "NOT_FOUND"))
            elif name in KINDS:
                made.add((text, KINDS[name]))
    return made


def named_calls(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """What is called with a text first, and the text; of super().__init__ the known class."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from _named(node, getattr(node.func, "attr", getattr(node.func, "id", "")))
        elif isinstance(node, ast.ClassDef):
            for base, call in itertools.product(node.bases, ast.walk(node)):
                if isinstance(call, ast.Call) and ast.unparse(call.func) == "super().__init__":
                    yield from _named(call, node.name if node.name in KINDS else ast.unparse(base))


def _named(call: ast.Call, name: str) -> Iterator[tuple[str, str]]:
    first = call.args[0] if call.args else None
    if isinstance(first, ast.Constant) and isinstance(first.value, str):
        yield name, first.value


def rules() -> set[tuple[str, str]]:
    """Named rules of the migrations, of functions too; primary keys are identities, no rules."""
    texts = [path.read_text() for path in ROOT.glob("services/*/migrations/*.sql")]
    constraint = re.compile(r"CONSTRAINT (\w+)\s+(CHECK|FOREIGN KEY|UNIQUE|EXCLUDE)")
    # Of tables, whose names are quoted: a view is refreshed, nobody writes to it. An id is no rule.
    unique_index = re.compile(r'CREATE (UNIQUE) INDEX (\w+)\s+ON \w+\."\w+"\s+(?!\("orgId", id\))')
    named = [found for text in texts for found in constraint.findall(text)]
    named += [(name, kind) for text in texts for kind, name in unique_index.findall(text)]
    raised = re.compile(r"RAISE check_violation USING[^;]+CONSTRAINT = '(\w+)'")
    named += [(name, "CHECK") for text in texts for name in raised.findall(text)]
    return {
        (name.upper(), "ALREADY_EXISTS" if kind == "UNIQUE" else "FAILED_PRECONDITION")
        for name, kind in named
    }
