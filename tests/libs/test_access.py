"""Only authorised calls run: whatever a token is, no other reaches the database."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import jwt
import psycopg
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import MethodDescriptor

from driveflow.access.v1 import access_pb2
from driveflow.tracking.v1 import tracking_pb2 as pb
from libs import access, calls, issuer, scoped
from libs.access import Rule, Verifier
from libs.calls import Caller
from libs.client import refusal
from libs.errors import DomainError, PermissionDenied, Unauthenticated
from tests import walking
from tests.booking import serving as booking_serving
from tests.monitor import serving as monitor_serving
from tests.monitor.serving import Monitor
from tests.postgres import Database
from tests.serving import SCHOOL, Running, Tracking, serving

REFUSED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
ALL_SCOPES = (*issuer.TENANT_SCOPES, *issuer.OPS_SCOPES)
TRACKING = ("driveflow.tracking.v1.TrackingService",)
BOOKING = ("driveflow.booking.v1.BookingService", "driveflow.booking.v1.DirectoryService")


def base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def unsigned(header: Mapping[str, Any], claims: Mapping[str, Any]) -> str:
    return ".".join(base64url(json.dumps(part).encode()) for part in (header, claims))


def claims(**changes: object) -> dict[str, Any]:
    """What a good token says, with changes; None takes a claim away."""
    now = int(time.time())
    good = {
        "iss": issuer.ISSUER,
        "aud": issuer.AUDIENCE,
        "sub": "test",
        "iat": now,
        "exp": now + 300,
        "scope": " ".join(ALL_SCOPES),
        "org_id": str(SCHOOL),
    }
    return {name: value for name, value in (good | changes).items() if value is not None}


def signed(key: str, header: Mapping[str, Any] | None = None, **changes: object) -> str:
    """A token with a true signature over whatever it says."""
    head = {"alg": "EdDSA", "typ": "JWT", "kid": kid(key)} | dict(header or {})
    text = unsigned({name: value for name, value in head.items() if value}, claims(**changes))
    private: Any = load_pem_private_key(key.encode(), None)
    return f"{text}.{base64url(private.sign(text.encode()))}"


def kid(key: str) -> str:
    return str(json.loads(issuer.jwks(key))["keys"][0]["kid"])


def confused(key: str, algorithm: str) -> str:
    """Signed by HMAC with the public key, which everybody has, as its secret."""
    public = json.loads(issuer.jwks(key))["keys"][0]
    text = unsigned({"alg": algorithm, "typ": "JWT", "kid": public["kid"]}, claims())
    secret = base64.urlsafe_b64decode(public["x"] + "=")
    return f"{text}.{base64url(hmac.digest(secret, text.encode(), hashlib.sha256))}"


def bad_tokens(key: str) -> Iterator[tuple[str, str | None]]:
    """Every way not to be let in that we could think of."""
    now = int(time.time())
    good = signed(key)
    head, body, signature = good.split(".")
    yield "none", None
    yield "empty", ""
    yield "garbage", "garbage"
    yield "dots", ".."
    yield "not base64", "a.b.c"
    yield "without signature", f"{head}.{body}."
    yield "signature of another", f"{head}.{body}.{signed(key, sub='x').split('.')[2]}"
    yield "changed claims", f"{head}.{base64url(json.dumps(claims(sub='x')).encode())}.{signature}"
    yield "algorithm none", unsigned({"alg": "none", "kid": kid(key)}, claims()) + "."
    yield "algorithm None", unsigned({"alg": "None", "kid": kid(key)}, claims()) + "."
    yield "algorithm missing", signed(key, {"alg": ""})
    yield "HMAC with the public key", confused(key, "HS256")
    yield "RSA by name", signed(key, {"alg": "RS256"})
    yield "ECDSA by name", signed(key, {"alg": "ES256"})
    yield "critical header", signed(key, {"crit": ["exp"]})
    yield "key within", signed(issuer.new_key(), {"kid": "", "jwk": "own"})
    yield "unknown key", signed(issuer.new_key())
    yield "another's key by our name", signed(issuer.new_key(), {"kid": kid(key)})
    yield "no key named", signed(key, {"kid": ""})
    yield "key by number", signed(key, {"kid": 7})
    yield "key by list", signed(key, {"kid": [kid(key)]})
    yield "expired", signed(key, exp=now - 1)
    yield "expires in words", signed(key, exp="tomorrow")
    yield "of the future", signed(key, iat=now + 3_600)
    yield "not yet", signed(key, nbf=now + 3_600)
    yield "another audience", signed(key, aud="another")
    yield "audience of many others", signed(key, aud=["a", "b"])
    yield "another issuer", signed(key, iss="https://another.example/")
    for name in ("exp", "iat", "aud", "iss", "sub"):
        yield f"without {name}", signed(key, **{name: None})
    yield "nobody", signed(key, sub="")
    yield "endless name", signed(key, sub="x" * 201)
    yield "name of NULs", signed(key, sub="\0")
    yield "school in words", signed(key, org_id="school")
    yield "school by number", signed(key, org_id=7)
    yield "no school's id", signed(key, org_id=str(uuid.UUID(int=0)))
    yield "scopes as list", signed(key, scope=["tracking:read"])
    yield "no scope", signed(key, scope=None)
    yield "other scope", signed(key, scope="other:read")
    yield "scope by prefix", signed(key, scope="tracking monitor ops")
    yield "scope in capitals", signed(key, scope=" ".join(ALL_SCOPES).upper())


SERVE: dict[str, Any] = {
    "tracking": serving,
    "booking": booking_serving.serving,
    "monitor": monitor_serving.serving,
}


@pytest.fixture(params=[*SERVE])
async def service(
    request: pytest.FixtureRequest, database: Database, tmp_path: Path
) -> AsyncIterator[Running]:
    """Each service with its own methods and those that all serve."""
    async with SERVE[request.param](database, tmp_path) as running:
        yield running


def methods_of(service: Running) -> list[MethodDescriptor]:
    if isinstance(service, Monitor):
        return walking.methods("driveflow.monitor.v1.MonitorService")
    of_its_own = TRACKING if isinstance(service, Tracking) else BOOKING
    return walking.methods(*of_its_own, "driveflow.events.v1.EventService")


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The SQL that was sent for calls, from now on; what the service does by itself is left out."""
    sent: list[str] = []
    execute = psycopg.AsyncCursor.execute

    async def watched(cursor: Any, query: Any, *args: Any, **options: Any) -> Any:
        if calls.current() is not None:
            sent.append(str(query))
        return await execute(cursor, query, *args, **options)

    trip = scoped.Connection._trip

    async def watched_trip(conn: Any, batch: Any, **options: Any) -> Any:
        sent.extend(str(each.statement.text) for each in batch if calls.current() is not None)
        return await trip(conn, batch, **options)

    monkeypatch.setattr(psycopg.AsyncCursor, "execute", watched)
    monkeypatch.setattr(scoped.Connection, "_trip", watched_trip)
    return sent


