"""`driveflow token` and `driveflow keys`: what they print opens exactly what it should."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from libs import issuer
from libs.access import Verifier
from libs.calls import Caller
from libs.settings import Settings


def driveflow(*arguments: object, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.prefix) / "bin" / "driveflow", *map(str, arguments)],
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "200"} | environ,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    assert driveflow("keys", folder).returncode == 0
    return folder


async def verified(keys: Path, token: str) -> Caller:
    verifier = Verifier(str(keys / "jwks.json"), issuer=issuer.ISSUER, audience=issuer.AUDIENCE)
    return await verifier.verify(token.strip())


async def test_a_token_is_the_environments_schools_with_every_tenant_scope(keys: Path) -> None:
    org, key = uuid.uuid4(), keys / "token_key.pem"
    printed = driveflow("token", "--key", key, DRIVEFLOW_ORG_ID=str(org)).stdout
    caller = await verified(keys, printed)
    assert caller.org_id == org
    assert caller.scopes == set(issuer.TENANT_SCOPES)


def test_without_a_stack_a_school_must_be_named(keys: Path) -> None:
    done = driveflow("token", "--key", keys / "token_key.pem")
    assert done.returncode != 0
    assert "name a school by --org" in done.stderr


async def test_an_operators_token_names_no_school(keys: Path) -> None:
    org = str(uuid.uuid4())
    done = driveflow("token", "--ops", "--key", keys / "token_key.pem", DRIVEFLOW_ORG_ID=org)
    printed = done.stdout
    caller = await verified(keys, printed)
    assert caller.org_id is None
    assert caller.scopes == set(issuer.OPS_SCOPES)


async def test_school_subject_scopes_and_lifetime_are_as_told(keys: Path) -> None:
    org = uuid.uuid4()
    printed = driveflow(
        "token", "--key", keys / "token_key.pem", "--org", org, "--subject", "gateway-7",
        "--scope", "tracking:read", "--scope", "tracking:write", "--ttl", "5m",
    ).stdout  # fmt: skip
    caller = await verified(keys, printed)
    assert (caller.org_id, caller.subject) == (org, "gateway-7")
    assert caller.scopes == {"tracking:read", "tracking:write"}
    assert caller.expires_at - time.time() == pytest.approx(300, abs=30)


def test_keys_made_twice_stay_the_same(keys: Path) -> None:
    before = (keys / "token_key.pem").read_text(), (keys / "jwks.json").read_text()
    assert driveflow("keys", keys).returncode == 0
    assert ((keys / "token_key.pem").read_text(), (keys / "jwks.json").read_text()) == before
    assert (keys / "token_key.pem").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--ttl", "soon"], "not like 30s"),
        (["--key", "nowhere.pem"], "does not exist"),
        (["--key", __file__, "--ops"], "not the PEM"),
    ],
)
def test_what_is_wrong_is_said_without_a_traceback(
    keys: Path, arguments: list[str], complaint: str
) -> None:
    done = driveflow("token", *arguments, DRIVEFLOW_TOKEN_KEY=str(keys / "token_key.pem"))
    assert done.returncode != 0
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_tokens_are_what_services_expect_unless_told_otherwise() -> None:
    assert Settings.model_fields["token_issuer"].default == issuer.ISSUER
    assert Settings.model_fields["token_audience"].default == issuer.AUDIENCE
