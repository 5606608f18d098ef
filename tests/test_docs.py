"""What the documentation says of the code is so."""

from __future__ import annotations

import hashlib
import inspect
import os
import re
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from driveflow.tracking.v1 import tracking_pb2 as pb
from libs.bootstrap import ROLES
from libs.gateway import dense_track
from libs.local.paths import ROOT
from libs.settings import PREFIX, Settings
from services.monitor.__main__ import Settings as MonitorSettings
from services.monitor.checks import ALL
from services.payments.__main__ import Settings as PaymentsSettings
from services.tracking import drive
from services.tracking.__main__ import Settings as TrackingSettings
from services.tracking.ingest.judging import REASONS
from tests import guide, walking

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
TRACKING = (ROOT / "docs" / "tracking.md").read_text()
SETTING = re.compile(rf"^\| `{PREFIX}(\w+)` \| (.+?) \| .+ \|$", re.MULTILINE)
GUIDE = (ROOT / "docs" / "guide.md").read_text()
ITEMS = [*(f"S{number}" for number in range(1, 82)), *(f"B{number}" for number in range(1, 38))]
METHODS = {f"{method.containing_service.name}/{method.name}" for method in walking.methods()}
# What makes tables, indexes and constraints; the index that the guide calls BAD is a bench's.
MIGRATIONS = "\n".join(
    path.read_text()
    for path in (*ROOT.glob("services/*/migrations/*.sql"), ROOT / "bench" / "plans.py")
)
# Words of the guide and of SQL, roles, fields that all requests have.
OTHER_WORDS = {
    "org_id", "trip_id", "idx_…", "LIKE '%Booking%'", "LIKE", "lower()", "_", "+00", "ops", "guide",
    "read_mask", "page_token", "page_size", "etag", "tablename", "indexname",
    "TripPoint_2025_01",
    "getSlowQueries", "getConnectionCount", "checkIndexHealth", "getTableStats",
}  # fmt: skip
INSTRUMENT = re.compile(r'"((?:driveflow|rpc\.server|db\.client)\.[a-z_.]+)",\s+"(?:[s{]|By")')
KINDS = (TrackingSettings, PaymentsSettings, MonitorSettings)
NUMBER = re.compile(r"\d[\d,]*")
T0_US = 1_767_603_600_000_000


def test_the_tables_of_settings_are_those_of_the_code() -> None:
    common = len(Settings.model_fields)
    listed = [(name.lower(), default) for name, default in SETTING.findall(OPERATIONS)]
    assert listed[:common] == defaults(Settings)
    of_services = [defaults(kind)[common:] for kind in KINDS]
    assert listed[common:] == [*chain(*of_services)]


def defaults(kind: type[Settings]) -> list[tuple[str, str]]:
    return [
        (name, "required" if field.is_required() else written(field.default))
        for name, field in kind.model_fields.items()
    ]


def written(default: object) -> str:
    if default is None:
        return "none"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def test_every_metric_is_listed() -> None:
    modules = [*ROOT.glob("libs/**/*.py"), *ROOT.glob("services/**/*.py")]
    made = {name for path in modules for name in INSTRUMENT.findall(path.read_text())}
    assert made
    assert made == set(re.findall(r"^\| `([a-z]+\.[a-z_.]+)` \|", OPERATIONS, re.MULTILINE))