async def test_no_bad_token_gets_into_any_method(service: Running, statements: list[str]) -> None:
    methods = methods_of(service)
    kinds = {(m.client_streaming, m.server_streaming) for m in methods}
    assert len(kinds) >= 2
    async with walking.channel(service.address) as channel:
        for what, token in bad_tokens(service.key):
            metadata = () if token is None else walking.bearer(token)
            for method in methods:
                answer = await walking.call(channel, method, metadata=metadata)
                assert answer.code in REFUSED, (what, method.name, answer)
                assert answer.responses == ()
    assert statements == []


async def test_each_method_needs_its_own_scope_and_no_other(
    service: Running, statements: list[str]
) -> None:
    async with walking.channel(service.address) as channel:
        for method in methods_of(service):
            rule = access.rule(method)
            others = [scope for scope in ALL_SCOPES if scope != rule.scope]
            token = service.token(None if rule.platform else SCHOOL, tuple(others))
            answer = await walking.call(channel, method, metadata=walking.bearer(token))
            assert answer.refusal is not None
            assert answer.refusal.reason == "SCOPE_MISSING", method.name
            assert answer.refusal.metadata == {"scope": rule.scope}
    assert statements == []


async def test_a_good_token_is_seen_by_the_watch_on_statements(
    tracking: Tracking, statements: list[str]
) -> None:
    await tracking.start_trip()
    assert any("tracking.start_trip" in statement for statement in statements)


async def test_a_stream_ends_when_its_token_expires(tracking: Tracking) -> None:
    trip = await tracking.start_trip()
    stub = tracking.stub(tracking.token(ttl=timedelta(seconds=2)))
    began = time.monotonic()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in stub.WatchTrip(pb.WatchTripRequest(trip_id=trip.id)):
            pass
    assert refusal(caught.value).reason == "TOKEN_EXPIRED"
    assert time.monotonic() - began < 5


async def test_a_token_that_was_good_is_refused_once_it_has_expired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = issuer.new_key()
    verifier = await verifier_of(tmp_path, key)
    token = signed(key)
    assert (await verifier.verify(token)).org_id == SCHOOL
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 301)
    with pytest.raises(Unauthenticated, match="expired"):
        await verifier.verify(token)


