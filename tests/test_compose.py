"""docker-compose.yml and Dockerfile: what can be known of them without a container engine."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from libs.bootstrap import LOGINS, SERVICES, password_variable
from libs.local.paths import ROOT
from libs.settings import PREFIX, Settings
from services.monitor.__main__ import Settings as MonitorSettings
from services.payments.__main__ import Settings as PaymentsSettings
from services.tracking.__main__ import Settings as TrackingSettings

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
CONTAINERS: dict[str, Any] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
SETTINGS: dict[str, type[Settings]] = dict.fromkeys(SERVICES, Settings) | {
    "monitor": MonitorSettings,
    "payments": PaymentsSettings,
    "tracking": TrackingSettings,
}


@pytest.mark.parametrize("service", SERVICES)
def test_every_variable_of_a_service_is_one_of_its_settings(service: str) -> None:
    known = {PREFIX + name.upper() for name in SETTINGS[service].model_fields}
    assert set(CONTAINERS[service]["environment"]) - known == set()


@pytest.mark.parametrize("service", SERVICES)
def test_every_setting_that_a_service_needs_is_given(service: str) -> None:
    needed = {
        PREFIX + name.upper()
        for name, field in SETTINGS[service].model_fields.items()
        if field.is_required()
    }
    assert needed - set(CONTAINERS[service]["environment"]) == set()


def test_the_preparing_job_has_every_password() -> None:
    environment = CONTAINERS["prepare"]["environment"]
    assert {password_variable(role) for role in LOGINS} <= set(environment)


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_waits_for_the_preparing_job(service: str) -> None:
    assert CONTAINERS[service]["depends_on"] == {
        "prepare": {"condition": "service_completed_successfully"}
    }


def test_everything_that_stays_is_health_checked() -> None:
    assert {name for name, each in CONTAINERS.items() if "healthcheck" not in each} == {"prepare"}


def test_images_are_pinned_to_a_release() -> None:
    images = [each["image"] for each in CONTAINERS.values()]
    images += re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    for image in images:
        assert re.search(r":v?\d+\.\d+(\.\d+)?(-\w+)*$", image), image


def test_the_image_does_not_run_as_root() -> None:
    assert re.findall(r"^USER (\S+)", DOCKERFILE, re.MULTILINE) == ["driveflow"]


def test_what_the_image_copies_exists() -> None:
    for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE):
        *sources, _ = line.split()
        for source in sources:
            assert (ROOT / source).exists(), source


def test_what_the_image_copies_is_let_through() -> None:
    let_through = (ROOT / ".dockerignore").read_text().split()
    for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE):
        *sources, _ = line.split()
        for source in sources:
            assert f"!{source}" in let_through


def test_the_database_has_our_configuration() -> None:
    postgres = CONTAINERS["postgres"]
    mounted = [volume.split(":") for volume in postgres["volumes"]]
    ours = next(target for source, target, *_ in mounted if source.endswith("postgresql.conf"))
    assert f"config_file={ours}" in postgres["command"]
    assert (ROOT / "deploy" / "postgres" / "postgresql.conf").exists()


def test_the_example_names_every_variable_that_compose_reads() -> None:
    read = set(re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text()))
    example = re.findall(r"^(\w+)=", (ROOT / "deploy" / "env.example").read_text(), re.MULTILINE)
    assert set(example) == read