def test_every_check_is_explained_with_its_first_threshold() -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text()
    section = page.partition("## Checks")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([a-z_]+)` \| .+ \| (.+) \|$", section, re.MULTILINE)
    assert {name for name, _ in rows} == {each.question.name for each in ALL}
    told = {name: [float(n.replace(",", "")) for n in NUMBER.findall(text)] for name, text in rows}
    for each in ALL:
        thresholds = each.question.thresholds
        wanted = [at for at in (thresholds.warning_at, thresholds.critical_at) if at is not None]
        scale = 60.0 if " min" in dict(rows)[each.question.name] else 1.0
        assert told[each.question.name][0] * scale == wanted[0], each.question.name
        assert len(told[each.question.name]) == len(wanted), each.question.name


def test_every_role_is_listed() -> None:
    section = OPERATIONS.partition("## Roles")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.+?) \| (yes|no) \|", section, re.MULTILINE)
    listed = {
        name: login == "yes" for names, login in rows for name in re.findall("`(.+?)`", names)
    }
    assert listed == {role.name: role.login for role in ROLES}


def test_the_roles_that_see_all_schools_are_named_in_the_security_page() -> None:
    security = (ROOT / "SECURITY.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (?:yes|no) \|", security, re.MULTILINE)
    assert sorted(rows) == sorted(role.name for role in ROLES if role.bypass_rls)


def test_every_reason_to_reject_a_point_is_explained_in_order_of_judgement() -> None:
    section = TRACKING.partition("## Which points are stored")[2].partition("\n## ")[0]
    assert tuple(re.findall(r"^\| `([A-Z_]+)` \|", section, re.MULTILINE)) == REASONS[1:]


def test_every_driving_event_is_explained() -> None:
    kinds = {name.removeprefix("DRIVING_EVENT_KIND_") for name in pb.DrivingEventKind.keys()[1:]}
    assert kinds <= set(re.findall(r"^\| `([A-Z_]+)` \|", TRACKING, re.MULTILINE))


def test_every_figure_of_a_summary_is_explained() -> None:
    section = TRACKING.partition("## What a trip tells")[2].partition("**The hash**")[0]
    listed = re.findall(r"^\| `([a-z_]+)` \|", section, re.MULTILINE)
    assert listed == [field.name for field in pb.TripSummary.DESCRIPTOR.fields]


def test_the_bytes_of_the_dense_example_are_right() -> None:
    track = dense_track(
        "",
        [T0_US, T0_US + 1_000_000, T0_US + 2_000_000],
        [-33.8688, -33.86871, -33.868615],
        [151.2093, 151.20931, 151.209322],
        [36.0, 37.25, None],
    )
    assert pb.DenseTrack.FromString(example(0)) == track.dense


def test_the_hash_of_the_example_is_right_and_the_rule_is_the_codes() -> None:
    points = drive.Points(
        np.array([T0_US, T0_US + 1_000_000, T0_US + 2_000_000]),
        np.array([-33_868_800, -33_868_710, -33_868_615]),
        np.array([151_209_300, 151_209_310, 151_209_322]),
        np.array([3600, 3725, -1]),
    )
    assert drive.points_hash(points) == example(2)
    assert hashlib.sha256(example(1)).digest() == example(2)
    quoted = " ".join(re.sub(r"^> ?", "", TRACKING, flags=re.MULTILINE).split())
    assert " ".join((inspect.getdoc(drive.points_hash) or "-").split()) in quoted


def example(number: int) -> bytes:
    return bytes.fromhex(re.findall(r"```hex\n(.+?)```", TRACKING, re.DOTALL)[number])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.skipif("DRIVEFLOW_GUIDE" not in os.environ, reason="DRIVEFLOW_GUIDE names no file")
def test_the_copy_of_the_guides_statements_is_the_guides() -> None:
    assert guide.statements() == guide.statements_of(Path(os.environ["DRIVEFLOW_GUIDE"]))


# --- the guide, item by item -------------------------------------------------------------------


def test_every_item_of_the_guide_has_a_row_in_order_and_what_holds_it() -> None:
    rows = re.findall(r"^\| ([SB]\d+) \|(.+)\|$", GUIDE, re.MULTILINE)
    assert [item for item, _ in rows] == ITEMS
    for item, row in rows:
        assert "`tests/" in row or "`bench/" in row or "**Not built**" in row, item


def test_what_a_row_of_the_guide_names_is_there() -> None:
    named = set(re.findall(r"`([^`\n]+)`", GUIDE))
    for name in named:
        assert is_there(name), name
    assert {"idx_booking_org_start", "BookingService/ListBookings", '"TripPoint"'} <= named


def is_there(name: str) -> bool:
    """Whether something of this name exists, by what it looks like."""
    if re.fullmatch(r"[A-Z]\w+Service/\w+", name):
        return name in METHODS
    if "/" in name:
        return (ROOT / name).exists()
    if name.startswith(PREFIX):
        return name.removeprefix(PREFIX).lower() in Settings.model_fields
    if re.fullmatch(r"(driveflow|rpc|db)(\.\w+)+", name):
        return f"| `{name}` |" in OPERATIONS
    if re.fullmatch(r'"\w+"|idx_\w+|\w+_(?:overlap|pkey|stats|partition)', name):
        return re.search(rf"\b{name.strip(chr(34))}\b", MIGRATIONS) is not None
    return name in OTHER_WORDS or name in {each.question.name for each in ALL}