async def verifier_of(folder: Path, *keys: str) -> Verifier:
    (folder / "jwks.json").write_text(issuer.jwks(*keys))
    verifier = Verifier(str(folder / "jwks.json"), issuer=issuer.ISSUER, audience=issuer.AUDIENCE)
    await verifier.load()
    return verifier


async def test_a_new_key_counts_without_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = issuer.new_key(), issuer.new_key()
    verifier = await verifier_of(tmp_path, old)
    monkeypatch.setattr(access, "JWKS_REFRESH_S", 0)
    (tmp_path / "jwks.json").write_text(issuer.jwks(old, new))
    assert (await verifier.verify(signed(new))).subject == "test"
    assert (await verifier.verify(signed(old))).subject == "test"


async def test_a_key_that_was_taken_away_stops_counting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stolen, new = issuer.new_key(), issuer.new_key()
    verifier = await verifier_of(tmp_path, stolen)
    (tmp_path / "jwks.json").write_text(issuer.jwks(new))
    # Nobody has used the new key yet: the old one must go all the same.
    monkeypatch.setattr(access, "JWKS_REFRESH_S", 0)
    monkeypatch.setattr(access, "JWKS_FRESH_S", 0)
    with pytest.raises(Unauthenticated, match="not valid"):
        await verifier.verify(signed(stolen))


async def test_a_broken_key_file_leaves_the_known_keys_in_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = issuer.new_key()
    verifier = await verifier_of(tmp_path, key)
    monkeypatch.setattr(access, "JWKS_REFRESH_S", 0)
    monkeypatch.setattr(access, "JWKS_FRESH_S", 0)
    for broken in ("", "{}", "[]", '{"keys": [{"kty": "EC"}]}', '{"keys": 7}'):
        (tmp_path / "jwks.json").write_text(broken)
        with pytest.raises(Unauthenticated):
            await verifier.verify(signed(issuer.new_key()))
        assert (await verifier.verify(signed(key, sub=f"after {broken}"))).org_id == SCHOOL


async def test_keys_are_not_read_again_for_every_token_that_names_an_unknown_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verifier = await verifier_of(tmp_path, issuer.new_key())
    reads: list[None] = []
    monkeypatch.setattr(verifier, "_fetch", lambda: reads.append(None))
    for _ in range(50):
        with pytest.raises(Unauthenticated):
            await verifier.verify(signed(issuer.new_key()))
    assert reads == []


async def test_a_secret_key_in_the_key_file_verifies_nothing(tmp_path: Path) -> None:
    """A JWKS may hold keys of other uses; only the pinned algorithms count."""
    secret = {"kty": "oct", "kid": "shared", "alg": "HS256", "k": base64url(b"s" * 32)}
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": [secret]}))
    verifier = Verifier(str(tmp_path / "jwks.json"), issuer=issuer.ISSUER, audience="driveflow")
    await verifier.load()
    token = jwt.encode(claims(), b"s" * 32, "HS256", headers={"kid": "shared"})
    with pytest.raises(Unauthenticated):
        await verifier.verify(token)


@pytest.mark.parametrize(
    ("platform", "org_id", "scopes", "reason"),
    [
        (False, SCHOOL, {"a"}, None),
        (False, None, {"a"}, "ORG_REQUIRED"),
        (True, None, {"a"}, None),
        (True, SCHOOL, {"a"}, "ORG_REFUSED"),
        (True, None, {"b"}, "SCOPE_MISSING"),
        (False, SCHOOL, set(), "SCOPE_MISSING"),
    ],
)
def test_a_rule_lets_in_the_right_caller_only(
    platform: bool, org_id: uuid.UUID | None, scopes: set[str], reason: str | None
) -> None:
    caller = Caller("test", org_id, frozenset(scopes), 0)
    refused: DomainError | None = None
    try:
        Rule("a", platform).allow(caller)
    except PermissionDenied as error:
        refused = error
    assert (refused.reason if refused else None) == reason


def test_a_method_that_says_not_who_may_call_it_stops_the_start() -> None:
    file = descriptor_pb2.FileDescriptorProto(name="undeclared.proto", package="undeclared")
    file.message_type.add(name="Nothing")
    method = file.service.add(name="Service").method.add(name="Do")
    method.input_type = method.output_type = ".undeclared.Nothing"
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    undeclared = pool.FindServiceByName("undeclared.Service").methods[0]
    with pytest.raises(access.AccessUndeclared, match=r"undeclared\.Service\.Do"):
        access.rule(undeclared)


def test_every_scope_of_the_contract_is_one_that_tokens_can_carry() -> None:
    names = {access.scope_name(number) for number in access_pb2.Scope.values() if number}
    assert names == set(ALL_SCOPES)
